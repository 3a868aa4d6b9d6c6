"""Matching a pattern against the graph, upwards from the node that computes the first value to be replaced.

A match is looked for in two moods: `Exact` gives up where something differs, which is how rules are applied; `Furthest`
notes the difference and goes on, which is how near misses are told (`explain`).
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import permutations
from typing import Any, Protocol, TypeAlias

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
from .rule import BindingPath, RewriteRule

Bindings: TypeAlias = dict[Key, Any]
"""What the parts of a pattern stand for, so far, in the order in which they were met."""
DIFFERENCES = "what differs"
"""The key, beside those of a pattern, of what `Furthest` has noted."""


class Mood(Protocol):
    """What becomes of a search where something differs, and of several ways to match."""

    def differ(self, found: Bindings, reason: Callable[[], str]) -> Sequence[Bindings]:
        """Go on, or not, though something differs; the reason is a phrase."""
        ...

    def choose(self, states: Sequence[Bindings]) -> Sequence[Bindings]:
        """The ways to go on with."""
        ...


class Exact:
    """Gives up where something differs, and goes on with every way to match."""

    def differ(self, found: Bindings, reason: Callable[[], str]) -> Sequence[Bindings]:
        return ()

    def choose(self, states: Sequence[Bindings]) -> Sequence[Bindings]:
        return states


class Furthest:
    """Notes what differs and goes on, with the way in which most of a pattern is there."""

    def differ(self, found: Bindings, reason: Callable[[], str]) -> Sequence[Bindings]:
        return ({**found, DIFFERENCES: (*found.get(DIFFERENCES, ()), reason())},)

    def choose(self, states: Sequence[Bindings]) -> Sequence[Bindings]:
        return (max(states, key=extent),) if len(states) > 1 else states


EXACT, FURTHEST = Exact(), Furthest()


def nodes_in(found: Bindings) -> tuple[Node, ...]:
    """The nodes that were found, the root first."""
    return tuple(node for key, node in found.items() if isinstance(key, Application))


def extent(found: Bindings) -> tuple[int, int]:
    """How much of a pattern is there, to compare: the nodes, and then how little differs."""
    return len(nodes_in(found)), -len(found.get(DIFFERENCES, ()))


def find_matches(rule: RewriteRule, root: Node) -> Iterator[Match]:
    """The matches of a rule at a node: several where operands may be swapped.

    All nodes of a match are in the root's graph, and only they read what they compute, apart from the results: they can
    be removed.
    """
    for found in search(rule, root, EXACT):
        match = complete(rule, found)
        if isinstance(match, Match):
            yield match


def search(rule: RewriteRule, root: Node, mood: Mood) -> Sequence[Bindings]:
    """Every way to bind the parts of a rule's pattern, with a node as its root."""
    if rule.root.operator != root.operator:
        return ()
    states = _match_node(rule.root, root, {}, mood)
    for result, way in zip(rule.results[1:], rule.ways, strict=True):
        states = [new for found in states for new in _match_result(result, way, root, found, mood)]
    return states


def _match_result(result: Result, way: BindingPath, root: Node, found: Bindings, mood: Mood) -> Sequence[Bindings]:
    """Every way to match another result of a pattern, at the end of the way to it."""
    states = [new for value in follow(way, found) for new in _match_value(result, value, root, found, mood)]
    return mood.choose(states) or mood.differ(found, lambda: f"no {result.application.operator} reads the same")


def complete(rule: RewriteRule, found: Bindings) -> Match | str:
    """The match of all parts of a pattern, or why the nodes can't be replaced."""
    nodes = nodes_in(found)
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
        return "no position in the graph comes after all of its inputs and before all readers of its results"
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
    """A reader of a value that isn't among some nodes, in words; empty if there is none."""
    for node in (use.node for use in value.uses if use.node not in nodes):
        return f"{node.operator} at {node.location}"
    producer = value.producer
    return "the caller, as an output of the graph" if producer and producer.owner.is_output(value) else ""


def _place(graph: Graph, nodes: Sequence[Node], results: Sequence[Value], found: Bindings) -> Node | None:
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


def follow(way: BindingPath, found: Bindings) -> Iterable[Value]:
    """The values at the end of a way: from something found, down through the nodes that read it."""
    start, steps = way
    bound = found.get(key_of(start))  # nothing within an optional input that is left out
    values: list[Value] = [] if bound is None else [bound.outputs[start.index] if isinstance(start, Result) else bound]
    for step in steps:
        operator, index = step.application.operator, step.index
        nodes = dict.fromkeys(use.node for value in values for use in value.uses if use.node.operator == operator)
        values = [node.outputs[index] for node in nodes if index < len(node.outputs)]
    return values


def _match_node(pattern: Application, node: Node, found: Bindings, mood: Mood) -> Sequence[Bindings]:
    """Every way to match a node of the right operator, each as what is found so far."""
    states: Sequence[Bindings] = ({**found, pattern: node},)
    if pattern.outputs not in (None, len(node.outputs)):
        states = mood.differ(
            states[0], lambda: f"{_where(node)} has {len(node.outputs)} outputs, not {pattern.outputs}"
        )
    for name, wanted in pattern.attributes.items():
        states = [new for state in states for new in _match_attribute(name, wanted, node, state, mood)]
    if not states:
        return ()
    (found,) = states  # attributes match in one way
    every: list[Bindings] = []
    for pairs in pairings(pattern, node):
        states = (found,)
        for operand, value in pairs:
            states = [new for state in states for new in _match_value(operand, value, node, state, mood)]
        every.extend(states)
    return mood.choose(every) or mood.differ(found, lambda: f"{_where(node)} has {len(node.inputs)} inputs")


def _match_attribute(
    name: str, wanted: Attribute | AttributeVariable, node: Node, found: Bindings, mood: Mood
) -> Sequence[Bindings]:
    attribute = attribute_of(node, name)
    if is_wanted(attribute, wanted, found):
        return ({**found, wanted: attribute} if isinstance(wanted, AttributeVariable) else found,)

    def reason() -> str:
        expected = found.get(wanted, "no graph") if isinstance(wanted, AttributeVariable) else wanted
        return f"{name} of {_where(node)} is {attribute}, not {expected}"

    return mood.differ(found, reason)


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


def _match_value(pattern: Pattern | Rest, value: Any, reader: Node, found: Bindings, mood: Mood) -> Sequence[Bindings]:
    """Every way to match an operand of a node."""
    if isinstance(pattern, Result):
        return _match_origin(pattern, value, found, mood)
    if isinstance(pattern, Variable):
        if pattern.is_constant and not isinstance(value, Constant):
            return mood.differ(found, lambda: f"{_show(value)}, where {pattern.name} is to be a constant")
        return _bind(found, pattern.name, value, reader, mood)
    if isinstance(pattern, Number):
        if is_number(value, pattern.value, reader):
            return (found,)
        return mood.differ(found, lambda: f"{_show(value)}, where the number {pattern.value:.6g} is wanted")
    if isinstance(pattern, Either):
        ways = [new for choice in pattern.patterns for new in _match_value(choice, value, reader, found, mood)]
        return mood.choose(ways)
    if isinstance(pattern, Rest):
        return _bind(found, pattern, value, reader, mood)
    if value is not None:
        return _match_value(pattern.pattern, value, reader, found, mood)
    return _without(pattern, found) or mood.differ(found, lambda: f"{_show(None)}, which is there elsewhere")


def _match_origin(pattern: Result, value: Value | None, found: Bindings, mood: Mood) -> Sequence[Bindings]:
    """Every way to match a value with an output of the node that computes it."""
    application, node = pattern.application, None if value is None else value.producer
    if value is None or node is None or node.operator != application.operator or value.index != pattern.index:
        return mood.differ(found, lambda: f"{_show(value)}, where a result of {application.operator} is wanted")
    known = found.get(application)
    if known is None:
        return _match_node(application, node, found, mood)
    if known is node:
        return (found,)
    return mood.differ(found, lambda: f"{_show(value)}, where that of {_show(known.outputs[0])} is wanted")


def _bind(found: Bindings, key: str | Rest, value: Any, reader: Node, mood: Mood) -> Sequence[Bindings]:
    """The bindings with one key more; they differ if the key is bound to something else already."""
    if key not in found:
        return ({**found, key: value},)
    if _are_same(found[key], value):
        return (found,)
    if isinstance(key, Rest):
        return mood.differ(found, lambda: f"the inputs of {_where(reader)} aren't those that {key.name} stands for")
    return mood.differ(
        found, lambda: f"{_show(value)}, where {key} is to be the same as elsewhere: {_show(found[key])}"
    )


def _without(pattern: Optional, found: Bindings) -> Sequence[Bindings]:
    """The bindings if an optional input is left out; nothing if its names are bound already."""
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


def is_wanted(attribute: Attribute, wanted: Attribute | AttributeVariable, found: Bindings) -> bool:
    """Whether an attribute is what a pattern says; one that is bound must be no graph, which would go with its node."""
    if isinstance(wanted, AttributeVariable):
        return not isinstance(attribute, Graph) and _are_same(found.get(wanted, attribute), attribute)
    return _are_same(attribute, wanted)


def _are_same(one: Any, other: Any) -> bool:
    arrays = isinstance(one, np.ndarray) or isinstance(other, np.ndarray)
    return np.array_equal(one, other) if arrays else bool(one == other)


def _where(node: Node) -> str:
    return f"{node.operator} at {node.location}"


def _show(value: Value | None) -> str:
    """A value and where it comes from, in words."""
    if value is None:
        return "an input is left out"
    if value.producer is not None:
        return f"%{value.name} comes from {value.producer.operator} at {value.producer.location}"
    if not isinstance(value, Constant):
        return f"%{value.name} is an input of the graph"
    if value.data.size != 1 or value.dtype is DType.string:
        return f"%{value.name} is a constant of type {value.type}"
    return f"%{value.name} is the constant {float(value.data.reshape(-1)[0]):.6g} of type {value.type}"
