"""Pooling and resampling, where torch and ONNX round sizes and places by rules of their own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


POOLS: dict[str, Function] = {
    "max": nn.MaxPool2d(2),
    "max padded, up": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max dilated": nn.MaxPool2d((2, 3), 1, dilation=2),
    "max of one image": lambda x: F.max_pool2d(x[0], 2),
    "max in one dimension": lambda x: F.max_pool1d(x[:, 0], 3, padding=1),
    "max with positions unread": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "average": nn.AvgPool2d(2),
    "average padded": nn.AvgPool2d(3, 2, 1),
    "average without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average up": nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True),
    "average up without padding": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average of one image": lambda x: F.avg_pool2d(x[0], 2),
    "average in one dimension": lambda x: F.avg_pool1d(x[:, 0], 3, 2),
}
ADAPTIVE: dict[str, Function] = {
    "average to one": nn.AdaptiveAvgPool2d(1),
    "average of equal windows": nn.AdaptiveAvgPool2d((4, 3)),
    "average of unequal windows": nn.AdaptiveAvgPool2d((3, 5)),
    "average to more": nn.AdaptiveAvgPool2d(12),
    "average of rows": nn.AdaptiveAvgPool2d((None, 1)),
    "average of columns": nn.AdaptiveAvgPool2d((1, 4)),
    "average to the same": nn.AdaptiveAvgPool2d((8, 9)),
    "average of one image": lambda x: F.adaptive_avg_pool2d(x[0], 1),
    "average in one dimension": lambda x: F.adaptive_avg_pool1d(x[:, 0], 4),
    "max to one": nn.AdaptiveMaxPool2d(1),
    "max of equal windows": nn.AdaptiveMaxPool2d((4, 3)),
    "max in one dimension": lambda x: F.adaptive_max_pool1d(x[:, 0], 3),
}
THREE_DIMENSIONS: dict[str, Function] = {
    "max": nn.MaxPool3d(2),
    "average": nn.AvgPool3d(2),
    "adaptive": nn.AdaptiveAvgPool3d((2, 1, 1)),
    "adaptive to one": nn.AdaptiveAvgPool3d(1),
    "nearest": nn.Upsample(scale_factor=2),
    "trilinear": nn.Upsample(scale_factor=2, mode="trilinear"),
}


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


FAMILIES = {
    "pools": (POOLS, images),
    "adaptive": (ADAPTIVE, images),
    "three dimensions": (THREE_DIMENSIONS, volumes),
    **{mode: (resampling(mode), images) for mode in MODES},
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_torchs(holds: Function, family: str, is_symbolic: bool) -> None:
    holds(*FAMILIES[family], is_symbolic)
