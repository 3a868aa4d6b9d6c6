"""The driver: finds matches by the operator of their root and replaces them, in sweeps along the graph."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeAlias

from ...ir.builder import Builder, Operand
from ...ir.errors import CheckError, UsageError
from ...ir.graph import Constant, Graph, Location, Node, Value
from ..base import Pass, PassContext, PassResult
from .match import Match, find_matches
from .rule import RewriteRule

_MOST = 100
"""Replacements for each node of the graph, beyond which rules are taken to undo each other."""


Applies: TypeAlias = Callable[..., bool]


def _always(rewrite: str, *nodes: Node) -> bool:
    return True


def apply_rules(graph: Graph, rules: Iterable[RewriteRule], applies: Applies = _always) -> PassResult:
    """Apply rules wherever they match, until none does.

    A sweep tries each node once, and what replaces it next; as nodes read what is before them, little is left to a
    second sweep but to see that nothing is: the work is linear in the graph.

    Args:
        graph: that is rewritten.
        rules: in the order in which they are tried.
        applies: asked before each replacement, as `PassContext.applies`.

    Raises:
        CheckError: a replacement has another type than what it replaces.
        UsageError: the rules never come to an end.
    """
    index: defaultdict[str, list[RewriteRule]] = defaultdict(list)
    for rule in rules:
        index[rule.root.operator].append(rule)
    sweep = _Sweep(graph, index, applies, most=_MOST * (len(graph) + 1))
    while sweep.run():
        pass
    return PassResult(dict(sweep.counts), tuple(sweep.misses))


class _Sweep:
    """Sweeps over a graph, the counts of all of them, and the misses of the last."""

    def __init__(self, graph: Graph, rules: Mapping[str, Sequence[RewriteRule]], applies: Applies, most: int) -> None:
        self.graph = graph
        self.rules = rules
        self.applies = applies
        self.most = most
        self.counts: Counter[str] = Counter()
        self.misses: dict[str, None] = {}
        self._erased: set[Node] = set()

    def run(self) -> bool:
        """Try every node; returns whether any was replaced."""
        before = self.counts.total()
        self.misses.clear()
        queue = deque(self.graph.nodes)
        while queue:
            node = queue.popleft()
            found = None if node in self._erased else self._find(node)
            if found is None:
                continue
            rule, match = found
            queue.extendleft(reversed(self._replace(rule, match)))
            self.counts[rule.name] += 1
            if self.counts.total() > self.most:
                raise UsageError(f"rule {rule.name} at {node.location} never comes to an end: its result matches again")
        return self.counts.total() > before

    def _find(self, node: Node) -> tuple[RewriteRule, Match] | None:
        """The first match that its rule's check lets pass."""
        for rule in self.rules.get(node.operator, ()):
            reason = ""
            for match in find_matches(self.graph, rule, node):
                refusal = rule.check(match)
                if not refusal and self.applies(rule.name, *match.nodes):
                    return rule, match
                reason = reason or refusal
            if reason:
                self.misses[f"{rule.name} at {node.location}: {reason}"] = None
        return None

    def _replace(self, rule: RewriteRule, match: Match) -> list[Node]:
        """Replace a match; returns the new nodes in order."""
        old = match.root.outputs[0]
        op = _Recorder(self.graph, before=match.root, location=match.root.location)
        new = rule.build(op, match)
        if new.dtype is not old.dtype or new.type.rank != old.type.rank:
            raise CheckError(f"rule {rule.name} at {match.root.location} replaces {old.type} by {new.type}")
        self.graph.replace_uses(old, new)
        self._erase(match.nodes)
        return op.nodes

    def _erase(self, nodes: Iterable[Node]) -> None:
        """Remove what nobody reads any more, the readers before what they read."""
        left = set(nodes)
        while unread := {node for node in left if not any(map(self._is_read, node.outputs))}:
            for node in unread:
                self.graph.erase(node)
                _erase_unread(self.graph, node)
            left -= unread
            self._erased |= unread

    def _is_read(self, value: Value) -> bool:
        return bool(value.uses) or self.graph.is_output(value)


class _Recorder(Builder):
    """A builder that remembers what it wrote."""

    def __init__(self, graph: Graph, before: Node, location: Location) -> None:
        super().__init__(graph, before, location)
        self.nodes: list[Node] = []

    def __call__(self, operator: str, *inputs: Operand, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        result = super().__call__(operator, *inputs, outputs=outputs, name=name, **attributes)
        self.nodes.append((result if outputs == 1 else result[0]).producer)
        return result


def _erase_unread(graph: Graph, node: Node) -> None:
    """Remove the constants that only an erased node had read: a folded weight would be counted twice."""
    for value in dict.fromkeys(node.inputs):
        if isinstance(value, Constant) and not value.uses and not graph.is_output(value):
            graph.erase_constant(value)


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass that is nothing but rules: subclasses name them."""

    rules: ClassVar[Sequence[RewriteRule]]

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Apply the rules until none matches."""
        return apply_rules(graph, self.rules, context.applies)


@cache
def rule_pass(rule: RewriteRule, reference: str) -> type[RewritePass]:
    """A pass that applies one rule, such as one of the user's own in a pipeline.

    Args:
        rule: that is applied.
        reference: `module:NAME`, by which a pipeline names it.
    """
    module, _, attribute = reference.partition(":")
    contract = {"name": rule.name, "effect": rule.effect, "rules": (rule,), "__doc__": rule.description}
    return type(attribute, (RewritePass,), {**contract, "__module__": module, "__qualname__": attribute})
