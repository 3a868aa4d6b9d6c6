"""Recognising GELU (Hendrycks and Gimpel 2016) in the arithmetic that exporters write for it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..base import Effect
from ..rewrite import RewritePass, RewriteRule

_ROOT = math.sqrt(2)


def _scaled_by_half(op: Any, x: Any, one_plus: Any) -> list[Any]:
    """The places where exporters put the factor one half."""
    return [
        op.Mul(op.Mul(x, one_plus), 0.5),
        op.Mul(op.Mul(x, 0.5), one_plus),
        op.Mul(x, op.Mul(one_plus, 0.5)),
        op.Div(op.Mul(x, one_plus), 2.0),
    ]


def _erf(variant: int, divides: bool) -> Callable[..., Any]:
    def pattern(op: Any, x: Any) -> Any:
        inner = op.Div(x, _ROOT) if divides else op.Mul(x, 1 / _ROOT)
        return _scaled_by_half(op, x, op.Add(op.Erf(inner), 1.0))[variant]

    return pattern


def _tanh(variant: int, cubes: bool) -> Callable[..., Any]:
    def pattern(op: Any, x: Any) -> Any:
        cube = op.Pow(x, 3.0) if cubes else op.Mul(op.Mul(x, x), x)
        inner = op.Mul(op.Add(x, op.Mul(cube, 0.044715)), math.sqrt(2 / math.pi))
        return _scaled_by_half(op, x, op.Add(op.Tanh(inner), 1.0))[variant]

    return pattern


@dataclass(frozen=True)
class GeluFusion(RewritePass):
    """Write Gelu for `x/2 (1 + erf(x/sqrt 2))`, and its tanh approximation likewise."""

    name: ClassVar[str] = "fuse-gelu"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        *(
            RewriteRule("gelu", _erf(variant, divides), lambda op, x: op.Gelu(x))
            for variant in range(4)
            for divides in (True, False)
        ),
        *(
            RewriteRule("gelu-tanh", _tanh(variant, cubes), lambda op, x: op.Gelu(x, approximate="tanh"))
            for variant in range(4)
            for cubes in (True, False)
        ),
    )
