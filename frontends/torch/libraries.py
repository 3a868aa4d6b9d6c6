"""What libraries of models decide in Python by sizes that only the data tells, said so that `torch.export` can follow.

A detector finds some number of objects. torchvision asks how many before it chooses between two ways to suppress
duplicates, and pastes masks one by one. For the time of an export its functions are replaced by ones that compute the
same for every number of objects, none among them.
"""

import builtins
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def exportable() -> Generator[None]:
    """While it lasts, the functions of libraries that are loaded have their replacements."""
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
    """`torchvision.ops.batched_nms` by moving the boxes of each class to a place of their own, as it does for few boxes."""
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


_REPLACEMENTS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "torchvision.ops.boxes": {"batched_nms": _batched_nms},
    "torchvision.ops.poolers": {"len": _length},
    "torchvision.models.detection.transform": {"paste_masks_in_image": _paste_masks},
}
"""By module and name; a built-in function is shadowed."""
