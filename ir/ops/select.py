"""Selections whose sizes depend on data: these run on real tensors only."""

import numpy as np
import torch
from torch import Tensor

from ..traits import Trait
from .from_data import NOTHING, FromData
from .narrow import bytewise
from .registry import Ints, operator
from .texts import STRING, to_array, to_tensor


def _check_condition(condition: Tensor) -> None:
    """Hold a condition to the standard's one axis: of a matrix, places would be coordinates.

    Raises:
        ValueError: it has another number of axes.
    """
    if condition.ndim != 1:
        raise ValueError(f"its condition has {condition.ndim} axes, and must have one")


def _compressed_type(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    _check_condition(condition)
    return x.reshape(-1) if axis is None else x


def _chosen_type(boxes: Tensor, scores: Tensor, *limits: object, center_point_box: int = 0) -> Tensor:
    return boxes.new_empty((1, 3), dtype=torch.int64)


def _unique_types(
    x: Tensor, *, axis: int | None = None, sorted: int = 1, outputs: int = 1
) -> Tensor | tuple[Tensor, ...]:
    flat = x.reshape(-1) if axis is None else x
    places = flat.new_empty((flat.shape[axis or 0],), dtype=torch.int64)
    return (flat, places, places, places)[:outputs]


@operator(
    "NonZero", from_data={"x": FromData(lambda: [1])}, types=lambda x: x.new_empty((x.ndim, 1), dtype=torch.int64)
)
@bytewise
def non_zero(x: Tensor) -> Tensor:
    return x.to(torch.bool).nonzero().T


@operator(
    "Compress", from_data={"condition": FromData(lambda axis: [axis or 0])}, types=_compressed_type, traits=Trait.MOVING
)
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    _check_condition(condition)  # types don't tell of tensors of unknown rank
    places = condition.nonzero().reshape(-1)
    return x.reshape(-1)[places] if axis is None else x.index_select(axis, places)


@operator("Unique", from_data={"x": FromData(lambda axis: [{axis or 0: 0}, {0: 0}, {}, {0: 0}])}, types=_unique_types)
def unique(x: Tensor, *, axis: int | None = None, sorted: int = 1, outputs: int = 1) -> Tensor | tuple[Tensor, ...]:
    """The distinct elements or slices, sorted or by first appearance; then where each first was, inverse and counts."""
    if x.dtype is STRING:
        return _unique_strings(x, axis=axis, sorted=sorted, outputs=outputs)
    flat = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else axis
    values, inverse, counts = torch.unique(flat, return_inverse=True, return_counts=True, dim=along)
    places = torch.arange(inverse.numel(), device=x.device)
    first = inverse.new_full((counts.numel(),), inverse.numel()).scatter_reduce(0, inverse, places, "amin")
    if not sorted:
        order = first.argsort()
        values, first, counts = values.index_select(along, order), first[order], counts[order]
        inverse = order.argsort()[inverse]
    return values if outputs == 1 else (values, first, inverse, counts)[:outputs]


def _unique_strings(x: Tensor, *, axis: int | None, sorted: int, outputs: int) -> Tensor | tuple[Tensor, ...]:
    """Apply `unique` to strings by way of their ranks in sorted order."""
    order, ranks = np.unique(to_array(x), return_inverse=True)
    places = torch.from_numpy(ranks.reshape(x.shape))
    found = unique(places, axis=axis, sorted=sorted, outputs=outputs)
    values, *rest = (found,) if isinstance(found, Tensor) else found
    strings = to_tensor(order[values.numpy()])
    return strings if outputs == 1 else (strings, *rest)


@operator(
    "NonMaxSuppression",
    from_data={"scores": FromData(lambda: [0]), "max_output_boxes_per_class": NOTHING},
    types=_chosen_type,
)
def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: Ints | None = None,
    iou_threshold: Tensor | None = None,
    score_threshold: Tensor | None = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """Rows of batch, class and box: the boxes that no better box of their class overlaps by more than the threshold."""
    limit = max_output_boxes_per_class[0] if max_output_boxes_per_class else 0
    corners = _corners(boxes, center=bool(center_point_box))
    kept: list[Tensor] = []
    for batch in range(scores.shape[0]):
        overlap = _overlaps(corners[batch])
        for label in range(scores.shape[1]):
            order = scores[batch, label].argsort(descending=True, stable=True)
            if score_threshold is not None:
                order = order[scores[batch, label, order] > score_threshold]
            clash = overlap > (0 if iou_threshold is None else iou_threshold)
            chosen: list[Tensor] = []
            while order.numel() and len(chosen) < limit:
                chosen.append(order[0])
                order = order[1:][~clash[order[0], order[1:]]]
            kept += [torch.stack([box.new_tensor(batch), box.new_tensor(label), box]) for box in chosen]
    return torch.stack(kept) if kept else torch.zeros((0, 3), dtype=torch.int64, device=boxes.device)


def _corners(boxes: Tensor, *, center: bool) -> Tensor:
    """Boxes `[..., 4]` as their lower and upper corner."""
    if center:
        middle, size = boxes[..., :2], boxes[..., 2:]
        return torch.cat([middle - size / 2, middle + size / 2], -1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], -1)


def _overlaps(corners: Tensor) -> Tensor:
    """The intersection of each pair of boxes `[n, 4]` over their union."""
    low = torch.maximum(corners[:, None, :2], corners[None, :, :2])
    high = torch.minimum(corners[:, None, 2:], corners[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = (corners[:, 2:] - corners[:, :2]).prod(-1)
    return common / (areas[:, None] + areas[None, :] - common)
