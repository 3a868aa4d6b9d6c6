"""Which node of one graph stands for which of another: the same in name, in place, or in what it reads or feeds."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping

from ...ir.graph import Constant, Graph, Node, Value

_Key = Callable[[Node], Hashable | None]


def align(a: Graph, b: Graph) -> dict[Node, Node]:
    """Nodes of B with the nodes of A that they stand for, each at most once; what has no counterpart is left out.

    What says most is tried first: the name of the result with operator, module and type, then the place, then what is
    read and fed, and names alone at last, since a node in front of others may shift the numbers in their names.
    """
    pairs: dict[Node, Node] = {}
    for key in (_name_and_place, _place, _module):
        _pair(a, b, pairs, key)
    _by_structure(a, b, pairs)
    for key in (_name_and_operator, _name):
        _pair(a, b, pairs, key)
    _by_structure(a, b, pairs)
    return pairs


def _name(node: Node) -> Hashable | None:
    return node.outputs[0].name


def _name_and_operator(node: Node) -> Hashable | None:
    return node.operator, node.outputs[0].name


def _name_and_place(node: Node) -> Hashable | None:
    return node.operator, node.location.module, node.outputs[0].name, node.outputs[0].type


def _place(node: Node) -> Hashable | None:
    return (node.operator, node.location) if node.location.module else None


def _module(node: Node) -> Hashable | None:
    return (node.operator, node.location.module) if node.location.module else None


def _left(graph: Graph, taken: Iterable[Node]) -> list[Node]:
    known = set(taken)
    return [node for node in graph.nodes if node not in known]


def _pair(a: Graph, b: Graph, pairs: dict[Node, Node], key: _Key) -> None:
    """Pair nodes that are left by a key, in order, where as many nodes of A as of B have it."""
    groups: tuple[defaultdict[Hashable, list[Node]], ...] = (defaultdict(list), defaultdict(list))
    for group, nodes in zip(groups, (_left(a, pairs.values()), _left(b, pairs)), strict=True):
        for node in nodes:
            if (found := key(node)) is not None:
                group[found].append(node)
    for found, theirs in groups[1].items():
        if len(ours := groups[0].get(found, [])) == len(theirs):
            pairs.update(zip(theirs, ours, strict=True))


def _by_structure(a: Graph, b: Graph, pairs: dict[Node, Node]) -> None:
    """Pair nodes that are left by what they read, from front to back, and by what they feed, from back to front."""
    for describe, is_backwards in ((_reads, False), (_feeds, True), (_reads, False)):
        waiting: defaultdict[Hashable, list[Node]] = defaultdict(list)
        itself = {node: node for node in a.nodes}
        for node in _left(a, pairs.values()):
            if (key := describe(node, a, itself)) is not None:
                waiting[key].append(node)
        nodes = _left(b, pairs)
        for node in reversed(nodes) if is_backwards else nodes:
            key = describe(node, b, pairs)
            if key is not None and waiting[key]:
                pairs[node] = waiting[key].pop(0)


def _reads(node: Node, graph: Graph, known: Mapping[Node, Node]) -> Hashable | None:
    """The operator and the origins of what it reads; None where one isn't paired, or all are constants."""
    origins = [_origin(value, graph, known) for value in node.inputs]
    if None in origins or all(it == "constant" for it in origins):
        return None
    return node.operator, tuple(origins)


def _origin(value: Value | None, graph: Graph, known: Mapping[Node, Node]) -> Hashable | None:
    if value is None or isinstance(value, Constant):
        return "constant"
    if value.producer is None:
        return "input", value.index
    return (known[value.producer], value.index) if value.producer in known else None


def _feeds(node: Node, graph: Graph, known: Mapping[Node, Node]) -> Hashable | None:
    """The operator and the first place where its result is read; None where that isn't paired."""
    value = node.outputs[0]
    if not value.uses:
        names = [name for name, output in graph.outputs.items() if output is value]
        return (node.operator, "output", list(graph.outputs).index(names[0])) if names else None
    use = value.uses[0]
    return (node.operator, known[use.node], use.index) if use.node in known else None
