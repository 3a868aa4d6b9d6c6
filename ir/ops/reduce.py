"""Reductions over axes, and the orderings along one."""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from ..unknown import UNKNOWN
from .from_data import Axes, FromData, changeable, places
from .registry import Ints, operator
from .sizes import place_of
from .unsigned import Function, bounded, compared, located, widened

Reduction = Callable[[Tensor, list[int]], Tensor]


def _register(name: str, function: Reduction, adapted: Callable[[Function], Function]) -> None:
    """Register a reduction that is given at least one axis and keeps the axes it reduces."""

    def meaning(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        if not axes and noop_with_empty_axes:
            return x
        along = sorted(place_of(axis, x.ndim) for axis in axes) if axes else list(range(x.ndim))
        y = function(x, along) if along else function(x.unsqueeze(0), [0]).squeeze(0)
        return y if keepdims or not along else y.squeeze(along)

    operator(name, from_data={"axes": FromData(_reduced, _some_axes)})(adapted(meaning))


def _reduced(x: Tensor, row: Ints, keepdims: int) -> Axes:
    """The axes of the result whose sizes are unknown, since it is unknown which axes are reduced."""
    if keepdims:
        return changeable(x, range(x.ndim))
    places(row)
    return range(x.ndim - len(row))


def _some_axes(x: Tensor, row: Ints) -> list[int]:
    return list(range(min(x.ndim, 1 if row is UNKNOWN else len(row))))


def _sum(x: Tensor, axes: list[int]) -> Tensor:
    return x.sum(axes, keepdim=True, dtype=x.dtype)


def _product(x: Tensor, axes: list[int]) -> Tensor:
    return reduce(lambda y, axis: y.prod(axis, keepdim=True, dtype=x.dtype), axes, x)


def _mean(x: Tensor, axes: list[int]) -> Tensor:
    if not x.is_floating_point():
        return x.double().mean(axes, keepdim=True).to(x.dtype)
    return x.mean(axes, keepdim=True)


def _norm(x: Tensor, axes: list[int]) -> Tensor:
    values = x if x.is_floating_point() else x.double()
    return torch.linalg.vector_norm(values, 2, axes, keepdim=True).to(x.dtype)


def _log_sum_exp(x: Tensor, axes: list[int]) -> Tensor:
    values = x if x.is_floating_point() else x.double()
    return torch.logsumexp(values, axes, keepdim=True).to(x.dtype)


def _log_sum(x: Tensor, axes: list[int]) -> Tensor:
    return _sum(x, axes).log().to(x.dtype)


def _extreme(function: Callable[..., Tensor], sign: int) -> Reduction:
    """A maximum or minimum; without elements, it is the infinity or the end of the integers that anything replaces."""

    def run(x: Tensor, axes: list[int]) -> Tensor:
        if not any(isinstance(x.shape[axis], int) and x.shape[axis] == 0 for axis in axes):
            return function(x, axes, keepdim=True)
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        return x.new_full(shape, _end(x.dtype, sign))

    return run


def _end(dtype: torch.dtype, sign: int) -> float:
    if dtype.is_floating_point:
        return sign * torch.inf
    if dtype is torch.bool:
        return sign > 0
    return torch.iinfo(dtype).max if sign > 0 else torch.iinfo(dtype).min


for _name, _function, _adapted in (
    ("ReduceL1", lambda x, axes: _sum(x.abs(), axes), bounded),
    ("ReduceL2", _norm, bounded),
    ("ReduceLogSum", _log_sum, bounded),
    ("ReduceLogSumExp", _log_sum_exp, bounded),
    ("ReduceMax", _extreme(torch.amax, -1), compared),
    ("ReduceMean", _mean, bounded),
    ("ReduceMin", _extreme(torch.amin, 1), compared),
    ("ReduceProd", _product, widened),
    ("ReduceSum", _sum, widened),
    ("ReduceSumSquare", lambda x, axes: _sum(x * x, axes), widened),
):
    _register(_name, _function, _adapted)


def _register_argument(name: str, function: Callable[..., Tensor]) -> None:
    def meaning(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
        if not select_last_index:
            return function(x, axis, keepdim=bool(keepdims))
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=bool(keepdims))

    operator(name)(located(meaning))


_register_argument("ArgMax", torch.argmax)
_register_argument("ArgMin", torch.argmin)


@operator("TopK", from_data={"k": FromData(lambda axis: [{axis: 0}] * 2, is_size=True)})
def top_k(x: Tensor, k: Ints, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    # a stable sort takes equal elements in the order of their index, which torch.topk doesn't promise
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, k[0]), indices.narrow(axis, 0, k[0])
