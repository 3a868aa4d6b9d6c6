"""`planish opt --explain NAME`: where rules nearly matched, on the graph as it is right before their pass runs."""

from collections.abc import Iterator, Sequence

from ..ir.errors import UsageError
from ..ir.graph import Graph
from ..ir.plugins import plugins
from ..ir.suggestion import nearest
from ..passes.base import Pass, PassContext
from ..passes.instrument import Instrument
from ..passes.order import flattened
from ..passes.pipeline import find_pass, pass_classes
from ..passes.rewrite import RewritePass, RewriteRule
from ..passes.rewrite.explain import Explanation, explain

_SHOWN = 3
"""Differences that are spelled out in text."""


class Explain(Instrument):
    """Explains some rules once: before the first pass that applies one of them, or else on the graph as it was read.

    Args:
        name: the name of a pass that is made of rules, or of a rule of such a pass, or `module:Name` for either.

    Raises:
        UsageError: there are no rules of that name; the nearest is suggested.

    Attributes:
        explanations: the explanation of each rule.
        before_pass: the name of the pass that they were explained before; empty for the graph as it was read.
    """

    def __init__(self, name: str) -> None:
        self.explanations: tuple[Explanation, ...] = ()
        self.before_pass = ""
        self._name = name
        self._rules = find_rules(name)
        self._is_awaited = False

    def prepare(self, passes: Sequence[Pass]) -> None:
        """Look whether a pipeline has the rules."""
        self._is_awaited = any(self._applies(step) for step in flattened(passes))

    def start(self, graph: Graph, context: PassContext) -> None:
        if not self._is_awaited:
            self.explanations = explain(graph, self._rules)

    def before(self, step: Pass, graph: Graph) -> None:
        if self._is_awaited and self._applies(step):
            self._is_awaited = False
            self.before_pass = step.name
            self.explanations = explain(graph, self._rules)

    def lines(self) -> Iterator[str]:
        """The explanations as text."""
        yield f"{self._name} on the graph {f'before {self.before_pass}' if self.before_pass else 'as it was read'}"
        for explanation in self.explanations:
            yield from _lines(explanation)

    def _applies(self, step: Pass) -> bool:
        return isinstance(step, RewritePass) and any(rule in step.rules for rule in self._rules)


def find_rules(name: str) -> tuple[RewriteRule, ...]:
    """The rules of a pass, the rules that have a name, or those of `module:Name`.

    Raises:
        UsageError: there is no such pass or rule, or the pass isn't made of rules.
    """
    kinds = [kind for kind in pass_classes().values() if issubclass(kind, RewritePass)]
    named = tuple(rule for kind in kinds for rule in kind.rules if rule.name == name)
    if named and name not in pass_classes():
        return named
    known = {*(kind.name for kind in kinds), *(rule.name for kind in kinds for rule in kind.rules)}
    if ":" not in name and name not in {*pass_classes(), *plugins("passes")}:
        raise UsageError(f"there is no pass or rule {name!r} to explain{nearest(name, known)}")
    kind = find_pass(name)
    if not issubclass(kind, RewritePass):
        raise UsageError(f"pass {name!r} isn't made of rewrite rules, so that there is nothing to explain")
    return tuple(kind.rules)


def _lines(explanation: Explanation) -> Iterator[str]:
    count = len(explanation.near) + explanation.more
    yield f"{explanation.rule}: {_count(explanation.matches, 'match')}, {_count(count, 'near miss')}"
    for miss in explanation.near:
        yield f"  {miss.location}: {len(miss.matched)} of {miss.wanted} nodes: {', '.join(miss.matched)}"
        yield from (f"    {difference}" for difference in miss.differences[:_SHOWN])
        if len(miss.differences) > _SHOWN:
            yield f"    and {len(miss.differences) - _SHOWN} more differences"
    if explanation.more:
        yield f"  and {explanation.more} more"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 'es'}"
