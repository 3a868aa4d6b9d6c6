"""torch has little arithmetic on unsigned integers wider than 8 bits: they are computed in int64 and cut back.

What wraps in int64 as it does in uint64 is right for all numbers. Comparisons take numbers from 2**63 on as the int64
that has their place in the order; what is neither refuses them.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_WIDE = (torch.uint16, torch.uint32, torch.uint64)
_LOWEST = -(2**63)

Function = Callable[..., Any]


def _through(
    function: Function, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor] | None
) -> Function:
    """The function on int64 instead of wide unsigned numbers; its int64 results brought back into their type."""

    @wraps(function)
    def run(*inputs: Any, **attributes: Any) -> Any:
        narrow = next((x.dtype for x in inputs if isinstance(x, Tensor) and x.dtype in _WIDE), None)
        if narrow is None:
            return function(*inputs, **attributes)
        y = function(*(there(x) if isinstance(x, Tensor) and x.dtype in _WIDE else x for x in inputs), **attributes)
        if back is None or y.dtype is not torch.int64:
            return y
        return (back(y) if narrow is torch.uint64 else y).to(narrow)

    return run


def widened(function: Function) -> Function:
    """Make a function take wide unsigned integers, if it is made of sums, products or bit operations, which wrap."""
    return _through(function, Tensor.long, Tensor.long)


def compared(function: Function) -> Function:
    """Make a function take wide unsigned integers, if it depends on their order alone and returns numbers or truths."""
    return _through(function, _ranked, _unranked)


def located(function: Function) -> Function:
    """Make a function take wide unsigned integers, if it depends on their order alone and returns places."""
    return _through(function, _ranked, None)


def bounded(function: Function) -> Function:
    """Make a function take wide unsigned integers, if it is right only for numbers that int64 holds."""
    return _through(function, _held, Tensor.long)


def _ranked(x: Tensor) -> Tensor:
    return x.view(torch.int64) ^ _LOWEST if x.dtype is torch.uint64 else x.long()


def _unranked(x: Tensor) -> Tensor:
    return x ^ _LOWEST


def _held(x: Tensor) -> Tensor:
    y = x.long()
    if x.dtype is torch.uint64 and has_data(x) and bool((y < 0).any()):
        raise ValueError("uint64 numbers from 2**63 on can't be computed with")
    return y


def has_data(x: Tensor) -> bool:
    return type(x) is Tensor and not x.is_meta
