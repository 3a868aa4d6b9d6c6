"""Shapes: reading and changing them without moving elements past each other."""

from math import prod

import torch
from torch import Tensor

from ..limits import MOST_AXES
from ..traits import Trait
from .from_data import Axes, FromData, along, for_each_axis, places
from .narrow import bytewise
from .registry import Ints, operator
from .sizes import is_known, place_of, places_of


@operator("Shape", traits=Trait.SHAPE_ONLY)
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """The sizes as a tensor; if any is symbolic, only their number is right, since symbols have no values."""
    sizes = list(x.shape[start:end])
    if all(isinstance(size, int) for size in sizes):
        return torch.tensor(sizes, dtype=torch.int64, device=x.device)
    return torch.empty(len(sizes), dtype=torch.int64, device=x.device)


@operator("Size", traits=Trait.SHAPE_ONLY)
def size(x: Tensor) -> Tensor:
    count = prod(x.shape)
    if isinstance(count, int):
        return torch.tensor(count, dtype=torch.int64, device=x.device)
    return torch.empty((), dtype=torch.int64, device=x.device)


def _reshaped_freely(row: Ints) -> Axes:
    """A single size that isn't known follows from the others."""
    unknown = places(row)
    free = [*unknown, *(axis for axis, size in enumerate(row) if is_known(size, -1))]
    return [] if len(free) == 1 else free


def _freely(row: Ints) -> list[int]:
    """One size that makes the counts agree, and 1 for the others."""
    unknown = places(row)
    rest = [] if any(is_known(size, -1) for size in row) else unknown[:1]
    return [-1 if axis in rest else 1 if axis in unknown else size for axis, size in enumerate(row)]


@operator("Reshape", from_data={"shape": FromData(_reshaped_freely, _freely)}, traits=Trait.MOVING | Trait.RESHAPING)
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    keeps = not allowzero
    sizes = [x.shape[axis] if keeps and is_known(size, 0) else size for axis, size in enumerate(shape)]
    if all(isinstance(size, int) for size in (*sizes, *x.shape)):
        return x.reshape(sizes)
    # only inference gets here; that the counts agree may hold for some sizes alone
    rest = x.reshape(sizes).shape if any(is_known(size, -1) for size in sizes) else sizes
    return x.new_empty([found if is_known(size, -1) else size for size, found in zip(sizes, rest, strict=True)])


@operator("Flatten", traits=Trait.MOVING | Trait.RESHAPING)
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    if axis < 0:
        axis += x.ndim
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def _left(x: Tensor, row: Ints) -> Axes:
    """The axes whose sizes are unknown: none, if all axes that may have one element are squeezed."""
    places(row)
    return range(x.ndim - len(row)) if len(_single(x)) > len(row) else []


def _single(x: Tensor) -> list[int]:
    """The axes that may have a single element."""
    return [axis for axis, size in enumerate(x.shape) if not isinstance(size, int) or size == 1]


def _squeezable(x: Tensor, row: Ints) -> list[int]:
    if len(_single(x)) < len(row):
        raise ValueError(f"there are no {len(row)} axes that could be squeezed")
    return _single(x)[: len(row)]


@operator("Squeeze", from_data={"axes": FromData(_left, _squeezable)}, traits=Trait.MOVING | Trait.RESHAPING)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    if axes is None:
        return x.squeeze()
    for axis in sorted((place_of(axis, x.ndim) for axis in axes), reverse=True):
        if isinstance(x.shape[axis], int) and x.shape[axis] != 1:
            raise ValueError(f"axis {axis} has {x.shape[axis]} elements and can't be squeezed")
        x = x.select(axis, 0)
    return x


def _spread(x: Tensor, row: Ints) -> Axes:
    places(row)
    return range(x.ndim + len(row))


@operator(
    "Unsqueeze",
    from_data={"axes": FromData(_spread, lambda row: list(range(len(row))))},
    traits=Trait.MOVING | Trait.RESHAPING,
)
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    rank = x.ndim + len(axes)
    if rank > MOST_AXES:
        raise ValueError(f"a tensor has {MOST_AXES} axes at most, not {rank}")
    for place in sorted(places_of(axes, rank)):
        x = x.unsqueeze(place)
    return x


@operator("Transpose", traits=Trait.MOVING)
@bytewise
def transpose(x: Tensor, *, perm: tuple[int, ...] | None = None) -> Tensor:
    return x.permute(tuple(reversed(range(x.ndim))) if perm is None else perm)


def _expanded(x: Tensor, row: Ints) -> Axes:
    """A size other than 1 stays."""
    unknown = places(row)
    missing = len(row) - x.ndim
    sizes = [1] * missing + list(x.shape)
    outer = max(0, -missing)
    return [outer + axis for axis in unknown if not isinstance(sizes[outer + axis], int) or sizes[outer + axis] == 1]


@operator("Expand", from_data={"shape": FromData(_expanded, 1)}, traits=Trait.MOVING)
def expand(x: Tensor, shape: Ints) -> Tensor:
    """Broadcast both ways: a 1 in the wanted shape keeps the input's size."""
    if any(isinstance(size, int) and size < 0 for size in shape):
        raise ValueError(f"it asks for the shape {list(shape)}")
    missing = len(shape) - x.ndim
    wanted = [1] * -missing + list(shape)
    sizes = [1] * missing + list(x.shape)
    return x.expand([have if is_known(want, 1) else want for have, want in zip(sizes, wanted, strict=True)])


@operator("Tile", from_data={"repeats": FromData(along, for_each_axis(1))}, traits=Trait.MOVING)
def tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(tuple(repeats))
