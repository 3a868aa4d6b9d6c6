"""Near misses: where a rule almost matched, and what differed; `planish opt --explain` prints them.

This is a matcher of its own, which goes on where that of `match` gives up. Where operands may be swapped it keeps to
the order that gets furthest, so that a rule has one attempt at a node.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from ...ir.graph import Constant, Graph, Node, Value, nested
from ...ir.types import DType
from .match import (
    Found,
    attribute_of,
    bind,
    complete,
    find_matches,
    is_number,
    is_wanted,
    pairings,
    reached,
    without,
)
from .matched import Match
from .pattern import Application, AttributeVariable, Either, Number, Optional, Pattern, Rest, Result, Variable, choices
from .rule import RewriteRule, Way

MOST = 5
"""Near misses that are told of a rule."""


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A place where a pattern matched in part.

    Attributes:
        location: the layer of the root.
        matched: the nodes that correspond to the pattern's, the root first, such as `Mul %mul_2`.
        wanted: how many nodes the pattern has.
        differences: what would have to be otherwise, as phrases.
    """

    location: str
    matched: tuple[str, ...]
    wanted: int
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the rules of a name found.

    Attributes:
        rule: the name; several patterns may share it.
        matches: how many places match entirely.
        near: the best near misses, those with most nodes first.
        more: how many there are beside them.
    """

    rule: str
    matches: int
    near: tuple[NearMiss, ...]
    more: int


def explain(graph: Graph, rules: Iterable[RewriteRule], most: int = MOST) -> tuple[Explanation, ...]:
    """Tell where rules match in part: their root and another node, or all nodes but not what else they ask for.

    What lies within a match, apart from its root, or within a better near miss of a rule of the same name, is left out.

    Args:
        graph: that is looked at, and left as it is.
        rules: those of one name are told together.
        most: near misses that are told of a name.
    """
    groups: defaultdict[str, list[RewriteRule]] = defaultdict(list)
    for rule in rules:
        groups[rule.name].append(rule)
    nodes = [node for part in nested(graph) for node in part.nodes]
    matches = {name: [match for node in nodes for match in _matches(group, node)] for name, group in groups.items()}
    matched = _Sets(match.nodes for found in matches.values() for match in found)
    explanations: list[Explanation] = []
    for name, group in groups.items():
        attempts = [attempt for node in nodes if (attempt := _attempt(group, node)) is not None]
        attempts.sort(key=_Attempt.rank, reverse=True)  # and in the order of the graph, where that is equal
        told = _Sets()
        near: list[NearMiss] = []
        for attempt in attempts:
            if not matched.include(attempt.nodes[1:] or attempt.nodes) and not told.include(attempt.nodes):
                told.add(attempt.nodes)
                near.append(attempt.near_miss())
        explanations.append(Explanation(name, len(matches[name]), tuple(near[:most]), len(near[most:])))
    return tuple(explanations)


class _Sets:
    """Sets of nodes, to ask whether some are all in one of them."""

    def __init__(self, sets: Iterable[Sequence[Node]] = ()) -> None:
        self._numbers = count()
        self._sets: defaultdict[Node, set[int]] = defaultdict(set)  # the numbers of those that a node is in
        for nodes in sets:
            self.add(nodes)

    def add(self, nodes: Sequence[Node]) -> None:
        number = next(self._numbers)
        for node in nodes:
            self._sets[node].add(number)

    def include(self, nodes: Sequence[Node]) -> bool:
        return bool(set.intersection(*(self._sets[node] for node in nodes)))


def _matches(rules: Iterable[RewriteRule], node: Node) -> Iterator[Match]:
    """The first match at a node that a check lets pass."""
    for rule in rules:
        for match in find_matches(rule, node):
            if not rule.check(match):
                yield match
                return


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What was found of a pattern, and what differs."""

    wanted: int
    found: Found
    differences: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(node for key, node in self.found.items() if isinstance(key, Application))

    def rank(self) -> tuple[int, int]:
        return len(self.nodes), -len(self.differences)

    def but(self, difference: str) -> "_Attempt":
        return replace(self, differences=(*self.differences, difference))

    def near_miss(self) -> NearMiss:
        names = tuple(f"{node.operator} %{node.outputs[0].name}" for node in self.nodes)
        return NearMiss(str(self.nodes[0].location), names, self.wanted, tuple(dict.fromkeys(self.differences)))


def _attempt(rules: Iterable[RewriteRule], node: Node) -> _Attempt | None:
    """The attempt of some rules at a node that gets furthest, if it gets far enough to be told of."""
    attempts = [_try_rule(rule, node) for rule in rules if rule.root.operator == node.operator]
    telling = [it for it in attempts if it.differences and len(it.nodes) >= min(2, it.wanted)]
    return max(telling, key=_Attempt.rank, default=None)


def _try_rule(rule: RewriteRule, node: Node) -> _Attempt:
    wanted = frozenset[Application]().union(*map(_largest, rule.results))
    attempt = _try_node(rule.root, node, _Attempt(len(wanted), {}))
    for result, way in zip(rule.results[1:], rule.ways, strict=True):
        attempt = _try_result(result, way, node, attempt)
    if attempt.differences:
        return attempt
    match = complete(rule, attempt.found)
    reason = match if isinstance(match, str) else rule.check(match)
    return attempt.but(reason) if reason else attempt


def _largest(pattern: Pattern) -> frozenset[Application]:
    """The nodes of a pattern in its longest way of writing."""
    ways = (choice.application for choice in choices(pattern) if isinstance(choice, Result))
    return max((frozenset({way}).union(*map(_largest, way.operands)) for way in ways), key=len, default=frozenset())


def _try_result(result: Result, way: Way, root: Node, attempt: _Attempt) -> _Attempt:
    """Go on with another result of the pattern, at the place where most of it is."""
    values = [value for value in reached(way, attempt.found) if value.producer not in attempt.nodes]
    tries = [_try_value(result, value, root, attempt) for value in values]
    return max(tries, key=_Attempt.rank, default=attempt.but(f"no {result.application.operator} reads the same"))


def _try_node(pattern: Application, node: Node, attempt: _Attempt) -> _Attempt:
    """Go on with a node of the right operator."""
    attempt = replace(attempt, found={**attempt.found, pattern: node})
    where = f"{node.operator} at {node.location}"
    if pattern.outputs not in (None, len(node.outputs)):
        attempt = attempt.but(f"{where} has {len(node.outputs)} outputs, not {pattern.outputs}")
    for name, wanted in pattern.attributes.items():
        attribute = attribute_of(node, name)
        if not is_wanted(attribute, wanted, attempt.found):
            expected = attempt.found.get(wanted, "no graph") if isinstance(wanted, AttributeVariable) else wanted
            attempt = attempt.but(f"{name} of {where} is {attribute}, not {expected}")
        elif isinstance(wanted, AttributeVariable):
            attempt = replace(attempt, found={**attempt.found, wanted: attribute})
    tries = [_try_inputs(pairs, node, attempt) for pairs in pairings(pattern, node)]
    return max(tries, key=_Attempt.rank, default=attempt.but(f"{where} has {len(node.inputs)} inputs"))


def _try_inputs(pairs: Iterable[tuple[Pattern | Rest, Any]], node: Node, attempt: _Attempt) -> _Attempt:
    for operand, value in pairs:
        attempt = _try_value(operand, value, node, attempt)
    return attempt


def _try_value(pattern: Pattern | Rest, value: Any, reader: Node, attempt: _Attempt) -> _Attempt:
    """Go on with an input of a node."""
    if isinstance(pattern, Result):
        return _try_origin(pattern, value, attempt)
    if isinstance(pattern, Number):
        is_it = is_number(value, pattern.value, reader)
        return attempt if is_it else attempt.but(f"{_show(value)}, where the number {pattern.value:.6g} is wanted")
    if isinstance(pattern, Variable) and pattern.is_constant and not isinstance(value, Constant):
        return attempt.but(f"{_show(value)}, where {pattern.name} is to be a constant")
    if isinstance(pattern, Either) or (isinstance(pattern, Optional) and value is not None):
        return max((_try_value(choice, value, reader, attempt) for choice in choices(pattern)), key=_Attempt.rank)
    if isinstance(pattern, Optional):
        states = without(pattern, attempt.found)
        return replace(attempt, found=states[0]) if states else attempt.but(f"{_show(None)}, which is there elsewhere")
    key = pattern.name if isinstance(pattern, Variable) else pattern
    states = bind(attempt.found, key, value)
    if states:
        return replace(attempt, found=states[0])
    if isinstance(key, Rest):
        return attempt.but(
            f"the inputs of {reader.operator} at {reader.location} aren't those that {key.name} stands for"
        )
    return attempt.but(f"{_show(value)}, where {key} is to be the same as elsewhere: {_show(attempt.found[key])}")


def _try_origin(pattern: Result, value: Value | None, attempt: _Attempt) -> _Attempt:
    """Go on above a value, with the node that computes it."""
    operator, known = pattern.application.operator, attempt.found.get(pattern.application)
    node = None if value is None else value.producer
    if node is None or value is None or node.operator != operator or value.index != pattern.index:
        return attempt.but(f"{_show(value)}, where a result of {operator} is wanted")
    if known is None:
        return _try_node(pattern.application, node, attempt)
    return (
        attempt if known is node else attempt.but(f"{_show(value)}, where that of {_show(known.outputs[0])} is wanted")
    )


def _show(value: Value | None) -> str:
    """A value and where it comes from."""
    if value is None:
        return "an input is left out"
    if value.producer is not None:
        return f"%{value.name} comes from {value.producer.operator} at {value.producer.location}"
    if not isinstance(value, Constant):
        return f"%{value.name} is an input of the graph"
    if value.data.size != 1 or value.dtype is DType.string:
        return f"%{value.name} is a constant of type {value.type}"
    return f"%{value.name} is the constant {float(value.data.reshape(-1)[0]):.6g} of type {value.type}"
