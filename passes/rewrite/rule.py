"""What a rewrite rule is, and how its pattern function becomes a tree.

    RewriteRule(
        "fuse-swish",
        pattern=lambda op, x: op.Mul(x, op.Sigmoid(x)),
        replacement=lambda op, x: op.Swish(x),
    )

The pattern is an ordinary function: its parameters after `op` are variables, each of which binds one value; numbers match
scalar constants; attributes that are given must be equal, others are free. The replacement's parameters are the names
that it needs; `match` among them gives the whole `Match`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from ...ir.builder import Builder
from ...ir.graph import Attribute, Value
from ..base import Effect

if TYPE_CHECKING:
    from .match import Match


@dataclass(frozen=True, slots=True)
class Variable:
    """Matches any value; the same one wherever the name recurs."""

    name: str


@dataclass(frozen=True, slots=True)
class Number:
    """Matches a constant all of whose elements are this number."""

    value: float


@dataclass(frozen=True, slots=True, eq=False)
class Application:
    """Matches an output of an operator applied to what its operands match."""

    operator: str
    operands: tuple["Pattern", ...]
    attributes: Mapping[str, Attribute]


Pattern: TypeAlias = Variable | Number | Application


class PatternBuilder:
    """Stands in for the builder while a pattern is read: records what the function writes."""

    def __call__(self, operator: str, *operands: Pattern | float, **attributes: Any) -> Application:
        recorded = tuple(Number(operand) if isinstance(operand, int | float) else operand for operand in operands)
        held = {key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()}
        return Application(operator, recorded, held)

    def __getattr__(self, operator: str) -> Callable[..., Application]:
        def record(*operands: Pattern | float, **attributes: Any) -> Application:
            return self(operator, *operands, **attributes)

        return record


def _always(match: "Match") -> str:
    return ""


@dataclass(frozen=True)
class RewriteRule:
    """A pattern, its replacement, and when the one may stand for the other.

    Attributes:
        name: under which applications are counted.
        pattern: builds what is looked for, with `op` and one parameter for each variable.
        replacement: builds what replaces it, and returns the value that stands for the pattern's.
        check: why a match may not be replaced, as a phrase, or an empty text where it may.
        effect: how far it may move the outputs.
        description: for the list of passes.
    """

    name: str
    pattern: Callable[..., Any]
    replacement: Callable[..., Value]
    check: Callable[["Match"], str] = field(default=_always)
    effect: Effect = Effect.ROUNDING
    description: str = "A rewrite rule."

    @cached_property
    def root(self) -> Application:
        """The pattern as a tree, from the value that is replaced down to the variables."""
        variables = list(inspect.signature(self.pattern).parameters)[1:]
        root = self.pattern(PatternBuilder(), *map(Variable, variables))
        if not isinstance(root, Application):
            raise TypeError(f"the pattern of rule {self.name} must return an operator's result")
        return root

    def build(self, op: Builder, match: "Match") -> Value:
        """Write the replacement of a match into the graph."""
        available = {**match.values, "match": match}
        names = list(inspect.signature(self.replacement).parameters)[1:]
        return self.replacement(op, *(available[name] for name in names))
