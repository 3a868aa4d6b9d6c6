"""Joining tensors, and taking them apart along axes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..traits import Trait
from ..unknown import UNKNOWN
from .from_data import NOTHING, FromData, along, filled, for_each_axis, places
from .narrow import bytewise
from .registry import Ints, operator
from .sizes import larger, place_of, places_of, smaller
from .unsigned import widened
from .window import pad_last

_BEYOND = 10**9  # exporters have many a large number for the end
SURE = 32
"""The largest bound that is taken to lie inside of an axis whose size is symbolic."""
"""A symbolic size is taken to be at least this: a bound up to here lies inside the tensor, a greater one may not."""


@operator("Concat", traits=Trait.MOVING)
def concat(*inputs: Tensor, axis: int) -> Tensor:
    if all(isinstance(size, int) for x in inputs for size in x.shape):
        return torch.cat(inputs, axis)
    # only inference gets here: symbolic sizes are taken to agree with the others, as the model's author must have known
    rows = zip(*(x.shape for x in inputs), strict=True)
    sizes = [next((size for size in row if isinstance(size, int)), row[0]) for row in rows]
    sizes[axis] = sum(x.shape[axis] for x in inputs)
    return inputs[0].new_empty(sizes)


def _pieces(row: Ints, axis: int, outputs: int) -> list[dict[int, int]]:
    """A single size that isn't known follows from the others."""
    unknown = places(filled(row, UNKNOWN, outputs))
    return [{axis: index} if index in unknown and len(unknown) > 1 else {} for index in range(outputs)]


def _pieces_that_fit(x: Tensor, row: Ints, axis: int, outputs: int) -> list[int]:
    sizes = filled(row, 0, outputs)
    first = 0 if row is UNKNOWN else places(row)[0]
    sizes[first] = x.shape[axis] - sum(sizes)
    return sizes


@operator("Split", from_data={"split": FromData(_pieces, _pieces_that_fit, is_size=True)}, traits=Trait.MOVING)
def split(
    x: Tensor, split: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int = 1
) -> Tensor | tuple[Tensor, ...]:
    if split is None:
        parts = num_outputs or outputs
        chunk = (x.shape[axis] + parts - 1) // parts
        split = [chunk] * (parts - 1) + [x.shape[axis] - chunk * (parts - 1)]
    pieces = torch.split(x, list(split), axis)
    return pieces[0] if outputs == 1 else pieces


def _first_axes(x: Tensor, row: Ints, starts: Ints) -> list[int]:
    count = len(row) if row is not UNKNOWN else x.ndim if starts is UNKNOWN else len(starts)
    return list(range(count))


@operator(
    "Slice",
    traits=Trait.MOVING,
    from_data={
        "starts": FromData(along, for_each_axis(0)),
        "ends": FromData(along, for_each_axis(_BEYOND)),
        "axes": FromData(lambda x: range(x.ndim), _first_axes),
        "steps": FromData(along, for_each_axis(1)),
    },
)
def slice_(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    places = places_of(axes, x.ndim) if axes else range(len(starts))
    for index, (start, end) in enumerate(zip(map(_clamped, starts), map(_clamped, ends), strict=True)):
        axis = places[index]
        step = _clamped(steps[index]) if steps else 1
        if step < 0:
            start, end = _mirrored(start, end, x.shape[axis])
            x, step = x.flip(axis), -step
        size = x.shape[axis]
        if any(_may_exceed(bound, size) for bound in (start, end)):  # only inference gets here
            length = larger(_place(end, size) - _place(start, size), 0)
            x = x.new_empty((*x.shape[:axis], (length + step - 1) // step, *x.shape[axis + 1 :]))
            continue
        bounds = slice(start, None if _is_beyond(end) else end, step)
        x = x[(slice(None),) * axis + (bounds,)]
    return x


def _may_exceed(bound: int, size: int) -> bool:
    """Whether torch's answer would hold for some sizes alone, since one of a bound and a size is symbolic."""
    if isinstance(size, int):
        return not isinstance(bound, int)
    return isinstance(bound, int) and SURE < abs(bound) < _BEYOND


def _place(bound: int, size: int) -> int:
    """Where a bound falls within a size; a symbolic one is taken to lie inside, as in a table of positions."""
    if _is_beyond(bound):
        return size
    if not isinstance(bound, int):
        return size + bound if bound < 0 else bound
    return larger(size + bound, 0) if bound < 0 else smaller(bound, size)


def _mirrored(start: int, end: int, size: int) -> tuple[int, int]:
    """The bounds of a slice that runs backwards, counted from the other end."""
    first = -1 - start if start < 0 else larger(size - 1 - start, 0)
    if _is_beyond(-end):
        return first, _BEYOND
    return first, -1 - end if end < 0 else larger(size - 1 - end, 0)


def _clamped(bound: int) -> int:
    """A bound with the many large numbers that stand for an end made one; a symbolic bound as it is."""
    return max(-_BEYOND, min(bound, _BEYOND)) if isinstance(bound, int) else bound


def _is_beyond(bound: int) -> bool:
    return isinstance(bound, int) and bound == _BEYOND


def _first_padded(x: Tensor, row: Ints, pads: Ints) -> list[int]:
    count = len(row) if row is not UNKNOWN else x.ndim if pads is UNKNOWN else len(pads) // 2
    return list(range(count))


@operator(
    "Pad",
    traits=Trait.MOVING,
    from_data={
        "pads": FromData(along, for_each_axis(0, times=2)),
        "axes": FromData(lambda x: range(x.ndim), _first_padded),
    },
)
@bytewise
def pad(
    x: Tensor,
    pads: Ints,
    constant_value: Tensor | None = None,
    axes: Ints | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    along = [place_of(axis, x.ndim) for axis in axes] if axes is not None else list(range(x.ndim))
    begins = dict(zip(along, pads[: len(along)], strict=True))
    ends = dict(zip(along, pads[len(along) :], strict=True))
    if mode != "constant":
        for axis in along:
            x = x.index_select(axis, _sources(x, axis, begins[axis], ends[axis], mode))
        return x
    begin = [begins.get(axis, 0) for axis in range(x.ndim)]
    end = [ends.get(axis, 0) for axis in range(x.ndim)]
    y = pad_last(x, begin, end)
    if constant_value is None:
        return y
    inside = pad_last(torch.ones_like(x, dtype=torch.bool), begin, end)
    return torch.where(inside, y, constant_value)


def _sources(x: Tensor, axis: int, begin: int, end: int, mode: str) -> Tensor:
    """The place that each element along a padded axis comes from."""
    size = x.shape[axis]
    places = torch.arange(-begin, size + end, device=x.device)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    period = larger(2 * (size - 1), 1)
    places = places % period
    return torch.minimum(places, period - places) if period != 1 else places


@operator("CenterCropPad", from_data={"shape": FromData(along, for_each_axis(1))}, traits=Trait.MOVING)
def center_crop_pad(x: Tensor, shape: Ints, *, axes: tuple[int, ...] | None = None) -> Tensor:
    along = [place_of(axis, x.ndim) for axis in axes] if axes is not None else list(range(x.ndim))
    wanted = dict(zip(along, shape, strict=True))
    missing = [wanted.get(axis, size) - size for axis, size in enumerate(x.shape)]
    # an odd element is padded behind, and cropped behind too
    begin = [-(-more // 2) if more < 0 else more // 2 for more in missing]
    return pad_last(x, begin, [more - half for more, half in zip(missing, begin, strict=True)])


@operator("Trilu", from_data={"k": NOTHING})
def triangle(x: Tensor, k: Ints | None = None, *, upper: int = 1) -> Tensor:
    diagonal = k[0] if k else 0
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@operator("DepthToSpace", traits=Trait.MOVING)
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    depth = c // blocksize**2
    blocks = x.reshape(n, blocksize, blocksize, depth, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, depth, h * blocksize, w * blocksize)


@operator("SpaceToDepth", traits=Trait.MOVING)
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    sizes = (n, c * blocksize**2, h // blocksize, w // blocksize)
    if not all(isinstance(size, int) for size in (h, w)):
        return x.new_empty(sizes)  # only inference gets here; the sizes are taken to be whole blocks
    blocks = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    return (
        blocks.permute(0, 3, 5, 1, 2, 4).reshape(sizes)
        if mode == "DCR"
        else blocks.permute(0, 1, 3, 5, 2, 4).reshape(sizes)
    )


@operator("ReverseSequence", traits=Trait.MOVING)
@bytewise
@widened
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    steps = torch.arange(x.shape[time_axis], device=x.device)
    limits = lengths.unsqueeze(1)
    sources = torch.where(steps < limits, limits - 1 - steps, steps)  # [batch, time]
    if batch_axis > time_axis:
        sources = sources.T
    shape = [size if axis in (batch_axis, time_axis) else 1 for axis, size in enumerate(x.shape)]
    return x.gather(time_axis, sources.reshape(shape).expand(x.shape))
