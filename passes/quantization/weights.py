"""Weights alone in 4 bits, activations as they are: less to read from memory, and no calibration."""

from collections.abc import Sequence

from ...ir.block_weight import BlockScheme, BlockWeight
from ...ir.builder import Builder
from ...ir.graph import Constant, Graph
from ..legalization.expansions.integers import NIBBLE_PRODUCT
from .layers import Layer, drop_unused

_ACCURACY = 4
"""MatMulNBits' level that lets a runtime round activations to 8 bits, block by block: little beside 4 bits of weights.

ONNX Runtime does so, since it is faster by far. TVM's kernels keep 22 bits.
"""


def quantize_weights(graph: Graph, layers: Sequence[Layer], block: int) -> None:
    """Rewrite layers of kind MatMul and Gemm, in place.

    Args:
        graph: that is rewritten.
        layers: of it, whose depths are multiples of the block.
        block: weights of a column that share a scale and a zero point.
    """
    made: dict[tuple[Constant, int], tuple[Constant, ...]] = {}
    floats = [value for layer in layers for value in layer.node.inputs[1:] if isinstance(value, Constant)]
    for layer in layers:
        op, key, name = Builder(graph, layer.node, layer.node.location), (layer.weight, layer.axis), layer.weight.name
        data = layer.weight.data if layer.axis == 1 else layer.weight.data.T
        if key not in made:
            weight = BlockWeight.over(data, BlockScheme(4, block))
            parts = zip(("codes", "scales", "zero_points"), weight.inputs, strict=True)
            made[key] = tuple(op.constant(array, f"{name}.{part}") for part, array in parts)
        beside = () if layer.bias is None else (None, op.constant(layer.bias, f"{name}.bias"))
        sizes = dict(zip(("K", "N"), data.shape, strict=True), block_size=block)
        x = layer.node.inputs[0]  # by now perhaps what a layer before was rewritten to
        y = op(NIBBLE_PRODUCT, x, *made[key], *beside, bits=4, accuracy_level=_ACCURACY, **sizes)
        graph.replace_uses(layer.node.outputs[0], y)
        graph.erase(layer.node)
    drop_unused(graph, floats)
