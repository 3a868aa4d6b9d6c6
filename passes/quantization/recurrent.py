"""Weights of recurrent layers in int8, each row of a gate by its own scale; what flows through them stays in float.

Weights are dequantized when the model is loaded, so that its file is smaller and its speed the same. States, which are
fed back at every step, are rounded only where `recurrent_products` finds that it pays.
"""

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.operators import has_trait
from ...ir.quantization import quantize_weight
from ...ir.traits import Trait
from ...ir.types import DType
from ...ir.unused import drop_unused
from ..base import PassContext

_WEIGHTS = (1, 2)
"""The inputs of RNN, GRU and LSTM that are weights: of the input and of the state, `[directions, rows, K]`."""


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
    for node in graph.nodes:
        if not has_trait(node.operator, Trait.RECURRENT) or not context.selects(node):
            continue
        weights = _float_weights(node)
        if not weights:
            misses.append(f"{node.location}: {node.operator} stays as it is: its weights are no constants in float32")
        elif context.applies("quantize", node):
            op = Builder(graph, node, node.location)
            for index, weight in weights:
                if weight not in made:
                    made[weight] = _dequantized(op, weight)
                graph.set_input(node, index, made[weight])
            count += 1
    drop_unused(graph, made)
    return count, misses


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
