"""Matching a pattern against the graph, upwards from the node that computes the value to be replaced."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ...ir.graph import Attribute, Constant, Node, Value
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

    def node(self, operator: str) -> Node:
        """The first node of an operator in the match, from the root up."""
        return next(node for node in self.nodes if node.operator == operator)


def find_match(rule: RewriteRule, root: Node) -> Match | None:
    """The match of a rule at a node, None where there is none.

    Nodes above the root must be read by nobody else, since they go.
    """
    for bindings, nodes in _match_node(rule.root, root, {}, ()):
        inner = set(nodes)
        if all(_is_private(node, inner) for node in nodes[1:]):
            return Match(root, nodes, {name: value for name, value in bindings.items() if isinstance(name, str)})
    return None


def _is_private(node: Node, inner: set[Node]) -> bool:
    return all(use.node in inner for output in node.outputs for use in output.uses)


_Bindings = dict[str | Application, Value | None]
"""What variables stand for, and shared subpatterns: where a pattern uses a result twice, the graph must as well."""

_State = tuple[_Bindings, tuple[Node, ...]]


def _match_node(pattern: Application, node: Node, bindings: _Bindings, nodes: tuple[Node, ...]) -> Sequence[_State]:
    """Every way to match an operator's node, as bindings and nodes so far."""
    if node.operator != pattern.operator or len(node.inputs) > len(pattern.operands):
        return ()
    if any(not _equal(node.attributes.get(key), value) for key, value in pattern.attributes.items()):
        return ()
    found: list[_State] = []
    for operands in _orders(pattern):
        states: Sequence[_State] = ((bindings, (*nodes, node)),)
        for index, operand in enumerate(operands):
            states = [result for state in states for result in _match_value(operand, node.input(index), *state)]
        found.extend(states)
    return found


def _orders(pattern: Application) -> Sequence[tuple[Pattern, ...]]:
    return tuple(permutations(pattern.operands)) if pattern.operator in _COMMUTATIVE else (pattern.operands,)


def _match_value(
    pattern: Pattern, value: Value | None, bindings: _Bindings, nodes: tuple[Node, ...]
) -> Sequence[_State]:
    if isinstance(pattern, Number):
        return ((bindings, nodes),) if _is_number(value, pattern.value) else ()
    key = pattern if isinstance(pattern, Application) else pattern.name
    if key in bindings:
        return ((bindings, nodes),) if bindings[key] is value else ()
    bindings = {**bindings, key: value}
    if not isinstance(pattern, Application):
        return ((bindings, nodes),)
    node = value.producer if value is not None else None
    return _match_node(pattern, node, bindings, nodes) if node is not None and value is node.outputs[0] else ()


def _is_number(value: Value | None, number: float) -> bool:
    if not isinstance(value, Constant) or value.data.size != 1:
        return False
    return bool(np.isclose(float(value.data.reshape(-1)[0]), number, rtol=1e-6, atol=0.0))


def _equal(attribute: Attribute | None, wanted: Attribute) -> bool:
    return np.array_equal(attribute, wanted) if isinstance(attribute, np.ndarray) else attribute == wanted
