"""Shapes: reading and changing them without moving elements past each other."""

from math import prod

import torch
from torch import Tensor

from .narrow import bytewise
from .registry import Ints, operator
from .sizes import is_known


@operator("Shape")
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """The sizes; of symbolic ones only how many there are, since their values aren't numbers."""
    sizes = list(x.shape[start:end])
    if all(isinstance(size, int) for size in sizes):
        return torch.tensor(sizes, dtype=torch.int64, device=x.device)
    return torch.empty(len(sizes), dtype=torch.int64, device=x.device)


@operator("Size")
def size(x: Tensor) -> Tensor:
    count = prod(x.shape)
    if isinstance(count, int):
        return torch.tensor(count, dtype=torch.int64, device=x.device)
    return torch.empty((), dtype=torch.int64, device=x.device)


@operator("Reshape")
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    keeps = not allowzero
    sizes = [x.shape[axis] if keeps and is_known(size, 0) else size for axis, size in enumerate(shape)]
    if all(isinstance(size, int) for size in (*sizes, *x.shape)):
        return x.reshape(sizes)
    # only inference gets here; that the counts agree may hold for some sizes alone
    rest = x.reshape(sizes).shape if any(is_known(size, -1) for size in sizes) else sizes
    return x.new_empty([found if is_known(size, -1) else size for size, found in zip(sizes, rest, strict=True)])


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    if axis < 0:
        axis += x.ndim
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operator("Unsqueeze")
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Transpose")
@bytewise
def transpose(x: Tensor, *, perm: tuple[int, ...] | None = None) -> Tensor:
    return x.permute(tuple(reversed(range(x.ndim))) if perm is None else perm)


@operator("Expand")
def expand(x: Tensor, shape: Ints) -> Tensor:
    """Broadcast both ways: a 1 in the wanted shape keeps the input's size."""
    missing = len(shape) - x.ndim
    wanted = [1] * -missing + list(shape)
    sizes = [1] * missing + list(x.shape)
    return x.expand([have if is_known(want, 1) else want for have, want in zip(sizes, wanted, strict=True)])


@operator("Tile")
def tile(x: Tensor, repeats: Ints) -> Tensor:
    return x.repeat(tuple(repeats))
