"""What torchvision decides in Python by sizes that only the data tells, said so that `torch.export` can follow.

A detector finds some number of objects. torchvision (0.28 and later) asks how many before it chooses between two ways
to suppress duplicates, and pastes masks one by one. For the time of an export its functions are replaced by ones that
compute the same for every number of objects, none among them. The detectors' tests fail without them until torchvision
can be exported as it is: https://github.com/pytorch/pytorch/issues/118884, https://github.com/pytorch/vision/pull/9395.
"""

import builtins
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@contextmanager
def exportable() -> Generator[None]:
    """Put replacements in the place of functions of the libraries that are loaded, as long as this lasts."""
    with ExitStack() as stack:
        for name, replacements in _REPLACEMENTS.items():
            if name in sys.modules:
                stack.enter_context(_replaced(vars(sys.modules[name]), replacements))
        yield


@contextmanager
def _replaced(names: dict[str, Any], replacements: Mapping[str, Callable[..., Any]]) -> Generator[None]:
    own = {name: names[name] for name in replacements if name in names}
    names.update(replacements)
    try:
        yield
    finally:
        for name in replacements:
            del names[name]
        names.update(own)


def _length(thing: Any) -> Any:
    """Python's `len`, which makes an int of a symbolic size."""
    return thing.shape[0] if isinstance(thing, Tensor) else builtins.len(thing)


def _batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Do `torchvision.ops.batched_nms` by moving each class's boxes to a place of their own, as it does for few."""
    offsets = idxs.to(boxes) * (boxes.max() + 1)
    return torch.ops.torchvision.nms(boxes + offsets[:, None], scores, iou_threshold)


def _paste_masks(masks: Tensor, boxes: Tensor, img_shape: tuple[Any, Any], padding: int = 1) -> Tensor:
    """Torchvision's `paste_masks_in_image` for all masks at once, by two matrices for each that interpolate."""
    heads: Any = sys.modules["torchvision.models.detection.roi_heads"]
    masks, scale = heads.expand_masks(masks, padding=padding)
    left, top, right, bottom = heads.expand_boxes(boxes, scale).to(torch.int64).unbind(1)
    rows = _interpolation(top, bottom, img_shape[0], masks.shape[-2])
    columns = _interpolation(left, right, img_shape[1], masks.shape[-1])
    return rows[:, None] @ masks @ columns[:, None].transpose(-1, -2)


def _interpolation(first: Tensor, last: Tensor, size: Any, samples: int) -> Tensor:
    """What each of `size` pixels takes from samples that are spread over the pixels from `first` to `last`.

    Bilinear without aligned corners, as `interpolate` has it; nothing outside. float[n, size, samples].
    """
    offset = torch.arange(size) - first[:, None]
    length = (last - first + 1).clamp(min=1)[:, None]
    place = ((offset + 0.5) * samples / length - 0.5).clamp(0, samples - 1)
    weights = (1 - (place[..., None] - torch.arange(samples)).abs()).clamp(min=0)
    is_inside = (offset >= 0) & (offset < length)
    return weights * is_inside[..., None]


def _heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    """Torchvision's, for all boxes at once: the place of each map's largest value when it is as large as its box.

    Returns:
        float[n, keypoints, 3], places with their visibility of 1, and float[n, keypoints], the values there.
    """
    sizes = (rois[:, 2:] - rois[:, :2]).clamp(min=1)
    pixels = sizes.ceil()
    width, height = (torch.cat([row, row.new_ones(1)]).max().to(torch.int64).item() for row in pixels.unbind(1))
    across, down = (torch.arange(most) for most in (width, height))
    columns = _cubic(across, pixels[:, :1], maps.shape[-1])
    rows = _cubic(down, pixels[:, 1:], maps.shape[-2])
    resized = rows[:, None] @ functional.pad(maps, (2, 2, 2, 2), mode="replicate") @ columns[:, None].transpose(-1, -2)
    is_inside = (down < pixels[:, 1:])[:, :, None] & (across < pixels[:, :1])[:, None]
    scores, places = resized.masked_fill(~is_inside[:, None], -torch.inf).flatten(2).max(-1)
    found = torch.stack([places % width, torch.div(places, width, rounding_mode="floor")], -1)
    found = (found + 0.5) * (sizes / pixels)[:, None] + rois[:, None, :2]
    return torch.cat([found, torch.ones_like(found[..., :1])], -1), scores


def _cubic(places: Tensor, pixels: Tensor, samples: int) -> Tensor:
    """What the pixels at some places take from samples that are spread over `pixels` pixels, with two more at each end.

    Bicubic without aligned corners, as `interpolate` has it. int64[p], float[n, 1] -> float[n, p, samples + 4].
    """
    source = (places + 0.5) * (samples / pixels) - 0.5
    far = (source[..., None] - torch.arange(-2, samples + 2)).abs()
    near = (1.25 * far - 2.25) * far * far + 1
    outer = ((-0.75 * far + 3.75) * far - 6) * far + 3
    return torch.where(far <= 1, near, torch.where(far < 2, outer, 0.0))


_REPLACEMENTS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "torchvision.ops.boxes": {"batched_nms": _batched_nms},
    "torchvision.ops.poolers": {"len": _length},
    "torchvision.models.detection.roi_heads": {"heatmaps_to_keypoints": _heatmaps_to_keypoints},
    "torchvision.models.detection.transform": {"paste_masks_in_image": _paste_masks},
}
"""Replacements by module and name; one for a built-in function shadows it in that module."""
