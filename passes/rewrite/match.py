"""Matching a pattern against the graph, upwards from the node that computes the value to be replaced."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ...ir.graph import Attribute, Constant, Graph, Node, Value
from .rule import Application, Number, Pattern, RewriteRule

_COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum"})


@dataclass(frozen=True, slots=True)
class Match:
    """Where a pattern was found.

    Attributes:
        root: the node whose output is replaced.
        nodes: all nodes of the pattern, the root first.
        values: what each variable is bound to; None for an optional input that is left out.
    """

    root: Node
    nodes: tuple[Node, ...]
    values: dict[str, Value | None]

    def __getitem__(self, variable: str) -> Value:
        value = self.values[variable]
        if value is None:
            raise KeyError(f"{variable} is an input that is left out")
        return value

    def constant(self, variable: str) -> np.ndarray | None:
        """The data of a variable that is bound to a constant, None otherwise."""
        value = self.values[variable]
        return value.data if isinstance(value, Constant) else None

    def data(self, variable: str) -> np.ndarray:
        """The data of a variable that the rule's check found constant."""
        value = self[variable]
        assert isinstance(value, Constant)
        return value.data

    def node(self, operator: str) -> Node:
        """The first node of an operator in the match, from the root up."""
        return next(node for node in self.nodes if node.operator == operator)


def find_matches(graph: Graph, rule: RewriteRule, root: Node) -> Iterator[Match]:
    """The matches of a rule at a node: several where operands may be swapped.

    Nodes above the root must be read by nobody else, since they go; so must all outputs of the root but the first.
    """
    if not _are_read_within((), root.outputs[1:], graph):
        return
    for bindings, nodes in _match_node(rule.root, root, {}, ()):
        if all(_are_read_within(nodes, node.outputs, graph) for node in nodes[1:]):
            yield Match(root, nodes, {name: value for name, value in bindings.items() if isinstance(name, str)})


def _are_read_within(nodes: Sequence[Node], values: Sequence[Value], graph: Graph) -> bool:
    """Whether nobody but these nodes reads the values, nor the graph returns them."""
    return not any(graph.is_output(value) or any(use.node not in nodes for use in value.uses) for value in values)


_Bindings = dict[str | Application, Value | None]
"""What variables stand for, and shared subpatterns: where a pattern uses a result twice, the graph must as well."""

_State = tuple[_Bindings, tuple[Node, ...]]


def _match_node(pattern: Application, node: Node, bindings: _Bindings, nodes: tuple[Node, ...]) -> Sequence[_State]:
    """Every way to match an operator's node, as bindings and nodes so far."""
    most = len(pattern.operands)
    fewest = most if pattern.operator in _COMMUTATIVE else 0  # whose operands aren't optional
    if node.operator != pattern.operator or not fewest <= len(node.inputs) <= most:
        return ()
    if not all(value is None or value.type.is_ranked for value in (*node.inputs, *node.outputs)):
        return ()  # checks ask for shapes
    if any(not _equal(node.attributes.get(key), value) for key, value in pattern.attributes.items()):
        return ()
    rank = max((value.type.rank for value in node.inputs if value and not isinstance(value, Constant)), default=0)
    found: list[_State] = []
    for operands in _orders(pattern):
        states: Sequence[_State] = ((bindings, (*nodes, node)),)
        for index, operand in enumerate(operands):
            states = [result for state in states for result in _match_value(operand, node.input(index), rank, *state)]
        found.extend(states)
    return found


def _orders(pattern: Application) -> Sequence[tuple[Pattern, ...]]:
    return tuple(permutations(pattern.operands)) if pattern.operator in _COMMUTATIVE else (pattern.operands,)


def _match_value(
    pattern: Pattern, value: Value | None, rank: int, bindings: _Bindings, nodes: tuple[Node, ...]
) -> Sequence[_State]:
    """Every way to match an operand, of a node whose computed operands have at most a rank."""
    if isinstance(pattern, Number):
        return ((bindings, nodes),) if _is_number(value, pattern.value, rank) else ()
    key = pattern if isinstance(pattern, Application) else pattern.name
    if key in bindings:
        return ((bindings, nodes),) if bindings[key] is value else ()
    bindings = {**bindings, key: value}
    if not isinstance(pattern, Application):
        return ((bindings, nodes),)
    node = value.producer if value is not None else None
    return _match_node(pattern, node, bindings, nodes) if node is not None and value is node.outputs[0] else ()


def _is_number(value: Value | None, number: float, rank: int) -> bool:
    """Whether a value stands for a number; one of a higher rank gives the result more dimensions as well."""
    if not isinstance(value, Constant) or value.data.size != 1 or value.type.rank > rank:
        return False
    return bool(np.isclose(float(value.data.reshape(-1)[0]), number, rtol=1e-6, atol=0.0))


def _equal(attribute: Attribute | None, wanted: Attribute) -> bool:
    return np.array_equal(attribute, wanted) if isinstance(attribute, np.ndarray) else attribute == wanted
