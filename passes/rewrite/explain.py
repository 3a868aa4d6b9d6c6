"""Near misses: where a rule almost matched, and what differed; `planish opt --explain` prints them.

The matcher goes on where something differs (`match.Furthest`). Where operands may be swapped it keeps to the order that
gets furthest, so that a rule has one attempt at a node.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from ...ir.graph import Graph, Node, nested_nodes
from .match import DIFFERENCES, FURTHEST, Bindings, complete, extent, find_matches, nodes_in, search
from .matched import Match
from .pattern import Application, Pattern, Result, choices
from .rule import RewriteRule

MOST = 5
"""How many near misses are told of a rule."""


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
        more: how many near misses there are beside these.
    """

    rule: str
    matches: int
    near: tuple[NearMiss, ...]
    more: int


def explain(graph: Graph, rules: Iterable[RewriteRule], most: int = MOST) -> tuple[Explanation, ...]:
    """Tell where rules match in part: their root and another node, or all nodes but not what else they ask for.

    What lies within a match, apart from its root, or within a better near miss of a rule of the same name, is left out.

    Args:
        graph: the graph to look at; it is left as it is.
        rules: the rules to explain; those of one name are told together.
        most: how many near misses are told of a name.
    """
    groups: defaultdict[str, list[RewriteRule]] = defaultdict(list)
    for rule in rules:
        groups[rule.name].append(rule)
    nodes = list(nested_nodes(graph))
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
    """A part of a pattern that was found: how many nodes the pattern has, what is there, and what differs."""

    wanted: int
    found: Bindings
    differences: tuple[str, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return nodes_in(self.found)

    def rank(self) -> tuple[int, int]:
        return extent(self.found)

    def near_miss(self) -> NearMiss:
        names = tuple(f"{node.operator} %{node.outputs[0].name}" for node in self.nodes)
        return NearMiss(str(self.nodes[0].location), names, self.wanted, tuple(dict.fromkeys(self.differences)))


def _attempt(rules: Iterable[RewriteRule], node: Node) -> _Attempt | None:
    """The attempt of some rules at a node that gets furthest, if it gets far enough to be told of."""
    attempts = [_try(rule, found) for rule in rules for found in search(rule, node, FURTHEST)]
    telling = [it for it in attempts if it.differences and len(it.nodes) >= min(2, it.wanted)]
    return max(telling, key=_Attempt.rank, default=None)


def _try(rule: RewriteRule, found: Bindings) -> _Attempt:
    wanted = len(frozenset[Application]().union(*map(_largest, rule.results)))
    differences: tuple[str, ...] = found.get(DIFFERENCES, ())
    if not differences:
        match = complete(rule, found)
        reason = match if isinstance(match, str) else rule.check(match)
        differences = (reason,) if reason else ()
    return _Attempt(wanted, found, differences)


def _largest(pattern: Pattern) -> frozenset[Application]:
    """The nodes of a pattern, written in the way that has the most."""
    ways = (choice.application for choice in choices(pattern) if isinstance(choice, Result))
    return max((frozenset({way}).union(*map(_largest, way.operands)) for way in ways), key=len, default=frozenset())
