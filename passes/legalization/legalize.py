"""Legalization: after it, every node is one that the backend runs."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from ...ir.builder import Builder
from ...ir.errors import ModelError, TargetError
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.types import TensorType
from ...ir.unknown import is_from_data
from ..base import Effect, Pass, PassContext, PassResult
from .expansion import Expansion, RefusedError, widened
from .expansions import EXPANSIONS
from .finder import support_of
from .fused import FUSED
from .origins import Origins
from .places import misplaced
from .support import Support


@dataclass(frozen=True)
class Legalization(Pass):
    """Spell out what the backend doesn't run as it is, and refuse what it can't run at all.

    Fused operators are spelled out as well if the target lists those worth having on the backend, and not these.

    Attributes:
        backend: the backend that is to run the graph.
    """

    name: ClassVar[str] = "legalize"
    effect: ClassVar[Effect] = Effect.ROUNDING
    backend: str = "onnxruntime"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite the graph in place.

        Raises:
            UsageError: there is no such backend.
            TargetError: an input, an output or an operator that the backend can't run, with the layer and the reason.
        """
        support, origins = support_of(self.backend), Origins.of(graph)
        ports = [*(("input", value.name, value) for value in graph.inputs)]
        ports += [("output", name, value) for name, value in graph.outputs.items() if isinstance(value, Constant)]
        for kind, name, value in ports:
            if reason := support.unheld(value.type):
                raise self._refusal(f"{kind} {name!r}: {self.backend} can't run the model: {reason}", support)
        self._check(graph, _unheld, support, origins)
        counts: Counter[str] = Counter()
        slow = frozenset(FUSED) - context.target.fused.get(self.backend, frozenset(FUSED))
        before = -1
        while before < (before := counts.total()):
            for part, node, word, expansion in list(_steps(graph, support, slow)):
                if context.applies(rewrite := f"{word} {node.operator}", node):
                    counts[rewrite] += 1
                    self._replace(part, node, expansion, support, origins)
        if not context.counter.is_over:  # or a search for a fault has ended it half-way
            self._check(graph, _unheld, support, origins)
            self._check(graph, _objection, support, origins)
        return PassResult(dict(counts))

    def _check(
        self, graph: Graph, objection: Callable[[Node, Support], str], support: Support, origins: Origins
    ) -> None:
        for node in graph.nodes:
            if reason := objection(node, support):
                raise self._refusal(f"{self._subject(origins, node)}{reason}", support)

    def _replace(self, graph: Graph, node: Node, expansion: Expansion, support: Support, origins: Origins) -> None:
        op = Builder(graph, node, node.location)
        try:
            results = expansion(op, node)
        except (RefusedError, ModelError) as error:  # the latter where types of the spelled-out nodes can't be told
            raise self._refusal(f"{self._subject(origins, node)}{error}", support) from error
        results = results if isinstance(results, tuple) else (results,)
        for output, result in zip(node.outputs, results, strict=False):
            named = result if result.type == output.type else _renamed(op, result, output.type)
            is_returned = graph.is_output(output) and not graph.defines(named)
            graph.replace_uses(output, op.Identity(named) if is_returned else named)
        graph.erase(node)

    def _subject(self, origins: Origins, node: Node) -> str:
        return f"{node.location}: {self.backend} can't run {origins.name(node)}: "

    def _refusal(self, text: str, support: Support) -> TargetError:
        return TargetError(f"{text}; {support.advice}" if support.advice else text)


def _steps(graph: Graph, support: Support, slow: frozenset[str]) -> Iterator[tuple[Graph, Node, str, Expansion]]:
    """The nodes to rewrite now, each with its graph, the word for the rewrite, and the function that does it."""
    for node in graph.nodes:
        if support.widened(node):
            yield graph, node, "widen", widened
        elif expansion := _expansion(node, support) or _unfused(node, support, slow):
            yield graph, node, "expand", expansion
        elif adjustment := support.adjusted.get(node.operator, lambda _: None)(node):
            yield graph, node, "adjust", adjustment
        else:
            for inner in node.graphs:
                yield from _steps(inner, support, slow)


def _expansion(node: Node, support: Support) -> Expansion | None:
    """The expansion of a node for the backend: planish's own, or the one that another package's operator brings."""
    if node.operator in support.expanded:
        return EXPANSIONS[node.operator] if support.expanded[node.operator](node) else None
    if not node.domain or node.domain in support.domains:
        return None
    if node.operator in EXPANSIONS:
        return EXPANSIONS[node.operator]
    from ...ir.infer import find_operator  # brings torch, which listing the passes must not

    return find_operator(node.operator).expansion


def _unfused(node: Node, support: Support, slow: frozenset[str]) -> Expansion | None:
    """The expansion of a node that is faster spelled out than by its fused kernel; None for others."""
    kernel = support.kernel(node)
    if kernel not in slow:
        return None
    expansion, applies = FUSED[kernel]
    return expansion if applies(node) else None


def _renamed(op: Builder, value: Value, type: TensorType) -> Value:
    """The same value with other symbols for sizes that depend on data: those that later nodes use."""
    if not any(map(is_from_data, type.symbols | value.type.symbols)):
        return value
    renamed = op.Identity(value)
    renamed.type = type
    return renamed


def _unheld(node: Node, support: Support) -> str:
    reasons = (support.unheld(value.type) for value in (*node.inputs, *node.outputs) if value is not None)
    return next(filter(None, reasons), "")


def _objection(node: Node, support: Support) -> str:
    refused = support.refused.get(node.operator, lambda _: "")
    return _foreign(node, support) or support.uncomputed(node) or refused(node) or misplaced(node)


def _foreign(node: Node, support: Support) -> str:
    if not node.domain or node.domain in support.domains or node.operator in support.expanded:
        return ""
    if node.domain != "aten":
        return "it isn't a standard operator, and has no expansion into standard ones: register one"
    return "ONNX has no counterpart of it; write it in other operators, or compute it outside of the model"
