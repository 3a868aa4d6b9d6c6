"""What torch's operators make of tensors without data, told at once from sizes and element types.

Torch's own kernels for such tensors are written in Python: they take up to a millisecond, and the first brings torch's
compiler and sympy, which take as long to import as torch. What most models are made of is told here. Everything else,
and whatever doesn't fit together, is left to torch, whose results these are (`tests/ir/ops/test_meta_kernels.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

_FEW = 1 << 16

Rule = Callable[..., Any]
"""A kernel: it takes the operator and the operator's arguments, and returns None where torch has to be asked."""


class FastMeta(TorchDispatchMode):
    """Answers for the operators that are known here while it lasts, and leaves the others to torch."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether torch's compiler is imported to be kept out; nobody compiles this."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        rule = _RULES.get(func) or (_elementwise if _is_elementwise(func) else None)
        if rule is not None and (result := rule(func, *args, **named)) is not None:
            return result
        return func(*args, **named)


def _is_elementwise(func: Any) -> bool:
    return (
        torch.Tag.pointwise in func.tags
        and torch.Tag.nondeterministic_seeded not in func.tags
        and (not func._schema.is_mutable or _is_in_place(func))
    )


def _is_in_place(func: Any) -> bool:
    return func._schema.name.endswith("_")


def _elementwise(func: Any, *args: Any, **named: Any) -> Tensor | None:
    """The sizes are those of the operands, broadcast; the element type is what comes out for one element each.

    In place, the first operand stays what it is if the others fit into it.
    """
    operands = [it for it in (*args, *named.values()) if isinstance(it, Tensor)]
    result = _of_one_element(func, *args, **named)
    if not isinstance(result, Tensor) or not operands:
        return None
    try:
        shape = np.broadcast_shapes(*(it.shape for it in operands))
    except ValueError:
        return None
    if not _is_in_place(func):
        return _made(shape, result.dtype)
    return args[0] if shape == args[0].shape else None


def _of_one_element(func: Any, *args: Any, **named: Any) -> Any:
    """What an operator makes of real tensors of as many axes; None where it refuses."""
    try:
        return func(*map(_one_element, args), **{name: _one_element(it) for name, it in named.items()})
    except Exception:  # whatever torch raises of it is told by torch's own kernel
        return None


def _one_element(argument: Any) -> Any:
    is_without_data = isinstance(argument, Tensor) and argument.is_meta
    return torch.ones((1,) * argument.ndim, dtype=argument.dtype, device="cpu") if is_without_data else argument


def _made(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _reduction(
    func: Any, x: Tensor, dim: Any = None, keepdim: bool = False, **named: Any
) -> Tensor | tuple[Tensor, ...] | None:
    result = _of_one_element(func, x, dim, **named)
    dims = range(x.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    if result is None or 0 in x.shape:
        return None
    axes = {axis % max(x.ndim, 1) for axis in dims}
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keepdim or axis not in axes]
    return tuple(_made(shape, it.dtype) for it in result) if isinstance(result, tuple) else _made(shape, result.dtype)


def _like_first(func: Any, x: Tensor, *args: Any, **named: Any) -> Tensor | None:
    result = _of_one_element(func, x, *args, **named)
    return None if result is None else _made(x.shape, result.dtype)


def _empty_like(func: Any, x: Tensor, *, dtype: torch.dtype | None = None, **named: Any) -> Tensor:
    return _made(x.shape, dtype or x.dtype)


def _product(func: Any, a: Tensor, b: Tensor) -> Tensor | None:
    """A product of matrices, or of rows of them."""
    if not a.ndim == b.ndim == (2 if func is _aten.mm.default else 3):
        return None
    if a.dtype != b.dtype or a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        return None
    return _made((*a.shape[:-1], b.shape[-1]), a.dtype)


def _convolution(
    func: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    rows = (stride, padding, dilation)
    if transposed or x.ndim != weight.ndim or any(len(row) != x.ndim - 2 for row in rows) or groups < 1:
        return None
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups or x.dtype != weight.dtype:
        return None
    if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != x.dtype):
        return None
    sizes = _windows(x.shape[2:], weight.shape[2:], *rows)
    return (
        None
        if sizes is None or 0 in (*x.shape, *weight.shape)
        else _made((x.shape[0], weight.shape[0], *sizes), x.dtype)
    )


def _windows(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int] | None:
    """How many windows fit along each axis; None where none does, or a number makes no sense."""
    if min((*stride, *dilation), default=1) < 1 or min(padding, default=0) < 0:
        return None
    rows = zip(sizes, kernel, stride, padding, dilation, strict=True)
    found = [(size + 2 * pad - reach * (width - 1) - 1) // step + 1 for size, width, step, pad, reach in rows]
    return found if min(found, default=1) > 0 else None


def _max_pool(
    func: Any,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Tensor, ...] | None:
    rows = (kernel, stride or kernel, padding, dilation)
    if x.ndim != 4 or any(len(row) != 2 for row in rows) or ceil_mode or 0 in x.shape or not x.is_floating_point():
        return None
    sizes = _windows(x.shape[2:], *rows)
    if sizes is None or any(2 * pad > width for pad, width in zip(padding, kernel, strict=True)):
        return None
    return _made((*x.shape[:2], *sizes), x.dtype), _made((*x.shape[:2], *sizes), torch.int64)


def _range(func: Any, *numbers: float, **named: Any) -> Tensor | None:
    """Numbers in a row; where they are few they are made, to see how many torch makes."""
    begin, end, step = (0, *numbers, 1) if len(numbers) == 1 else (*numbers, 1)[:3]
    if not step or not abs((end - begin) / step) < _FEW:
        return None
    made = func(*numbers, **{**named, "device": "cpu"})
    return _made(made.shape, made.dtype)


def _concatenation(func: Any, tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first, axis = tensors[0], dim % max(tensors[0].ndim, 1)
    rest = [(it.dtype, it.ndim, it.shape[:axis], it.shape[axis + 1 :]) for it in tensors]
    if not first.ndim or not -first.ndim <= dim < first.ndim or any(row != rest[0] for row in rest):
        return None
    return _made((*first.shape[:axis], sum(it.shape[axis] for it in tensors), *first.shape[axis + 1 :]), first.dtype)


def _indexed(func: Any, x: Tensor, indices: Sequence[Tensor | None]) -> Tensor | None:
    """Places along axes that lie side by side."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    given = [index for index in indices if index is not None]
    is_side_by_side = bool(axes) and axes == list(range(axes[0], axes[-1] + 1)) and axes[-1] < x.ndim
    if not is_side_by_side or 0 in x.shape or any(it.dtype not in (torch.int64, torch.int32) for it in given):
        return None
    try:
        places = np.broadcast_shapes(*(it.shape for it in given))
    except ValueError:
        return None
    return _made((*x.shape[: axes[0]], *places, *x.shape[axes[-1] + 1 :]), x.dtype)


def _layer_norm(
    func: Any, x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...] | None:
    inner = tuple(shape)
    fits = all(it is None or (it.shape == inner and it.dtype == x.dtype) for it in (weight, bias))
    if not fits or not inner or tuple(x.shape[-len(inner) :]) != inner or x.dtype not in (torch.float32, torch.float64):
        return None
    means = _made((*x.shape[: -len(inner)], *(1,) * len(inner)), x.dtype)
    return _made(x.shape, x.dtype), means, means


_RULES: dict[Any, Rule] = {
    **dict.fromkeys((_aten.mm.default, _aten.bmm.default), _product),
    **dict.fromkeys(
        (
            *(_aten.mean.dim, _aten.sum.dim_IntList, _aten.amax.default, _aten.amin.default),
            *(_aten.all.dim, _aten.any.dim, _aten.var_mean.correction),
        ),
        _reduction,
    ),
    **dict.fromkeys((_aten._softmax.default, _aten._log_softmax.default, _aten.cumsum.default), _like_first),
    **dict.fromkeys((_aten.arange.default, _aten.arange.start, _aten.arange.start_step), _range),
    _aten.convolution.default: _convolution,
    _aten.max_pool2d_with_indices.default: _max_pool,
    _aten.cat.default: _concatenation,
    _aten.index.Tensor: _indexed,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.empty_like.default: _empty_like,
}
"""Kernels of operators that aren't elementwise."""
