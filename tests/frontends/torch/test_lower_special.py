"""Functions where a plain formula goes wrong: near zero, at infinities, at negative zero, at NaN."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]
EDGES = (0.0, -0.0, 1.0, -1.0, 1e-8, -1e-8, 3e-5, 0.7, -2.5, 20.0, 1e20, -1e30, math.inf, -math.inf, math.nan)


def edges(batch: int) -> tuple[Tensor, ...]:
    """Every pair of numbers at the edges."""
    return torch.tensor(list(product(EDGES, EDGES))).unbind(1)


def integers(batch: int) -> tuple[Tensor, ...]:
    """Integers of both signs, how far to shift them, and bytes."""
    numbers = torch.tensor([0, 1, -1, 7, -8, 2**40, -(2**40), 2**63 - 1, -(2**63)])
    shifts = torch.tensor([0, 1, 3, 31, 62, 63, 64, 100, -1])
    pairs = torch.cartesian_prod(numbers, shifts)
    return pairs[:, 0], pairs[:, 1], (pairs[:, 0] % 251).to(torch.uint8)


def plain(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 4, 5), torch.rand(batch, 4, 5) + 0.1, torch.randint(-5, 5, (batch, 4, 5))


AT_EDGES: dict[str, Function] = {
    **{
        name: lambda x, y, name=name: getattr(torch, name)(x, y)
        for name in ("atan2", "hypot", "copysign", "fmax", "fmin", "logaddexp", "logaddexp2", "heaviside", "xlogy")
    },
    **{
        name: lambda x, y, name=name: getattr(torch, name)(x)
        for name in (
            "log1p",
            "expm1",
            "sinc",
            "signbit",
            "isposinf",
            "isneginf",
            "nan_to_num",
            "angle",
            "trunc",
            "frac",
        )
    },
    "x log1p y": torch.special.xlog1py,
    "entropy": lambda x, y: torch.special.entr(x),
    "numbers for what is none": lambda x, y: x.nan_to_num(1.0, 2.0, -3.0),
    "sign copied from a number": lambda x, y: torch.copysign(x, -0.0),
    "x log of a number": lambda x, y: torch.xlogy(x, 2.0),
    "safe softmax": lambda x, y: torch.ops.aten._safe_softmax(
        torch.full((2, 3), -math.inf).index_fill(0, y[:1].long(), 1.0), 1
    ),
}
PLAIN: dict[str, Function] = {
    "remainder": lambda x, y, i: torch.remainder(x * 1000, y),
    "quotient rounded down": lambda x, y, i: torch.div(x * 1000, y, rounding_mode="floor"),
    "quotients next to whole ones": lambda x, y, i: torch.tensor([1.0, -1.0, 6.0]) // torch.tensor([0.1, 0.1, 0.1]),
    "quotient by zero": lambda x, y, i: x // 0.0,
    "two to a whole power": lambda x, y, i: torch.exp2(i.float()) - 1,
    "whole logarithms": lambda x, y, i: (torch.log2(torch.exp2(i.float())), torch.log10(torch.tensor([1000.0, 0.01]))),
    "mantissa and exponent": lambda x, y, i: torch.ldexp(x, i),
    "error function's rest": lambda x, y, i: torch.erfc(x * 4) * 1e10,
    "inverse of the error function": lambda x, y, i: torch.erfinv(torch.tanh(x)),
    "rounded to digits": lambda x, y, i: (x.round(decimals=2), (x * 1000).round(decimals=-2)),
    "integer powers": lambda x, y, i: (i**3, i.int() ** 5, i**0, i.to(torch.uint8) ** 2),
    "powers of one and minus one": lambda x, y, i: torch.tensor([1, -1, 2, -1]) ** torch.tensor([-3, -3, -1, -2]),
    "positive integers": lambda x, y, i: i.relu(),
    "truth in order": lambda x, y, i: ((x > 0) < (y > 0.5), torch.maximum(x > 0, y > 0.5)),
    "truth chosen": lambda x, y, i: torch.where(i > 0, x > 0, y > 0.5),
    "not a number, among integers": lambda x, y, i: (i.isnan(), i.isinf()),
    "bytes turned": lambda x, y, i: -i.to(torch.uint8),
    "softmax of a scalar": lambda x, y, i: (x[0, 0, 0].softmax(0), x[0, 0, 0].log_softmax(0)),
}
SHIFTED: dict[str, Function] = {
    "left": lambda i, s, b: i << s,
    "right": lambda i, s, b: i >> s,
    "bytes": lambda i, s, b: (b << 3, b >> 2),
    "by a number": lambda i, s, b: (i << 5, i >> 7),
    "of a number": lambda i, s, b: torch.bitwise_left_shift(3, s % 8),
}


def test_results_are_torchs_at_the_edges(holds: Function) -> None:
    holds(AT_EDGES, edges, False)


def test_results_are_torchs(holds: Function) -> None:
    holds(PLAIN, plain, True)


def test_bits_are_shifted_as_in_torch(holds: Function) -> None:
    holds(SHIFTED, integers, False)
