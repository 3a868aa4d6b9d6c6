"""Matching a pattern against the graph, upwards from the node that computes the first value to be replaced."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations
from typing import Any, TypeAlias

import numpy as np

from ...ir.graph import Attribute, Constant, Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.types import DType
from .matched import Match
from .pattern import (
    Application,
    AttributeVariable,
    Either,
    Key,
    Number,
    Optional,
    Pattern,
    Rest,
    Result,
    Variable,
    key_of,
    keys,
)
from .rule import RewriteRule, Way

Found: TypeAlias = dict[Key, Any]
"""What the parts of a pattern stand for, so far, in the order in which they were met."""


def find_matches(rule: RewriteRule, root: Node) -> Iterator[Match]:
    """The matches of a rule at a node: several where operands may be swapped.

    All nodes are in the graph of the root, and nobody but them reads what they compute, apart from the results: they
    go.
    """
    states = _match_node(rule.root, root, {})
    for result, way in zip(rule.results[1:], rule.ways, strict=True):
        states = [
            new for found in states for value in reached(way, found) for new in _match_value(result, value, root, found)
        ]
    for found in states:
        match = complete(rule, found)
        if isinstance(match, Match):
            yield match


def complete(rule: RewriteRule, found: Found) -> Match | str:
    """The match of all parts of a pattern, or why the nodes can't be replaced."""
    nodes = tuple(node for key, node in found.items() if isinstance(key, Application))
    results = tuple(found[result.application].outputs[result.index] for result in rule.results)
    root = nodes[0]
    if len({value.producer for value in results}) < len({result.application for result in rule.results}):
        return "two of its results are one"
    for node in nodes:
        if node.owner is not root.owner:
            return f"{node.operator} at {node.location} is in a graph around this one"
        # checks ask for shapes
        if not all(value is None or value.type.is_ranked for value in (*node.inputs, *node.outputs)):
            return f"the rank of what {node.operator} at {node.location} reads or computes is unknown"
        for value in node.outputs:
            if value not in results and (reader := _outsider(value, nodes)):
                return f"%{value.name} is also read by {reader}"
    found = {key: () if isinstance(key, Rest) else None for key in rule.bound} | found
    place = _place(root.owner, nodes, results, found)
    if place is None:
        return "there is no place after all that it reads and before all that read its results"
    return Match(
        root,
        nodes,
        results,
        place,
        values={key: value for key, value in found.items() if isinstance(key, str)},
        rests={key.name: value for key, value in found.items() if isinstance(key, Rest)},
        attributes={key.name: value for key, value in found.items() if isinstance(key, AttributeVariable)},
    )


def _outsider(value: Value, nodes: Sequence[Node]) -> str:
    """Who reads a value that isn't among some nodes; empty if nobody does."""
    for node in (use.node for use in value.uses if use.node not in nodes):
        return f"{node.operator} at {node.location}"
    producer = value.producer
    return "whoever runs the graph" if producer and producer.owner.is_output(value) else ""


def _place(graph: Graph, nodes: Sequence[Node], results: Sequence[Value], found: Found) -> Node | None:
    """The node before which a replacement can be written: after what it may read, before who reads the results.

    Nodes compute results in the order of the graph, so that the last of them has all inputs before it. Only readers of
    the others' results may force the place further up.
    """
    heads = dict.fromkeys(value.producer for value in results if value.producer is not None)
    if len(heads) == 1:
        return next(iter(heads))
    last = max(heads, key=graph.position)
    uses = (use for value in results if value.producer is not last for use in value.uses)
    readers = [use.node for use in uses if use.node not in nodes]
    if any(reader.owner is not graph for reader in readers):
        return None  # a graph inside of a node reads it, whose place isn't known
    place = min((last, *readers), key=graph.position)
    bound = [item for value in found.values() for item in (value if isinstance(value, tuple) else (value,))]
    inputs = [value.producer for value in bound if isinstance(value, Value) and value.producer is not None]
    ahead = (graph.position(node) < graph.position(place) for node in inputs if node.owner is graph)
    return place if all(ahead) else None


def reached(way: Way, found: Found) -> Iterable[Value]:
    """The values at the end of a way: from something found, down through the nodes that read it."""
    start, steps = way
    bound = found.get(key_of(start))  # nothing within an optional input that is left out
    values: list[Value] = [] if bound is None else [bound.outputs[start.index] if isinstance(start, Result) else bound]
    for step in steps:
        operator, index = step.application.operator, step.index
        nodes = dict.fromkeys(use.node for value in values for use in value.uses if use.node.operator == operator)
        values = [node.outputs[index] for node in nodes if index < len(node.outputs)]
    return values


def _match_node(pattern: Application, node: Node, found: Found) -> Sequence[Found]:
    """Every way to match an operator's node, each as what is found so far."""
    if node.operator != pattern.operator or pattern.outputs not in (None, len(node.outputs)):
        return ()
    found = {**found, pattern: node}
    for name, wanted in pattern.attributes.items():
        attribute = attribute_of(node, name)
        if not is_wanted(attribute, wanted, found):
            return ()
        if isinstance(wanted, AttributeVariable):
            found[wanted] = attribute
    every: list[Found] = []
    for pairs in pairings(pattern, node):
        states: Sequence[Found] = (found,)
        for operand, value in pairs:
            states = [new for state in states for new in _match_value(operand, value, node, state)]
        every.extend(states)
    return every


def pairings(pattern: Application, node: Node) -> Iterable[Sequence[tuple[Pattern | Rest, Any]]]:
    """The ways to hand a node's inputs to the operands of a pattern; none if there are too many or too few inputs."""
    inputs, operands, rest = node.inputs, pattern.operands, pattern.rest
    excess = len(inputs) - len(operands)
    if excess > 0 and rest is None:
        return ()
    if not has_trait(pattern.operator, Trait.COMMUTATIVE):
        pairs = tuple(zip(operands, (*inputs, *(None,) * -excess), strict=False))
        return (pairs if rest is None else (*pairs, (rest, inputs[len(operands) :])),)
    orders = permutations(range(len(inputs)), len(operands))  # none if there are too few: these aren't optional
    if rest is None:
        return [[(operand, inputs[index]) for operand, index in zip(operands, order, strict=True)] for order in orders]
    return (
        [
            *((operand, inputs[index]) for operand, index in zip(operands, order, strict=True)),
            (rest, tuple(value for index, value in enumerate(inputs) if index not in order)),
        ]
        for order in orders
    )


def _match_value(pattern: Pattern | Rest, value: Any, reader: Node, found: Found) -> Sequence[Found]:
    """Every way to match an operand of a node."""
    if isinstance(pattern, Result):
        node = None if value is None else value.producer
        if value is None or node is None or value.index != pattern.index:
            return ()
        known = found.get(pattern.application)
        return _match_node(pattern.application, node, found) if known is None else (found,) if known is node else ()
    if isinstance(pattern, Variable):
        if pattern.is_constant and not isinstance(value, Constant):
            return ()
        return bind(found, pattern.name, value)
    if isinstance(pattern, Number):
        return (found,) if is_number(value, pattern.value, reader) else ()
    if isinstance(pattern, Either):
        return [new for choice in pattern.patterns for new in _match_value(choice, value, reader, found)]
    if isinstance(pattern, Rest):
        return bind(found, pattern, value)
    return _match_value(pattern.pattern, value, reader, found) if value is not None else without(pattern, found)


def bind(found: Found, key: Key, value: Any) -> Sequence[Found]:
    """What is found with one thing more; nothing if it is bound to something else already."""
    if key in found:
        return (found,) if _are_same(found[key], value) else ()
    return ({**found, key: value},)


def without(pattern: Optional, found: Found) -> Sequence[Found]:
    """What is found if an optional input is left out."""
    missing = {key: () if isinstance(key, Rest) else None for key in keys((pattern,))}
    if not all(_are_same(found.get(key, nothing), nothing) for key, nothing in missing.items()):
        return ()
    return ({**found, **missing},)


def is_number(value: Value | None, number: float, reader: Node) -> bool:
    """Whether an operand stands for a number; one of higher rank than the others doesn't, since it adds dimensions."""
    if not isinstance(value, Constant) or value.data.size != 1 or value.dtype is DType.string:
        return False
    others = (other.type for other in reader.inputs if other is not None and not isinstance(other, Constant))
    if value.type.rank > max((type.rank for type in others if type.is_ranked), default=0):
        return False
    return bool(np.isclose(float(value.data.reshape(-1)[0]), number, rtol=1e-6, atol=0.0))


def attribute_of(node: Node, name: str) -> Attribute:
    """A node's attribute; where it isn't set the schema's default, or None."""
    if name in node.attributes:
        return node.attributes[name]
    from ...ir.ops.registry import operators  # brings torch; passes are listed without it

    meaning = operators().get(node.operator)
    default = None if meaning is None else meaning.defaults.get(name)
    return None if default is inspect.Parameter.empty else default


def is_wanted(attribute: Attribute, wanted: Attribute | AttributeVariable, found: Found) -> bool:
    """Whether an attribute is what a pattern says; one that is bound must be no graph, which would go with its node."""
    if isinstance(wanted, AttributeVariable):
        return not isinstance(attribute, Graph) and _are_same(found.get(wanted, attribute), attribute)
    return _are_same(attribute, wanted)


def _are_same(one: Any, other: Any) -> bool:
    arrays = isinstance(one, np.ndarray) or isinstance(other, np.ndarray)
    return np.array_equal(one, other) if arrays else bool(one == other)
