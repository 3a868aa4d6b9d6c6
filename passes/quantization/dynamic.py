"""Dynamic int8: weights in int8, activations put on a grid at run time, so that no calibration is needed.

The form is the one that ONNX Runtime fuses into DynamicQuantizeMatMul: DynamicQuantizeLinear -> MatMulInteger -> Cast
-> Mul by both scales -> Add of the bias. With a grid for each row, the scales of rows and columns are multiplied with
one after the other, so that they are never spread over the product.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Value
from ...ir.quantization import IntegerWeight, quantize_weight
from ...ir.types import DType
from ...ir.unused import drop_unused
from ..legalization.expansions.integers import ROW_QUANTIZER
from .embeddings import Lookup, integer_rows
from .layers import Layer, WeightKey, float_inputs, held_integers, tied_bits


def quantize_dynamically(
    graph: Graph,
    layers: Sequence[Layer],
    weight_bits: int,
    per_channel: bool,
    per_row: bool,
    rounded: Mapping[WeightKey, IntegerWeight],
) -> dict[Constant, Lookup]:
    """Rewrite layers of kind MatMul and Gemm, in place; return how rows of the weights are looked up now.

    Args:
        graph: the graph to rewrite.
        layers: its layers to quantize.
        weight_bits: the bits of the weights, 8 at most; weights of 4 bits or fewer are stored in 4.
        per_channel: whether each output channel's weights have a scale of their own.
        per_row: whether each row of an activation has a grid of its own.
        rounded: the weights that are in integers already, with a scale for each channel.
    """
    grids: dict[Value, tuple[Value, Value, Value]] = {}
    weights: dict[WeightKey, tuple[Value, Constant]] = {}
    tables: dict[Constant, Lookup] = {}
    floats = float_inputs(layers)
    for layer in layers:
        op = Builder(graph, layer.node, layer.node.location)
        x = layer.node.inputs[0]  # by now perhaps what a layer before was rewritten to
        assert x is not None
        if x not in grids:
            by_row = per_row and x.type.rank > 1
            grids[x] = op(ROW_QUANTIZER if by_row else "DynamicQuantizeLinear", x, outputs=3)
        if layer.key not in weights:
            is_tied, name = layer.is_tied, layer.weight.name
            axis = layer.axis if per_channel else None
            bits = tied_bits(weight_bits) if is_tied else weight_bits
            weight = rounded.get(layer.key) or quantize_weight(layer.weight.data, axis, bits)
            data = weight.data if is_tied or layer.axis else weight.data.T
            integers, scale = (
                held_integers(op, data, bits, f"{name}.integers"),
                op.constant(weight.scale, f"{name}.scale"),
            )
            weights[layer.key] = op.Transpose(integers, perm=(1, 0)) if is_tied else integers, scale
            if is_tied and isinstance(integers, Constant):
                tables[layer.weight] = integer_rows(integers, scale)
        graph.replace_uses(layer.node.outputs[0], _product(op, layer, grids[x], weights[layer.key]))
        graph.erase(layer.node)
    drop_unused(graph, floats)
    return tables


def _product(op: Builder, layer: Layer, x: tuple[Value, Value, Value], weight: tuple[Value, Constant]) -> Value:
    """The layer's output from its quantized input (integers, scale and zero point) and weight."""
    integers, scale, zero_point = x
    factor, factor_scale = weight
    total = op.MatMulInteger(integers, factor, zero_point, np.zeros(factor_scale.data.shape, np.int8))
    product = op.Cast(total, to=DType.float32)
    product = (
        op.Mul(product, op.Mul(scale, factor_scale))
        if scale.type.rank == 0
        else op.Mul(op.Mul(product, factor_scale), scale)
    )
    return product if layer.bias is None else op.Add(product, layer.bias.astype(np.float32))
