"""torch has no arithmetic on unsigned integers wider than 8 bits: they are computed in int64 and cut back."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_WIDE = (torch.uint16, torch.uint32, torch.uint64)


def widened(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, with wide unsigned inputs as int64 and an int64 result back in their type.

    uint64 wraps as it should in sums and products; values from 2**63 on compare as negative.
    """

    @wraps(function)
    def run(*inputs: Tensor | None, **attributes: Any) -> Tensor:
        narrow = next((x.dtype for x in inputs if isinstance(x, Tensor) and x.dtype in _WIDE), None)
        if narrow is None:
            return function(*inputs, **attributes)
        y = function(*(x.long() if isinstance(x, Tensor) and x.dtype in _WIDE else x for x in inputs), **attributes)
        return y.to(narrow) if y.dtype is torch.int64 else y

    return run
