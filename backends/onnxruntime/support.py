"""What ONNX Runtime runs as it is, and what has to be spelled out for it."""

from ...ir.graph import Node
from ...ir.operators import has_trait
from ...ir.opset import OLD_KERNELS
from ...ir.traits import Trait
from ...ir.types import DType
from ...passes.legalization.block_offsets import with_block_sums
from ...passes.legalization.expansions.attention import is_shortened
from ...passes.legalization.expansions.casts import is_miscast
from ...passes.legalization.expansions.integers import MATMUL_NBITS
from ...passes.legalization.expansions.layers import is_training
from ...passes.legalization.expansions.recurrent import DYNAMIC_LSTM, is_batch_first
from ...passes.legalization.expansions.runtime import (
    as_quick_gelu,
    divides_least,
    is_of_vectors,
    is_unaligned,
    never_empty,
    untransformed,
)
from ...passes.legalization.fused import SKIP_NORM, is_skip_norm
from ...passes.legalization.integer_products import as_extremes, as_sum
from ...passes.legalization.masks import adjustment
from ...passes.legalization.support import Support


def _is_unsaturated(node: Node) -> bool:
    return node.output.dtype.is_float and not node.attributes.get("saturate", 1)


def _is_double(node: Node) -> bool:
    return node.output.dtype is DType.float64


def _is_of_row_grids(node: Node) -> bool:
    zero_point = node.input(2)
    return zero_point is not None and zero_point.type.dims != ()


def _is_of_recurrence(node: Node) -> bool:
    """Whether it makes a recurrent layer's weights, which the kernel packs beforehand if they are folded by then.

    ONNX Runtime folds all operators but this one.
    """
    readers = {use.node.operator for use in node.output.uses}
    return bool(readers) and all(has_trait(reader, Trait.RECURRENT) for reader in readers)


def _may_sum_nothing(node: Node) -> bool:
    """Whether the rows may have no elements: the kernel leaves in memory whatever lies there."""
    x = node.operand(0)
    depth = x.shape[-1] if x.type.is_ranked else None
    return not isinstance(depth, int) or not depth


def _is_mean_of_no_square(node: Node) -> bool:
    """Whether it is the mean of a power that is no square: the fusion of a LayerNormalization takes any for one."""
    power = node.operand(0).producer
    if power is None or power.operator != "Pow":
        return False
    exponent = power.constant(1)
    return exponent is None or exponent.size != 1 or exponent.item() != 2


def _is_beside_old_kernels(node: Node) -> bool:
    """Whether the graph has operators of which there are kernels in opsets before the node's alone."""
    return any(other.operator in OLD_KERNELS for other in node.owner.nodes)


def _lacks_blocks(node: Node) -> bool:
    """Whether the kernel refuses the form of weights in few bits, by the grid of tests/backends/test_few_bits.py."""
    bits, block, zero_points = node.attributes.get("bits", 4), int(node.attributes["block_size"]), node.input(3)
    has_floats = zero_points is not None and zero_points.dtype.is_float
    return block < 16 or block.bit_count() != 1 or (bits == 2 and block > 256) or (bits == 8 and has_floats)


SUPPORT = Support(
    expanded={
        "Attention": lambda node: (
            len(node.outputs) > 3  # its products lack what the mask adds
            or is_shortened(node)
            or _is_beside_old_kernels(node)
        ),
        "BatchNormalization": is_training,  # it writes over the running statistics that it reads
        "Bernoulli": lambda node: True,
        "Cast": is_miscast,
        "CastLike": lambda node: True,
        "DequantizeLinear": _is_of_recurrence,
        "Div": divides_least,
        "GRU": is_batch_first,
        "HardSigmoid": _is_double,
        "HardSwish": _is_double,
        "LSTM": is_batch_first,
        "MatMulInteger": lambda node: _is_of_row_grids(node) or _may_sum_nothing(node),
        "MaxUnpool": lambda node: node.input(2) is not None,
        "MeanVarianceNormalization": lambda node: True,
        "QuantizeLinear": _is_unsaturated,
        "RMSNormalization": _is_beside_old_kernels,
        "RNN": is_batch_first,
        "Range": is_of_vectors,
        "ReduceMean": _is_mean_of_no_square,
        "Resize": is_unaligned,
        "RotaryEmbedding": _is_beside_old_kernels,
        MATMUL_NBITS: _lacks_blocks,
        "SwiGLU": lambda node: True,
        "Swish": lambda node: as_quick_gelu(node) is None,
        "ai.onnx.preview::FlexAttention": lambda node: True,
    },
    adjusted={
        "Add": as_sum,
        "Attention": adjustment,
        "Clip": as_extremes,
        "GRU": never_empty,
        "LSTM": never_empty,
        DYNAMIC_LSTM: never_empty,
        MATMUL_NBITS: with_block_sums,
        "Relu": as_extremes,
        "Swish": as_quick_gelu,
        "ai.onnx.ml::TreeEnsemble": untransformed,
    },
    domains=frozenset({"ai.onnx.ml", "ai.onnx.preview", "com.microsoft"}),
    kernel=lambda node: SKIP_NORM if is_skip_norm(node) else node.operator,
)
