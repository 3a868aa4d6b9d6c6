"""Weights alone in few bits, activations as they are: less to read from memory."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...ir.block_weight import BlockWeight
from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Value
from ...ir.types import DType
from ...ir.unused import drop_unused
from ..legalization.expansions.integers import MATMUL_NBITS
from .embeddings import Lookup
from .layers import Layer, WeightKey, float_inputs

_ACCURACY = 4
"""MatMulNBits' level that lets a runtime round activations to 8 bits, block by block: little beside 4 bits of weights.

ONNX Runtime does so, since it is faster by far. TVM's kernels keep 22 bits.
"""


def quantize_weights(
    graph: Graph, layers: Sequence[Layer], weights: Mapping[WeightKey, BlockWeight]
) -> dict[Constant, Lookup]:
    """Rewrite layers of kind MatMul and Gemm, in place; return how rows of the weights are looked up now.

    Args:
        graph: the graph to rewrite.
        layers: its layers to quantize.
        weights: what becomes of each layer's weight, which layers may share.
    """
    made: dict[WeightKey, Sequence[Constant]] = {}
    tables: dict[Constant, Lookup] = {}
    floats = float_inputs(layers)
    for layer in layers:
        op, name, weight = Builder(graph, layer.node, layer.node.location), layer.weight.name, weights[layer.key]
        if layer.key not in made:
            parts = zip(("codes", "scales", "zero_points"), weight.inputs, strict=False)
            made[layer.key] = [op.constant(array, f"{name}.{part}") for part, array in parts]
            tables |= {layer.weight: _code_rows(made[layer.key], weight)} if layer.is_tied else {}
        inputs = [*made[layer.key], None][:3]
        beside = () if layer.bias is None else (None, op.constant(layer.bias, f"{name}.bias"))
        k, n = weight.codes.shape
        x = layer.node.inputs[0]  # by now perhaps what a layer before was rewritten to
        y = op(
            MATMUL_NBITS,
            x,
            *inputs,
            *beside,
            K=k,
            N=n,
            bits=weight.scheme.stored_bits,
            block_size=weight.stored_block,
            accuracy_level=_ACCURACY,
        )
        y_name = layer.node.outputs[0].name
        graph.replace_uses(layer.node.outputs[0], y)
        graph.erase(layer.node)
        graph.rename(y, y_name)
    drop_unused(graph, floats)
    return tables


def _code_rows(parts: Sequence[Constant], weight: BlockWeight) -> Lookup:
    """Return how rows of a table are looked up in the codes, in bytes, scales and zero points that a head has."""
    depth, blocks = len(weight.codes), -(-len(weight.codes) // weight.stored_block)

    def rows(op: Builder, places: Value) -> Value:
        codes, scales, *offsets = [op.Cast(op.Gather(part, places), to=DType.float32) for part in parts]
        zeros = op.Unsqueeze(offsets[0], [-1]) if offsets else np.float32(weight.scheme.codes // 2)
        floats = op.Mul(op.Sub(codes, zeros), op.Unsqueeze(scales, [-1]))
        lead = [0] * places.type.rank  # a 0 makes Reshape keep a size
        whole = op.Reshape(floats, [*lead, blocks * weight.stored_block])
        return whole if whole.shape[-1] == depth else op.Slice(whole, [0], [depth], [-1])

    return rows
