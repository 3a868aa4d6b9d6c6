"""Products with weights whose zero points are floats, in the form that runtimes have fast kernels for."""

import numpy as np

from ...ir.block_weight import BlockWeight
from ...ir.builder import Builder
from ...ir.graph import Node, Value
from .expansion import Expansion
from .expansions.integers import MATMUL_NBITS


def with_block_sums(node: Node) -> Expansion | None:
    """Return what takes the zero points out of a MatMulNBits whose constant ones are floats; None for others.

    ONNX Runtime makes floats of all the weights at each call for those, which takes 55 times as long at one row.
    """
    weight = BlockWeight.of(node)
    if weight is None or weight.zero_points.dtype != np.float32 or len(weight.codes) % weight.scheme.block:
        return None
    return _summed_by_blocks


def _summed_by_blocks(op: Builder, node: Node) -> Value:
    """Multiply by steps from the middle code, and the sum of each block of activations by what the zero point adds."""
    weight, x = BlockWeight.of(node), node.operand(0)
    assert weight is not None
    scheme, blocks = weight.scheme, len(weight.scales)
    sums = op.ReduceSum(op.Reshape(x, [*[0] * (x.type.rank - 1), blocks, scheme.block]), [-1], keepdims=0)
    offsets = op.constant((scheme.codes // 2 - weight.zero_points) * weight.scales, node.operand(3).name)
    product = op(MATMUL_NBITS, *node.inputs[:3], None, *node.inputs[4:], **node.attributes)
    return op.Add(product, op.MatMul(sums, offsets))
