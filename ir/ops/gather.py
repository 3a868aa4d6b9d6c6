"""Reading and writing elements at computed positions. A negative position counts from the end."""

from collections.abc import Sequence
from functools import reduce
from math import prod

import torch
from torch import Tensor

from ..traits import Trait
from .narrow import bytewise
from .registry import operator
from .sizes import place_of
from .unsigned import compared, has_data, widened

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("Gather", traits=Trait.MOVING | Trait.INDEXING)
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    places = [None] * place_of(axis, x.ndim) + [indices.long()]
    return torch.ops.aten.index(x, places)  # x[...] would ask a scalar index for its value


@operator("GatherElements", traits=Trait.MOVING | Trait.INDEXING)
@bytewise
@widened
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return x.gather(axis, _counted(indices, x.shape[axis]))


@operator("GatherND", traits=Trait.MOVING)
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    if indices.shape[-1] > x.ndim - batch_dims:
        raise ValueError(f"{indices.shape[-1]} indices for each element of a tensor of {x.ndim} axes")
    if x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise ValueError(f"batches of {list(x.shape[:batch_dims])} and {list(indices.shape[:batch_dims])} elements")
    batch: list[Tensor] = []
    for axis in range(batch_dims):
        place = [-1 if other == axis else 1 for other in range(indices.ndim - 1)]
        batch.append(torch.arange(x.shape[axis], device=x.device).reshape(place))
    return x[(*batch, *indices.long().unbind(-1))]


@operator("ScatterElements", traits=Trait.INDEXING)
@bytewise
def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    adapted = compared if reduction in ("max", "min") else widened
    return adapted(_scatter_elements)(x, indices, updates, axis=axis, reduction=reduction)


def _scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int, reduction: str) -> Tensor:
    _check_updates(updates, indices.shape)
    places = _counted(indices, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])


@operator("ScatterND")
@bytewise
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    if indices.shape[-1] > x.ndim:
        raise ValueError(f"{indices.shape[-1]} indices for each element of a tensor of {x.ndim} axes")
    adapted = compared if reduction in ("max", "min") else widened
    return adapted(_scatter_blocks)(x, indices, updates, reduction=reduction)


def _scatter_blocks(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str) -> Tensor:
    _check_updates(updates, (*indices.shape[:-1], *x.shape[indices.shape[-1] :]))
    places = indices.long().unbind(-1)
    if reduction in ("none", "add"):
        return x.index_put(places, updates, accumulate=reduction == "add")
    depth = len(places)
    counted = [_counted(place, size) for place, size in zip(places, x.shape[:depth], strict=True)]
    strides = [prod(x.shape[axis + 1 : depth]) for axis in range(depth)]
    rows = reduce(torch.add, (place * stride for place, stride in zip(counted, strides, strict=True)))
    block = prod(x.shape[depth:])
    flat = x.reshape(-1, block)
    rows = rows.reshape(-1, 1).expand(-1, block)
    return flat.scatter_reduce(0, rows, updates.reshape(-1, block), _REDUCTIONS[reduction]).reshape(x.shape)


@operator("TensorScatter")
@bytewise
@widened
def tensor_scatter(
    past: Tensor, update: Tensor, starts: Tensor | None = None, *, axis: int = -2, mode: str = "linear"
) -> Tensor:
    """Write an update into a cache at each batch's start, going round at its end if `mode` is circular."""
    axis = axis % past.ndim
    places = torch.arange(update.shape[axis], device=past.device)
    starts = torch.zeros(past.shape[0], dtype=torch.int64, device=past.device) if starts is None else starts
    rows = starts.long().unsqueeze(1) + places  # [batch, update]
    if mode == "circular":
        rows = rows % past.shape[axis]
    shape = [size if index in (0, axis) else 1 for index, size in enumerate(update.shape)]
    return past.scatter(axis, rows.reshape(shape).expand(update.shape), update)


def _check_updates(updates: Tensor, shape: Sequence[int]) -> None:
    """Refuse updates that torch would broadcast, or take a part of."""
    if has_data(updates) and tuple(updates.shape) != tuple(shape):
        raise ValueError(f"the updates have the shape {list(updates.shape)}, and {list(shape)} is asked for")


def _counted(indices: Tensor, size: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)
