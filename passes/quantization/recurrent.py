"""Weights of recurrent layers in int8, each row of a gate by its own scale; what flows through them stays in float.

Weights are dequantized when the model is loaded, so that its file is smaller and its speed the same. States, which are
fed back at every step, are rounded only where `recurrent_products` finds that it pays. Where some inputs of a layer are
thousands of times as large as others, as bands of a spectrum are, small weights matter that a row's scale rounds away;
so weights whose rounding loses much on calibration data stay in float.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from ...ir.builder import Builder
from ...ir.extract import computing
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.quantization import quantize_weight
from ...ir.traits import Trait
from ...ir.types import DType
from ...ir.unused import drop_unused
from ..base import Feeds, PassContext
from ..judge import Reference
from .calibrate import LOST
from .losses import last_batches

_WEIGHTS = {1: "input", 2: "state"}
"""What the weights of RNN, GRU and LSTM multiply, `[directions, rows, K]`, by the place among the node's inputs."""


def quantize_recurrent(graph: Graph, context: PassContext) -> tuple[int, list[str]]:
    """Rewrite the recurrent layers of a graph, in place.

    Args:
        graph: the graph to rewrite.
        context: the context that says whether a layer may be rewritten.

    Returns:
        How many layers were rewritten, and a sentence for each one that stays as it is.
    """
    made: dict[Constant, Value] = {}
    count, misses = 0, list[str]()
    nodes = [node for node in graph.nodes if has_trait(node.operator, Trait.RECURRENT) and context.selects(node)]
    lost = _lost(graph, nodes, last_batches(context))
    for node in nodes:
        weights = _float_weights(node)
        if not weights:
            misses.append(f"{node.location}: {node.operator} stays as it is: its weights are no constants in float32")
        kept = [(index, weight) for index, weight in weights if lost.get(weight, 0.0) <= LOST]
        misses += [
            f"{node.location}: {node.operator} keeps the weights of its {_WEIGHTS[index]} in float: int8 would lose "
            f"{lost[weight]:.1%} of its output's power"
            for index, weight in weights
            if (index, weight) not in kept
        ]
        if kept and context.applies("quantize", node):
            _round(graph, node, kept, made)
            count += 1
    drop_unused(graph, made)
    return count, misses


def _round(graph: Graph, node: Node, weights: Sequence[tuple[int, Constant]], made: dict[Constant, Value]) -> None:
    op = Builder(graph, node, node.location)
    for index, weight in weights:
        if weight not in made:
            made[weight] = _dequantized(op, weight)
        graph.set_input(node, index, made[weight])


def _lost(graph: Graph, nodes: Sequence[Node], batches: Sequence[Feeds]) -> Mapping[Constant, float]:
    """The largest share of a layer's power that is lost if only one weight of it is rounded, by the weight."""
    found: dict[Constant, float] = {}
    if not nodes or not batches:
        return found
    names = {value.name for node in nodes for value in node.outputs}
    wanted = _outputs(graph, batches, names)
    for layer, (index, weight) in ((node, it) for node in nodes for it in _float_weights(node)):
        copy = graph.clone()
        twin = next(it for it in copy.nodes if it.outputs[0].name == layer.outputs[0].name)
        _round(copy, twin, [(index, copy.constants[weight.name])], {})
        outputs = {value.name for value in layer.outputs}
        pairs = list(zip(_outputs(copy, batches, outputs), wanted, strict=True))
        lost = sum(float(np.square(got[name] - them[name]).sum()) for got, them in pairs for name in outputs)
        power = sum(float(np.square(them[name]).sum()) for _, them in pairs for name in outputs)
        found[weight] = max(found.get(weight, 0.0), lost / power if power else 0.0)
    return found


def _outputs(graph: Graph, batches: Sequence[Feeds], names: AbstractSet[str]) -> list[dict[str, np.ndarray]]:
    """The values of these names on each batch."""
    reference = Reference(computing(graph, names))
    return [reference.run(batch) for batch in batches]


def _float_weights(node: Node) -> list[tuple[int, Constant]]:
    inputs = ((index, node.inputs[index]) for index in _WEIGHTS)
    return [(index, x) for index, x in inputs if isinstance(x, Constant) and x.dtype is DType.float32 and x.data.size]


def _dequantized(op: Builder, weight: Constant) -> Value:
    """Emit a weight's integers and their DequantizeLinear: a row is one block of blocked quantization."""
    *rows, k = weight.data.shape
    integers = quantize_weight(weight.data.reshape(-1, k), axis=0)
    return op.DequantizeLinear(
        op.constant(integers.data.reshape(weight.data.shape), f"{weight.name}.integers"),
        op.constant(integers.scale.reshape(*rows, 1), f"{weight.name}.scale"),
        axis=2,
        block_size=k,
        name=f"{weight.name}.floats",
    )
