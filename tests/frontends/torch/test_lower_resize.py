"""Sampling images at other places: resizing, grids, regions of interest."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from planish.frontends.torch import trace

vision = pytest.importorskip("torchvision.ops")

Function = Callable[..., Any]
MODES = ("nearest", "nearest-exact", "bilinear", "bicubic")
SIZES: dict[str, dict[str, Any]] = {
    "twice": {"scale_factor": 2},
    "by fractions": {"scale_factor": (0.6, 2.3)},
    "by a factor computed anew": {"scale_factor": 1.7, "recompute_scale_factor": True},
    "to a size": {"size": (5, 20)},
    "to one": {"size": (1, 1)},
}


def images(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 8, 9),)


def volumes(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 2, 4, 5, 6),)


def sampled(batch: int) -> tuple[Tensor, ...]:
    """Images, places of which some are outside, and affine maps."""
    return torch.randn(batch, 4, 8, 9), torch.rand(batch, 3, 5, 2) * 2.6 - 1.3, torch.randn(batch, 2, 3)


def regions(batch: int) -> tuple[Tensor, ...]:
    """One image, boxes of it, and their scores."""
    corners = torch.rand(batch, 2) * 8
    boxes = torch.cat([corners, corners + 1 + torch.rand(batch, 2) * 8], 1)
    return torch.randn(1, 8, 16, 16), boxes, torch.rand(batch)


def numbered(boxes: Tensor) -> Tensor:
    """Boxes with the number of their image in front."""
    return torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)


def resampling(mode: str) -> dict[str, Function]:
    functions: dict[str, Function] = {
        name: lambda x, how=how: F.interpolate(x, mode=mode, **how) for name, how in SIZES.items()
    }
    if mode.startswith("b"):
        functions |= {
            "aligned": lambda x: F.interpolate(x, scale_factor=2, mode=mode, align_corners=True),
            "aligned to a column": lambda x: F.interpolate(x, size=(5, 1), mode=mode, align_corners=True),
            "smoothed": lambda x: F.interpolate(x, size=(4, 5), mode=mode, antialias=True),
        }
    if mode == "nearest":
        functions |= {
            "in one dimension": lambda x: F.interpolate(x[:, 0], scale_factor=2),
            "linear in one dimension": lambda x: F.interpolate(x[:, 0], scale_factor=1.5, mode="linear"),
        }
    return functions


WAYS = [*product(("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (False, True))]
FEW_WAYS = [("bilinear", "zeros", False), ("nearest", "reflection", False), ("bicubic", "border", True)]
"""Ways to sample that have each mode and padding once."""


def sampling(ways: list[tuple[str, str, bool]]) -> dict[str, Function]:
    return {
        **{
            f"{mode}, {padding}{', aligned' * align}": lambda x, g, t, how=(mode, padding, align): F.grid_sample(
                x, g, *how
            )
            for mode, padding, align in ways
        },
        "affine": lambda x, g, t: F.grid_sample(x, F.affine_grid(t, x.shape, align_corners=False), align_corners=False),
        "affine, aligned": lambda x, g, t: F.affine_grid(t, [x.shape[0], 4, 3, 5], align_corners=True),
    }


VOLUMES: dict[str, Function] = {
    "nearest": nn.Upsample(scale_factor=2),
    "trilinear": nn.Upsample(scale_factor=2, mode="trilinear"),
    "trilinear, aligned": nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True),
    "sampled": lambda x: F.grid_sample(
        x, x[:, :1, ..., :3].permute(0, 2, 3, 4, 1).expand(-1, -1, -1, -1, 3), align_corners=False
    ),
}
REGIONS: dict[str, Function] = {
    "aligned": lambda x, b, s: vision.roi_align(x, numbered(b), (3, 4), 0.5, 2, True),
    "aligned as before": lambda x, b, s: vision.roi_align(x, numbered(b), (3, 4), 0.5, -1, False),
    "pooled": lambda x, b, s: vision.roi_pool(x, numbered(b), (3, 4), 0.5),
    "aligned by position": lambda x, b, s: vision.ps_roi_align(x, numbered(b), 2, 0.5, 2),
    "suppressed": lambda x, b, s: vision.nms(b, s, 0.3),
    "suppressed and used": lambda x, b, s: b[vision.nms(b, s, 0.3)] * 2,
}
SEEDED = torch.Generator().manual_seed(0)
WEIGHT, GROUPED = (torch.randn(6, channels, 3, 3, generator=SEEDED) / 6 for channels in (4, 2))
DEFORMED: dict[str, Function] = {
    "plain": lambda x: vision.deform_conv2d(x, x[:, :1].expand(-1, 18, -1, -1), WEIGHT, padding=1),
    "masked": lambda x: vision.deform_conv2d(
        x, x[:, :1].expand(-1, 18, -1, -1), WEIGHT, torch.ones(6), padding=1, mask=x[:, 1:2].expand(-1, 9, -1, -1)
    ),
    "grouped": lambda x: vision.deform_conv2d(x, x[:, :1].expand(-1, 36, -1, -1), GROUPED, padding=1),
}
FAMILIES: dict[str, tuple[dict[str, Function], Function]] = {
    **{mode: (resampling(mode), images) for mode in MODES},
    "sampled": (sampling(FEW_WAYS), sampled),
    "volumes": (VOLUMES, volumes),
    "deformed": (DEFORMED, images),
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_torchs(holds: Function, family: str, is_symbolic: bool) -> None:
    holds(*FAMILIES[family], is_symbolic)


@pytest.mark.wide
@pytest.mark.parametrize("is_symbolic", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["fixed", "symbolic"])
def test_images_are_sampled_in_all_ways(holds: Function, is_symbolic: bool) -> None:
    holds(sampling(WAYS), sampled, is_symbolic)


def test_regions_are_torchs(holds: Function) -> None:
    holds(REGIONS, regions, False)


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        half = F.interpolate(x, scale_factor=0.5, mode="bilinear")
        return [half, F.interpolate(half, size=x.shape[2:], mode="bicubic"), F.interpolate(x, scale_factor=2.0)]


@pytest.mark.wide
def test_images_of_any_size_are_resized(agrees: Function) -> None:
    graph = trace(Scaled(), images(2), dynamic_shapes=({2: Dim("height", min=4), 3: Dim("width", min=4)},))
    for size in ((8, 9), (11, 6)):
        agrees(graph, Scaled(), (torch.randn(2, 4, *size),))
