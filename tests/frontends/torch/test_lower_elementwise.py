"""Elementwise operators, with the promotion of element types and numbers that torch has and ONNX hasn't."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[..., Any]
COMPARISONS = ("eq", "ge", "gt", "le", "lt", "ne")
LOGIC = ("and", "or", "xor")


def functions(home: object, names: str) -> dict[str, Function]:
    return {name: getattr(home, name) for name in names.split()}


def small(batch: int) -> tuple[Tensor, ...]:
    """Numbers from 0.1 to 0.9, where every function is defined."""
    return (torch.rand(batch, 4, 5) * 0.8 + 0.1,)


def wide(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 5) * 4,)


def mixed(batch: int) -> tuple[Tensor, ...]:
    """Two floats, integers, and integers from 1."""
    floats = torch.randn(2, batch, 4, 5).unbind()
    return *floats, torch.randint(-9, 9, (batch, 4, 5)), torch.randint(1, 6, (batch, 4, 5))


UNARY: dict[str, Function] = {
    **functions(torch, "acos asin asinh atan atanh cos cosh erf exp exp2 expm1 log log10 log1p log2 logit reciprocal"),
    **functions(torch, "rsqrt sigmoid sin sinh sqrt square tan tanh abs ceil floor neg round sign trunc frac"),
    "acosh": lambda x: torch.acosh(x + 1),
}
ACTIVATIONS: dict[str, Function] = {
    **functions(F, "relu silu gelu mish hardsigmoid hardswish softplus relu6 elu selu celu hardtanh logsigmoid"),
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "wide celu": lambda x: F.celu(x, 2.0),
    "wide elu": lambda x: F.elu(x, 2.0),
    "steep softplus": lambda x: F.softplus(x, 2.0, 1.0),
    "leaky relu": nn.LeakyReLU(0.3),
    "prelu": nn.PReLU(4),
    "one prelu": nn.PReLU(),
    "hardtanh of a range": lambda x: F.hardtanh(x, -2.0, 0.5),
    "softmax": lambda x: F.softmax(x, -1),
    "softmax of integers": lambda x: F.softmax(x.int(), 1, dtype=torch.float32),
    "softmax in double": lambda x: F.softmax(x, 1, dtype=torch.float64),
    "log softmax": lambda x: F.log_softmax(x, 1),
}
ARITHMETIC: dict[str, Function] = {
    "add": lambda x, y, i, j: x + i,
    "add scaled": lambda x, y, i, j: torch.add(x, y, alpha=2),
    "add a scaled number": lambda x, y, i, j: torch.add(i, 3, alpha=2),
    "add a fraction to integers": lambda x, y, i, j: i + 1.5,
    "add zero": lambda x, y, i, j: i + 0.0,
    "add truth": lambda x, y, i, j: (i > 0) + (j > 2),
    "add truth to integers": lambda x, y, i, j: (i > 0) + i,
    "sub scaled": lambda x, y, i, j: torch.sub(x, i, alpha=2),
    "from one": lambda x, y, i, j: 1 - x,
    "from a fraction": lambda x, y, i, j: 1.5 - i,
    "rsub scaled": lambda x, y, i, j: torch.rsub(x, y, alpha=3),
    "mul": lambda x, y, i, j: x * i,
    "mul truth": lambda x, y, i, j: (i > 0) * (j > 2),
    "mul truth by true": lambda x, y, i, j: (i > 0) * True,
    "mul by one": lambda x, y, i, j: i * 1.0,
    "div": lambda x, y, i, j: x / j,
    "div integers": lambda x, y, i, j: i / j,
    "two divided": lambda x, y, i, j: 2 / j,
    "div floor": lambda x, y, i, j: torch.div(x, j, rounding_mode="floor"),
    "div trunc": lambda x, y, i, j: torch.div(x * 9, j, rounding_mode="trunc"),
    "div integers floor": lambda x, y, i, j: torch.div(i, -j, rounding_mode="floor"),
    "div integers trunc": lambda x, y, i, j: torch.div(i, -j, rounding_mode="trunc"),
    "div plainly": lambda x, y, i, j: torch.div(i, j, rounding_mode=None),
    "floor divide": lambda x, y, i, j: i // -2,
    "remainder": lambda x, y, i, j: i % -j,
    "remainder of floats": lambda x, y, i, j: x % 0.7,
    "remainder of a number": lambda x, y, i, j: torch.remainder(7, j),
    "fmod": lambda x, y, i, j: torch.fmod(x, 0.7),
    "fmod of integers": lambda x, y, i, j: torch.fmod(i, j),
    "square": lambda x, y, i, j: i**2,
    "cube": lambda x, y, i, j: x**3,
    "root": lambda x, y, i, j: j**0.5,
    "power": lambda x, y, i, j: j**y,
    "power of two": lambda x, y, i, j: 2**x,
    "power of a fraction": lambda x, y, i, j: 2.5**j,
    "maximum": lambda x, y, i, j: torch.maximum(x, i),
    "max": lambda x, y, i, j: torch.max(x, y),
    "minimum": lambda x, y, i, j: torch.minimum(x, i),
    "min": lambda x, y, i, j: torch.min(x, y),
    "scalar tensors": lambda x, y, i, j: x * torch.tensor(2.0) + torch.scalar_tensor(3),
    "sqrt of integers": lambda x, y, i, j: torch.sqrt(j),
    "log1p of integers": lambda x, y, i, j: torch.log1p(j),
    "expm1 of integers": lambda x, y, i, j: torch.expm1(j),
    "integers rounded": lambda x, y, i, j: torch.round(i) + torch.ceil(i) + torch.floor(i) + torch.trunc(i),
}
TRUTH: dict[str, Function] = {
    **{name: lambda x, y, i, j, name=name: getattr(torch, name)(x, i) for name in COMPARISONS},
    **{f"{name} a number": lambda x, y, i, j, name=name: getattr(torch, name)(i, 1.5) for name in COMPARISONS},
    **{f"logical {name}": lambda x, y, i, j, name=name: getattr(torch, f"logical_{name}")(i, x > 0) for name in LOGIC},
    **{f"bits {name}": lambda x, y, i, j, name=name: getattr(torch, f"bitwise_{name}")(i, j) for name in LOGIC},
    **{f"bits {name} 3": lambda x, y, i, j, name=name: getattr(torch, f"bitwise_{name}")(i, 3) for name in LOGIC},
    **{
        f"truth {name}": lambda x, y, i, j, name=name: getattr(torch, f"bitwise_{name}")(x > 0, i > 0) for name in LOGIC
    },
    "not": lambda x, y, i, j: torch.logical_not(i),
    "bits not": lambda x, y, i, j: ~i,
    "truth not": lambda x, y, i, j: ~(i > 0),
    "nan": lambda x, y, i, j: torch.isnan(x / x.relu()),
    "infinite": lambda x, y, i, j: torch.isinf(1 / x.relu()),
}
CHOICES: dict[str, Function] = {
    "where": lambda x, y, i, j: torch.where(i > 0, x, i),
    "where else a number": lambda x, y, i, j: torch.where(i > 0, x, 0.0),
    "where a number": lambda x, y, i, j: torch.where(i > 0, 1.0, x),
    "where two numbers": lambda x, y, i, j: torch.where(i > 0, 1.0, 0.0),
    "mask": lambda x, y, i, j: x.masked_fill(i > 0, -math.inf),
    "mask with a tensor": lambda x, y, i, j: x.masked_fill(i > 0, torch.tensor(2.0)),
    "clamp": lambda x, y, i, j: x.clamp(-0.5, 0.5),
    "clamp integers by fractions": lambda x, y, i, j: i.clamp(-2.5, 3.5),
    "clamp by tensors": lambda x, y, i, j: torch.clamp(x, y, y + 1),
    "clamp below": lambda x, y, i, j: i.clamp(min=2),
    "clamp above by a tensor": lambda x, y, i, j: torch.clamp(x, max=y),
    "clamp above by a scalar": lambda x, y, i, j: torch.clamp(x, max=y[0, 0, 0]),
}
CASTS: dict[str, Function] = {
    "int32": lambda x, y, i, j: (x * 9).to(torch.int32),
    "truth": lambda x, y, i, j: i.bool(),
    "double": lambda x, y, i, j: x.double(),
    "half": lambda x, y, i, j: x.half().float(),
    "bfloat16": lambda x, y, i, j: x.bfloat16().float(),
    "as another": lambda x, y, i, j: x.type_as(i),
    "clone": lambda x, y, i, j: x.clone().contiguous() + x.detach(),
    "dropout": lambda x, y, i, j: F.dropout(x, 0.5, training=False),
}
FAMILIES = {
    "unary": (UNARY, small),
    "activations": (ACTIVATIONS, wide),
    "arithmetic": (ARITHMETIC, mixed),
    "truth": (TRUTH, mixed),
    "choices": (CHOICES, mixed),
    "casts": (CASTS, mixed),
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_torchs(holds: Function, family: str, is_symbolic: bool) -> None:
    holds(*FAMILIES[family], is_symbolic)


def sized(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 5), torch.randint(0, 9, (batch, 5))


SIZES: dict[str, Function] = {
    "product": lambda x, i: x * x.shape[0],
    "sum with an expression": lambda x, i: i + x.shape[0] * 2,
    "quotient": lambda x, i: x / x.shape[0],
    "comparison": lambda x, i: i == x.shape[0] - 1,
    "choice": lambda x, i: torch.where(x > 0, x, x.shape[0]),
    "bound": lambda x, i: i.clamp(max=x.shape[0]),
    "tensor": lambda x, i: torch.tensor(x.shape[0]) + i,
    "filling": lambda x, i: torch.full((3,), x.shape[0]),
    "power": lambda x, i: torch.zeros(x.shape[0], x.shape[0]).reshape(-1).sum() + (x.shape[0] ** 2) * x,
    "extremes": lambda x, i: x + max(x.shape[0] - 3, 2),
    "floor of the negative": lambda x, i: x + (-x.shape[0]) // 3,
    "remainder": lambda x, i: x + x.shape[0] % 3,
    "bits of a quotient": lambda x, i: x + 100 // x.shape[0],
}


def test_a_symbolic_size_can_be_an_operand(holds: Function) -> None:
    holds(SIZES, sized, True)
