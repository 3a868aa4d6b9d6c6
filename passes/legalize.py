"""Legalization: after it, every node is one that the backend runs."""

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar

from ..ir.builder import Builder
from ..ir.errors import TargetError, UsageError
from ..ir.graph import Graph, Node
from ..targets import Target
from .base import Effect, Pass, PassContext, PassResult
from .legalization import arithmetic, attention, integers
from .legalization.expansion import Expansion, RefusedError
from .legalization.support import SUPPORT, Support

EXPANSIONS: dict[str, Expansion] = {**arithmetic.EXPANSIONS, **attention.EXPANSIONS, **integers.EXPANSIONS}
"""How an operator is spelled out in simpler ones, by its name."""


@dataclass(frozen=True)
class Legalization(Pass):
    """Spell out what the backend doesn't run as it is, and refuse what it can't run at all."""

    name: ClassVar[str] = "legalize"
    effect: ClassVar[Effect] = Effect.ROUNDING
    backend: str = "onnxruntime"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite the graph in place.

        Raises:
            UsageError: there is no such backend.
            TargetError: an operator that the backend can't run, with the layer and the reason.
        """
        support = self._support()
        counts: Counter[str] = Counter()
        while expandable := [node for node in graph.nodes if _is_expandable(node, support)]:
            for node in expandable:
                counts[f"expand {node.operator}"] += 1
                _expand(graph, node, self.backend)
        for node in graph.nodes:
            _check(node, support, self.backend)
        return PassResult(dict(counts))

    def _support(self) -> Support:
        if self.backend not in SUPPORT:
            near = get_close_matches(self.backend, SUPPORT, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(SUPPORT)}"
            raise UsageError(f"legalize: unknown backend {self.backend!r}{hint}")
        return SUPPORT[self.backend]


def legalized(graph: Graph, target: Target, backend: str) -> Graph:
    """A copy of a graph that the backend can run.

    Raises:
        TargetError: there is none; the layer, the operator and the reason are named.
    """
    copy = graph.clone()
    Legalization(backend).run(copy, PassContext(target, source=graph))
    return copy


def _is_expandable(node: Node, support: Support) -> bool:
    return node.operator in support.expanded and support.expanded[node.operator](node)


def _expand(graph: Graph, node: Node, backend: str) -> None:
    try:
        results = EXPANSIONS[node.operator](Builder(graph, node, node.location), node)
    except RefusedError as refusal:
        raise TargetError(f"{node.location}: {backend} can't run {node.operator}: {refusal}") from refusal
    results = results if isinstance(results, tuple) else (results,)
    for output, result in zip(node.outputs, results, strict=False):
        graph.replace_uses(output, result)
    graph.erase(node)


def _check(node: Node, support: Support, backend: str) -> None:
    reason = _foreign(node, support) or support.refused.get(node.operator, lambda _: "")(node)
    if reason:
        raise TargetError(f"{node.location}: {backend} can't run {node.operator}: {reason}")


def _foreign(node: Node, support: Support) -> str:
    if not node.domain or node.domain in support.domains:
        return ""
    if node.domain != "aten":
        return "it is of another domain"
    return "ONNX has no counterpart of it; write it in other operators, or compute it outside of the model"
