"""The driver: finds matches by the operator of their root and replaces them, in one sweep and a worklist."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import ClassVar

from ...ir.builder import Builder
from ...ir.errors import CheckError
from ...ir.graph import Constant, Graph, Node, Value
from ..base import Effect, Pass, PassContext, PassResult
from .match import Match, find_match
from .rule import RewriteRule


def apply_rules(graph: Graph, rules: Iterable[RewriteRule]) -> PassResult:
    """Apply rules wherever they match, until none does.

    Each node is tried once, and again when an operand of it was replaced: the work is linear in the graph.

    Raises:
        CheckError: a replacement has another type than what it replaces.
    """
    index: defaultdict[str, list[RewriteRule]] = defaultdict(list)
    for rule in rules:
        index[rule.root.operator].append(rule)
    worklist = deque(node for node in graph.nodes if node.operator in index)
    erased: set[Node] = set()
    counts: Counter[str] = Counter()
    misses: dict[str, None] = {}
    while worklist:
        node = worklist.popleft()
        if node in erased:
            continue
        for rule in index[node.operator]:
            match = find_match(rule, node)
            if match is None:
                continue
            reason = rule.check(match)
            if reason:
                misses[f"{rule.name} at {node.location}: {reason}"] = None
                continue
            new = _replace(graph, rule, match, erased)
            counts[rule.name] += 1
            touched = [new.producer] if new.producer is not None else []
            touched += [use.node for use in new.uses]
            worklist.extend(touching for touching in touched if touching.operator in index)
            break
    return PassResult(dict(counts), tuple(misses))


def _replace(graph: Graph, rule: RewriteRule, match: Match, erased: set[Node]) -> Value:
    old = match.root.output
    new = rule.build(Builder(graph, before=match.root, location=match.root.location), match)
    if new.dtype is not old.dtype or new.type.rank != old.type.rank:
        raise CheckError(f"rule {rule.name} at {match.root.location} replaces {old.type} by {new.type}")
    graph.replace_uses(old, new)
    for node in match.nodes:
        if node not in erased and not any(output.uses or graph.is_output(output) for output in node.outputs):
            graph.erase(node)
            erased.add(node)
            _erase_unread(graph, node)
    return new


def _erase_unread(graph: Graph, node: Node) -> None:
    """Remove the constants that only an erased node had read: a folded weight would be counted twice."""
    for value in dict.fromkeys(node.inputs):
        if isinstance(value, Constant) and not value.uses and not graph.is_output(value):
            graph.erase_constant(value)


class RewritePass(Pass):
    """A pass that is nothing but rules: subclasses name them."""

    rules: ClassVar[Sequence[RewriteRule]]

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Apply the rules until none matches."""
        return apply_rules(graph, self.rules)


class RulePass(Pass):
    """A rewrite rule of the user's own, as a step of a pipeline.

    Attributes:
        rule: that is applied.
        reference: `module:NAME`, by which a pipeline names it.
    """

    def __init__(self, rule: RewriteRule, reference: str) -> None:
        self.rule = rule
        self.reference = reference

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] -- one class serves every rule
        return self.rule.name

    @property
    def effect(self) -> Effect:  # pyright: ignore[reportIncompatibleVariableOverride] -- likewise
        return self.rule.effect

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Apply the rule until it matches nowhere."""
        return apply_rules(graph, (self.rule,))
