"""Products in 16-bit floats."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Location, Node, Value, nested, nested_nodes
from ...ir.types import DType
from ...ir.unused import drop_unused
from ...targets.load import is_at_hand
from ..base import Effect, Pass, PassContext, PassResult, Timing
from ..debug_counter import DebugCounter
from ..legalization.expansions.attention import is_plain
from .gain import gain
from .rounding import name_of

_FACTORS = {"Attention": 3, "Conv": 2, "Gemm": 2, "MatMul": 2}
"""How many of an operator's inputs are multiplied."""
_LEAST_COLUMNS = 16
"""The fewest columns of weights that are rounded: as many sums as one instruction adds to."""
_LEAST_QUERIES = 8
"""The fewest queries of attention to round: with fewer, rounding all keys and values takes longer than using them."""
_LEAST_CHANNELS = 16
"""The fewest channels that a filter reads: images of fewer aren't held in blocks, or have a filter for each channel."""


@dataclass(frozen=True)
class PrecisionReduction(Pass):
    """Multiply in bfloat16 and add up in float32, where that is faster on the target.

    On the machine at hand, each layer and the whole model are timed on the backend that the model is built for. Of
    other machines their description says which products are faster, or nothing is reduced.

    Both factors of a product are rounded to bfloat16 and back, and all else stays in float32: sums, biases,
    activations, normalizations, the softmax of attention. Weights are stored in bfloat16, in half the size (Kalamkar et
    al., "A Study of BFLOAT16 for Deep Learning Training", 2019). Attention's kernel rounds what the softmax gives to
    bfloat16, too. Images that a convolution multiplies are rounded for all that read them, so that they lie in memory
    once, in half the size.

    Attributes:
        dtype: the type that the factors are rounded to.
    """

    name: ClassVar[str] = "reduce-precision"
    effect: ClassVar[Effect] = Effect.LOSSY
    destroys: ClassVar[frozenset[str]] = frozenset({"float"})
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "fuse-batch-norm")
    dtype: Literal["bfloat16"] = "bfloat16"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        timings = () if context.timing is None else (context.timing, *context.rivals)
        if timings and is_at_hand(context.target):
            return self._run_timed(graph, context, timings)
        operators = context.target.bfloat16_operators(context.backend)
        if not operators:
            place = f"{context.target.name}{context.backend and f' in {context.backend}'}"
            return PassResult(misses=[f"nothing is reduced: {place} has no fast products of {self.dtype}"])
        return _reduced(graph, context, operators)

    def _run_timed(self, graph: Graph, context: PassContext, timings: Sequence[Timing]) -> PassResult:
        """Reduce what is measured to be faster so, if the whole model is."""
        everything = frozenset(_FACTORS)

        def draft(left: AbstractSet[str]) -> tuple[Graph, Mapping[str, str]]:
            copy, selection = graph.clone(), context.selection.without(left)
            before = {name_of(node) for node in _products(copy) if _is_reduced(node)}
            _reduced(copy, replace(context, selection=selection, counter=DebugCounter()), everything)
            layers = [node for node in _products(copy) if _is_reduced(node) and name_of(node) not in before]
            return copy, {name_of(node): f"{node.location}: {node.operator} in {self.dtype}" for node in layers}

        if not draft(frozenset())[1]:
            return _reduced(graph, context, everything)
        found = gain(timings, graph, draft)
        misses = [f"{text}, so it stays in float32" for text in found.left.values()]
        if found.reason:
            return PassResult(misses=[f"nothing is reduced: {found.reason}", *misses])
        result = _reduced(graph, replace(context, selection=context.selection.without(found.left)), everything)
        return replace(result, misses=[*misses, *result.misses])


def _products(graph: Graph) -> list[Node]:
    return [node for node in nested_nodes(graph) if node.operator in _FACTORS]


def _is_reduced(node: Node) -> bool:
    return all(map(_is_rounded, _factors(node)))


def _reduced(graph: Graph, context: PassContext, operators: frozenset[str]) -> PassResult:
    """Reduce all products of some operators that can be, in a graph and all that its nodes hold."""
    return PassResult.sum([_reduce(part, context, operators) for part in tuple(nested(graph))])


def _reduce(graph: Graph, context: PassContext, operators: frozenset[str]) -> PassResult:
    rounding = _Rounding(graph, context)
    misses: list[str] = []
    counts = dict.fromkeys(sorted(operators), 0)
    for node in graph.nodes:
        if node.operator not in _FACTORS or not context.selects(node):
            continue
        if reason := _obstacle(node, operators):
            misses.append(f"{node.location}: {node.operator} stays in float32: {reason}")
        elif not _is_reduced(node) and context.applies(node.operator, node):
            rounding.apply(node)
            counts[node.operator] += 1
    rounding.drop_unused()
    return PassResult({**counts, "Gather": rounding.shared}, misses)


class _Rounding:
    """Rounds the factors of nodes, each value once.

    Attributes:
        shared: how many lookups read a table that is a weight as well.
    """

    def __init__(self, graph: Graph, context: PassContext) -> None:
        self.shared = 0
        self._graph = graph
        self._context = context
        self._made: dict[Value, Value] = {}

    def apply(self, node: Node) -> None:
        op = Builder(self._graph, before=node, location=node.location)
        for index, value in enumerate(_factors(node)):
            if node.operator == "Conv" and index == 0 and value not in self._made:
                self._round_for_all(value, node.location)
            elif not _is_rounded(value):
                self._graph.set_input(node, index, self._rounded(op, value))

    def drop_unused(self) -> None:
        """Erase weights in float32 that nobody reads any more."""
        for value in self._made:
            if _turned(value) and value.producer and not value.use_count and not self._graph.is_output(value):
                self._graph.erase(value.producer)
        drop_unused(self._graph, [value for value in self._made if isinstance(value, Constant)])

    def _round_for_all(self, value: Value, location: Location) -> None:
        """Let all that read a value read it rounded."""
        if _is_rounded(value):
            return
        uses = [use for use in value.uses if use.node.owner is self._graph]
        first = min((use.node for use in uses), key=self._graph.position)
        rounded = self._rounded(Builder(self._graph, before=first, location=location), value)
        for use in uses:
            self._graph.set_input(use.node, use.index, rounded)

    def _rounded(self, op: Builder, value: Value) -> Value:
        if value not in self._made:
            self._made[value] = self._round(op, value)
        return self._made[value]

    def _round(self, op: Builder, value: Value) -> Value:
        if isinstance(value, Constant):
            stored = op.constant(value.data.astype(DType.bfloat16.numpy), value.name)
            self._share(value, stored)
            return op.Cast(stored, to=DType.float32)
        table = _turned(value)
        if table is not None:
            return op.Transpose(self._rounded(op, table), perm=(1, 0))
        return op.Cast(op.Cast(value, to=DType.bfloat16), to=DType.float32)

    def _share(self, weight: Constant, stored: Constant) -> None:
        """Let rows of a table that is a weight as well, such as tied embeddings, be looked up in what is stored."""
        for node in [use.node for use in weight.uses if use.node.operator == "Gather" and use.index == 0]:
            if node.owner is self._graph and self._context.applies("Gather", node):
                op = Builder(self._graph, before=node, location=node.location)
                rows = op.Gather(stored, node.inputs[1], **node.attributes)
                self._graph.replace_uses(node.output, op.Cast(rows, to=DType.float32))
                self._graph.erase(node)
                self.shared += 1


def _factors(node: Node) -> Sequence[Value]:
    return [value for value in node.inputs[: _FACTORS[node.operator]] if value is not None]


def _is_rounded(value: Value) -> bool:
    """Whether a factor was made from bfloat16."""
    node = value.producer
    if node is None or node.operator not in ("Cast", "Transpose") or node.inputs[0] is None:
        return False
    return node.inputs[0].dtype is DType.bfloat16 or (node.operator == "Transpose" and _is_rounded(node.inputs[0]))


def _turned(value: Value) -> Constant | None:
    """The constant matrix that a value is the transpose of."""
    node = value.producer
    if node is None or node.operator != "Transpose" or value.type.rank != 2 or node.attributes.get("perm") == (0, 1):
        return None
    return node.inputs[0] if isinstance(node.inputs[0], Constant) else None


def _obstacle(node: Node, operators: frozenset[str]) -> str:
    """Why a node's products can't be reduced; empty where they can."""
    if node.operator not in operators:
        return "there are no fast products of bfloat16 for it on this target"
    x, weight, *_ = _factors(node)
    if not (x.type.is_ranked and weight.type.is_ranked):
        return "the ranks of its factors aren't known"
    if x.dtype is not DType.float32:
        return f"it computes in {x.dtype}"
    if node.operator == "Attention":
        if x.shape[-2] in range(_LEAST_QUERIES):
            return "so few queries wait for keys and values, not for products"
        return "" if is_plain(node) else "there is no kernel for this form of it"
    if isinstance(x, Constant) or not (isinstance(weight, Constant) or _turned(weight) or _is_rounded(weight)):
        return "its factors are both activations, or its weight is computed"
    if node.operator == "Conv":
        return _unblocked(x, weight)
    if weight.type.rank != 2:
        return f"its weight has {weight.type.rank} dimensions"
    if node.attributes.get("transA", 0):
        return "it transposes its input"
    columns = weight.shape[0 if node.attributes.get("transB", 0) else 1]
    return f"{columns} columns don't fill a vector" if columns in range(_LEAST_COLUMNS) else ""


def _unblocked(images: Value, weight: Value) -> str:
    """Why there are no fast convolutions of images; empty where there are."""
    channels = weight.shape[1]
    if images.type.rank not in (3, 4) or not isinstance(images.shape[1], int):
        return f"its images are of {images.type}, not of one or two axes with known channels"
    return (
        f"a filter reads {channels} channels, which don't fill a vector" if channels in range(_LEAST_CHANNELS) else ""
    )
