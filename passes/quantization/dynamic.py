"""Dynamic int8: weights in int8, activations put on a grid at run time, so that no calibration is needed.

The form is the one that ONNX Runtime fuses into DynamicQuantizeMatMul: DynamicQuantizeLinear -> MatMulInteger -> Cast
-> Mul by both scales -> Add of the bias. With a grid for each row, the scales of rows and columns are multiplied with
one after the other, so that they are never spread over the product.
"""

from collections.abc import Sequence

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Value
from ...ir.quantization import quantize_weight
from ...ir.types import DType
from ..legalization.expansions.integers import ROW_QUANTIZER
from .layers import Layer, drop_unused


def quantize_dynamically(
    graph: Graph, layers: Sequence[Layer], weight_bits: int, per_channel: bool, per_row: bool
) -> None:
    """Rewrite layers of kind MatMul and Gemm, in place.

    Args:
        graph: that is rewritten.
        layers: of it.
        weight_bits: 8, or 7.
        per_channel: whether each output channel's weights have a scale of their own.
        per_row: whether each row of an activation has a grid of its own.
    """
    grids: dict[Value, tuple[Value, Value, Value]] = {}
    floats = [value for layer in layers for value in layer.node.inputs[1:] if isinstance(value, Constant)]
    for layer in layers:
        op = Builder(graph, layer.node, layer.node.location)
        x = layer.node.inputs[0]  # by now perhaps what a layer before was rewritten to
        assert x is not None
        if x not in grids:
            by_row = per_row and x.type.rank > 1
            grids[x] = op(ROW_QUANTIZER if by_row else "DynamicQuantizeLinear", x, outputs=3)
        graph.replace_uses(layer.node.outputs[0], _product(op, layer, grids[x], weight_bits, per_channel))
        graph.erase(layer.node)
    drop_unused(graph, floats)


def _product(op: Builder, layer: Layer, x: tuple[Value, Value, Value], weight_bits: int, per_channel: bool) -> Value:
    """The layer's output from its quantized input: integers, scale and zero point."""
    integers, scale, zero_point = x
    weight = quantize_weight(layer.matrix, 1 if per_channel else None, weight_bits)
    name = layer.weight.name
    held = (op.constant(weight.data, f"{name}.integers"), op.constant(weight.scale, f"{name}.scale"))
    total = op.MatMulInteger(integers, held[0], zero_point, np.zeros(weight.scale.shape, np.int8))
    product = op.Cast(total, to=DType.float32)
    product = (
        op.Mul(product, op.Mul(scale, held[1])) if scale.type.rank == 0 else op.Mul(op.Mul(product, held[1]), scale)
    )
    return product if layer.bias is None else op.Add(product, layer.bias.astype(np.float32))
