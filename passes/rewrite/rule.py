"""What a rewrite rule is.

    RewriteRule(
        "fuse-swish",
        pattern=lambda op, x: op.Mul(x, op.Sigmoid(x)),
        replacement=lambda op, x: op.Swish(x),
    )

The pattern is an ordinary function: its parameters after `op` are variables, each of which binds one value; numbers
match scalar constants; attributes that are given must be equal, others are free. What else may stand in a pattern is
what `PatternBuilder` has methods for. The replacement's parameters are the names that it needs, of variables and
attributes; `match` among them gives the whole `Match`. A pattern that returns several values is replaced by as many.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, cast

from ...ir.builder import Builder
from ...ir.errors import UsageError
from ...ir.graph import Value
from ..base import Effect
from .matched import Match
from .pattern import Application, Name, PatternBuilder, Result, Variable, key_of, keys, parts

BindingPath: TypeAlias = tuple[Variable | Result, tuple[Result, ...]]
"""A part of a pattern that is bound, and what is below it, nearest first."""


def _always(match: Match) -> str:
    return ""


@dataclass(frozen=True)
class RewriteRule:
    """A pattern, its replacement, and when the one may stand for the other.

    Attributes:
        name: the name under which applications are counted.
        pattern: builds what is looked for, with `op` and one parameter for each variable.
        replacement: builds what replaces it, and returns the value that stands for the pattern's, or a tuple of them.
        check: why a match may not be replaced, as a phrase, or an empty text where it may. It looks at the match alone:
            when something else changes, it isn't asked again.
        effect: how far a replacement may move the outputs.
        description: the description for the list of passes.
    """

    name: str
    pattern: Callable[..., Any]
    replacement: Callable[..., Any]
    check: Callable[[Match], str] = field(default=_always)
    effect: Effect = Effect.ROUNDING
    description: str = "A rewrite rule."

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """The values that are replaced, as patterns; the first one's node is where matching begins.

        Raises:
            UsageError: the functions of the rule don't make sense.
        """
        made: Any = self.pattern(PatternBuilder(), *map(Variable, _parameters(self.pattern)))
        results = cast("tuple[Any, ...]", made) if isinstance(made, tuple) else (made,)
        if not made or not all(isinstance(result, Result) for result in results):
            raise UsageError(f"the pattern of rule {self.name} must return an operator's result, or a tuple of them")
        names = [key if isinstance(key, str) else key.name for key in _bound(results)]
        if clash := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"the pattern of rule {self.name} calls two things {clash!r}")
        if missing := [name for name in _parameters(self.replacement) if name not in {*names, "match"}]:
            raise UsageError(
                f"the replacement of rule {self.name} asks for {missing[0]!r}, which its pattern doesn't bind"
            )
        return results

    @cached_property
    def bound(self) -> tuple[Name, ...]:
        """The names that a match binds, without those of nodes."""
        return _bound(self.results)

    @property
    def root(self) -> Application:
        """The node of the first result, from which matching goes up to the variables."""
        return self.results[0].application

    @cached_property
    def read(self) -> frozenset[str]:
        """The operators whose results the root must read; a node that lacks one needn't be matched, in any order."""
        return frozenset(operand.application.operator for operand in self.root.operands if isinstance(operand, Result))

    @cached_property
    def ways(self) -> tuple[BindingPath, ...]:
        """How to find each result but the first: from what those before it bind, down to it.

        Raises:
            UsageError: the results have nothing in common.
        """
        return tuple(self._way(index) for index in range(1, len(self.results)))

    def _way(self, index: int) -> BindingPath:
        earlier = [part for result in self.results[:index] for part, _ in parts(result)]
        bound = {key_of(part) for part in earlier if isinstance(part, Variable | Result)}
        ways = [
            (part, below)
            for part, below in parts(self.results[index])
            if isinstance(part, Variable | Result) and key_of(part) in bound
        ]
        if not ways:
            raise UsageError(
                f"result {index} of the pattern of rule {self.name} has nothing in common with those before it"
            )
        return min(ways, key=lambda way: (isinstance(way[0], Variable) and way[0].is_constant, len(way[1])))

    @cached_property
    def _wanted(self) -> tuple[str, ...]:
        return _parameters(self.replacement)

    def build(self, op: Builder, match: Match) -> tuple[Value, ...]:
        """Write the replacement of a match into the graph.

        Raises:
            UsageError: the replacement returns more or fewer values than the pattern.
        """
        available = {**match.values, **match.rests, **match.attributes, "match": match}
        made = self.replacement(op, *(available[name] for name in self._wanted))
        values = cast("tuple[Value, ...]", made) if isinstance(made, tuple) else (made,)
        if len(values) != len(self.results):
            raise UsageError(f"rule {self.name} replaces {len(self.results)} values by {len(values)}")
        return values


def _bound(results: Sequence[Result]) -> tuple[Name, ...]:
    return tuple(dict.fromkeys(keys(results)))


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's parameters after `op`."""
    return tuple(inspect.signature(function).parameters)[1:]
