"""Recognising GELU (Hendrycks and Gimpel 2016) in the arithmetic that exporters write for it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ..base import Effect
from ..rewrite import RewritePass, RewriteRule

_HALVED: tuple[Callable[..., Any], ...] = (
    lambda op, x, one_plus: op.Mul(op.Mul(x, one_plus), 0.5),
    lambda op, x, one_plus: op.Mul(op.Mul(x, 0.5), one_plus),
    lambda op, x, one_plus: op.Mul(x, op.Mul(one_plus, 0.5)),
    lambda op, x, one_plus: op.Div(op.Mul(x, one_plus), 2.0),
)
"""The places where exporters put the factor one half."""


def _erf(halved: Callable[..., Any]) -> Callable[..., Any]:
    def pattern(op: Any, x: Any) -> Any:
        inner = op.either(op.Div(x, math.sqrt(2)), op.Mul(x, math.sqrt(1 / 2)))
        return halved(op, x, op.Add(op.Erf(inner), 1.0))

    return pattern


def _tanh(halved: Callable[..., Any]) -> Callable[..., Any]:
    def pattern(op: Any, x: Any) -> Any:
        cube = op.either(op.Pow(x, 3.0), op.Mul(op.Mul(x, x), x))
        inner = op.Mul(op.Add(x, op.Mul(cube, 0.044715)), math.sqrt(2 / math.pi))
        return halved(op, x, op.Add(op.Tanh(inner), 1.0))

    return pattern


@dataclass(frozen=True)
class GeluFusion(RewritePass):
    """Write Gelu for `x/2 (1 + erf(x/sqrt 2))`, and its tanh approximation likewise."""

    name: ClassVar[str] = "fuse-gelu"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        *(RewriteRule("gelu", _erf(halved), lambda op, x: op.Gelu(x)) for halved in _HALVED),
        *(RewriteRule("gelu-tanh", _tanh(halved), lambda op, x: op.Gelu(x, approximate="tanh")) for halved in _HALVED),
    )
