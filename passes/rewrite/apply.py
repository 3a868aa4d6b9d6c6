"""The driver: finds matches by the operator of their root and replaces them, node by node."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeAlias

from ...ir.builder import Builder, Operand
from ...ir.errors import CheckError, UsageError
from ...ir.graph import Constant, Graph, Location, Node, Value, nested, nested_nodes
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ..base import Pass, PassContext, PassResult
from .match import find_matches
from .matched import Match
from .reach import Reach
from .rule import RewriteRule

_MOST = 100
"""Replacements for each node of the graph, beyond which rules are taken to undo each other."""


Applies: TypeAlias = Callable[..., bool]


def _always(rewrite: str, *nodes: Node) -> bool:
    return True


def apply_rules(graph: Graph, rules: Iterable[RewriteRule], applies: Applies = _always) -> PassResult:
    """Apply rules wherever they match, in the graph and those inside its nodes, until none does.

    Every node is tried once; after a replacement the new nodes are tried next, and at the end those that may match
    because of it: the work is linear in the graph.

    Args:
        graph: the graph to rewrite.
        rules: the rules in the order in which they are tried.
        applies: asked before each replacement, as `PassContext.applies`.

    Raises:
        CheckError: a replacement has another type than what it replaces.
        UsageError: the rules never come to an end, or one makes no sense.
    """
    driver = _Driver(graph, tuple(rules), applies)
    driver.run()
    return PassResult(dict(driver.counts), driver.misses())


class _Driver:
    """A queue of nodes to try, the counts of what was replaced, and why the rest wasn't."""

    def __init__(self, graph: Graph, rules: Sequence[RewriteRule], applies: Applies) -> None:
        self.counts: Counter[str] = Counter()
        self._parts = tuple(nested(graph))
        self._rules: defaultdict[str, list[RewriteRule]] = defaultdict(list)
        for rule in rules:
            self._rules[rule.root.operator].append(rule)
        self._applies = applies
        self._reach = Reach(rules)
        self._queue = deque(node for part in self._parts for node in part.nodes)
        self._waiting = set(self._queue)
        self._misses: dict[Node, list[str]] = {}

    def run(self) -> None:
        """Try nodes until none is left to try."""
        most = _MOST * (len(self._queue) + 1)
        while self._queue:
            node = self._queue.popleft()
            if node not in self._waiting:
                continue  # erased meanwhile
            self._waiting.remove(node)
            found = self._find(node)
            if found is None:
                continue
            rule, match = found
            self._replace(rule, match)
            self.counts[rule.name] += 1
            if self.counts.total() > most:
                raise UsageError(f"rule {rule.name} at {node.location} never comes to an end: its result matches again")

    def misses(self) -> tuple[str, ...]:
        """Why checks refused what is left, in the order of the graph."""
        nodes = nested_nodes(self._parts[0]) if self._misses else ()
        return tuple(dict.fromkeys(miss for node in nodes for miss in self._misses.get(node, ())))

    def _find(self, node: Node) -> tuple[RewriteRule, Match] | None:
        """The first match that its rule's check lets pass."""
        self._misses.pop(node, None)
        if node.operator not in self._rules or _carries(node):
            return None
        misses: list[str] = []
        read = {value.producer.operator for value in node.inputs if value is not None and value.producer is not None}
        for rule in self._rules[node.operator]:
            if not rule.read <= read:
                continue
            reason = ""
            for match in find_matches(rule, node):
                refusal = rule.check(match)
                if not refusal and self._applies(rule.name, *match.nodes):
                    return rule, match
                reason = reason or refusal
            if reason:
                misses.append(f"{rule.name} at {node.location}: {reason}")
        if misses:
            self._misses[node] = misses
        return None

    def _replace(self, rule: RewriteRule, match: Match) -> None:
        """Replace a match, and put into the queue what may match because of it."""
        graph = match.root.owner
        op = _Recorder(graph, match)
        made = rule.build(op, match)
        readers = [use.node for old in match.results for use in old.uses if use.node not in match.nodes]
        for old, new in zip(match.results, made, strict=True):
            if not _can_stand_for(new, old):
                raise CheckError(f"rule {rule.name} at {match.root.location} replaces {old.type} by {new.type}")
            is_returned = graph.is_output(old) and not graph.defines(new)
            graph.replace_uses(old, Builder(graph, match.place, op.location).Identity(new) if is_returned else new)
        left = self._erase(graph, match.nodes)
        self._queue.extendleft(reversed(op.nodes))
        self._waiting.update(op.nodes)
        for node in self._reach.nodes((*op.nodes, *readers), left):
            if node.operator in self._rules and node not in self._waiting:
                self._queue.append(node)
                self._waiting.add(node)

    def _erase(self, graph: Graph, nodes: Iterable[Node]) -> Iterable[Value]:
        """Remove what nobody reads any more, the readers before what they read; returns what else they had read."""
        left = dict.fromkeys(nodes)
        read: dict[Value, None] = {}
        while unread := [
            node for node in left if not any(value.use_count or graph.is_output(value) for value in node.outputs)
        ]:
            for node in unread:
                read |= dict.fromkeys(value for value in (*node.inputs, *node.captured) if value is not None)
                graph.erase(node)
                self._forget(node)
                del left[node]
            for value in [value for value in read if value.producer in unread]:
                del read[value]
        for value in read:
            self._erase_unread(value)
        return read

    def _forget(self, node: Node) -> None:
        """Try an erased node no more, nor those inside it."""
        self._waiting.discard(node)
        self._misses.pop(node, None)
        for body in node.graphs:
            for inner in body.nodes:
                self._forget(inner)

    def _erase_unread(self, value: Value) -> None:
        """Remove a constant that only erased nodes had read: a folded weight would be counted twice."""
        if not isinstance(value, Constant) or value.use_count:
            return
        for part in self._parts:
            if part.constants.get(value.name) is value and not part.is_output(value):
                part.erase_constant(value)


class _Recorder(Builder):
    """A builder that remembers what it wrote; a layer that a rule writes anew keeps its place in the user's model."""

    def __init__(self, graph: Graph, match: Match) -> None:
        super().__init__(graph, match.place, match.root.location)
        self.nodes: list[Node] = []
        self._match = match

    def __call__(self, operator: str, *inputs: Operand, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        result = super().__call__(operator, *inputs, outputs=outputs, name=name, **attributes)
        node: Node = (result if outputs == 1 else result[0]).producer
        node.location = self._origin(operator)
        self.nodes.append(node)
        return result

    def _origin(self, operator: str) -> Location:
        """The location of a new node; if that multiplies, the only matched layer's that does: `conv1`, not `bn1`."""
        layers = [node for node in self._match.nodes if has_trait(node.operator, Trait.CONTRACTING)]
        is_the_layer = len(layers) == 1 and has_trait(operator, Trait.CONTRACTING)
        return layers[0].location if is_the_layer and layers[0].location.module else self.location


def _can_stand_for(new: Value, old: Value) -> bool:
    """Whether a value has the type of another, as far as the dimensions of both are known."""
    if new.type == old.type:
        return True
    if new.dtype is not old.dtype or not new.type.is_ranked or new.type.rank != old.type.rank:
        return False
    pairs = zip(new.shape, old.shape, strict=True)
    return all(one == other or isinstance(one, str) or isinstance(other, str) for one, other in pairs)


def _carries(node: Node) -> bool:
    """Whether a node is an Identity by which a graph inside a node returns a value from outside: it has to stay."""
    if node.operator != "Identity" or not node.owner.is_output(node.output):
        return False
    value = node.input(0)
    return value is not None and not node.owner.defines(value)


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
        rule: the rule to apply.
        reference: the text `module:NAME` by which a pipeline names the rule.
    """
    module, _, attribute = reference.partition(":")
    contract = {"name": rule.name, "effect": rule.effect, "rules": (rule,), "__doc__": rule.description}
    return type(attribute, (RewritePass,), {**contract, "__module__": module, "__qualname__": attribute})
