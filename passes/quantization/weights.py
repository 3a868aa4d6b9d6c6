"""Weights alone in few bits, activations as they are: less to read from memory."""

from collections.abc import Mapping, Sequence

from ...ir.block_weight import BlockWeight
from ...ir.builder import Builder
from ...ir.graph import Constant, Graph
from ..legalization.expansions.integers import NIBBLE_PRODUCT
from .layers import Layer, WeightKey, drop_unused

_ACCURACY = 4
"""MatMulNBits' level that lets a runtime round activations to 8 bits, block by block: little beside 4 bits of weights.

ONNX Runtime does so, since it is faster by far. TVM's kernels keep 22 bits.
"""


def quantize_weights(graph: Graph, layers: Sequence[Layer], weights: Mapping[WeightKey, BlockWeight]) -> None:
    """Rewrite layers of kind MatMul and Gemm, in place.

    Args:
        graph: that is rewritten.
        layers: of it.
        weights: what becomes of each layer's weight, which layers may share.
    """
    made: dict[WeightKey, Sequence[Constant]] = {}
    floats = [value for layer in layers for value in layer.node.inputs[1:] if isinstance(value, Constant)]
    for layer in layers:
        op, name, weight = Builder(graph, layer.node, layer.node.location), layer.weight.name, weights[layer.key]
        if layer.key not in made:
            parts = zip(("codes", "scales", "zero_points"), weight.inputs, strict=False)
            made[layer.key] = [op.constant(array, f"{name}.{part}") for part, array in parts]
        inputs = [*made[layer.key], None][:3]
        beside = () if layer.bias is None else (None, op.constant(layer.bias, f"{name}.bias"))
        k, n = weight.codes.shape
        x = layer.node.inputs[0]  # by now perhaps what a layer before was rewritten to
        y = op(
            NIBBLE_PRODUCT,
            x,
            *inputs,
            *beside,
            K=k,
            N=n,
            bits=weight.scheme.stored_bits,
            block_size=weight.scheme.block,
            accuracy_level=_ACCURACY,
        )
        graph.replace_uses(layer.node.outputs[0], y)
        graph.erase(layer.node)
    drop_unused(graph, floats)
