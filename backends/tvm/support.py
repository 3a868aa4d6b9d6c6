"""What TVM runs as it is, what has to be spelled out for it, and what it can't run."""

import numpy as np

from ...ir.block_weight import BlockWeight
from ...ir.graph import Node, Value
from ...ir.operators import has_trait
from ...ir.quantization import quant_params_of
from ...ir.traits import Trait
from ...ir.types import DType, TensorType
from ...passes.legalization.block_offsets import with_block_sums
from ...passes.legalization.expansion import Expansion
from ...passes.legalization.expansions import EXPANSIONS
from ...passes.legalization.expansions.attention import is_plain
from ...passes.legalization.expansions.integers import MATMUL_NBITS, ROW_QUANTIZER
from ...passes.legalization.expansions.layers import is_interleaved, is_padded, is_padded_to_size, is_training
from ...passes.legalization.expansions.recurrent import looped
from ...passes.legalization.expansions.runtime import is_of_vectors
from ...passes.legalization.support import Support
from .errors import ADVICE
from .runtime.storage import is_carried


def always(node: Node) -> bool:
    """The condition that holds for every node of an operator."""
    return True


def _is_mixed_power(node: Node) -> bool:
    """Whether it has neither two integers, nor two floats of one type."""
    base, exponent = node.operand(0), node.operand(1)
    return exponent.dtype is not base.dtype if base.dtype.is_float else exponent.dtype.is_float


def _is_uint64(node: Node) -> bool:
    return node.operand(0).dtype is DType.uint64


def _is_multiplied(node: Node) -> bool:
    """Whether it is an operand of products, which TVM's backend may multiply before it is dequantized."""
    x, scale = node.operand(0), node.operand(1)
    return (
        all(use.node.operator in _MULTIPLYING and use.index < 2 for use in node.output.uses)
        and x.dtype in (DType.uint8, DType.int8)
        and node.output.dtype is scale.dtype is DType.float32
        and scale.type.rank <= 1
        and not node.attributes.get("block_size", 0)
    )


def is_integer_product(node: Node) -> bool:
    """Whether it multiplies uint8 with constant weights in int8 around 0, whose sizes suit all kernels."""
    x, zero_point, weight_zero_point = node.operand(0), node.input(2), node.input(3)
    data, offsets = node.constant(1), node.constant(3)
    return (
        x.dtype is DType.uint8
        and data is not None
        and data.dtype == np.int8
        and data.ndim == 2
        and data.shape[0] % 4 == 0
        and data.shape[1] >= 16
        and 0 not in (*x.shape, *data.shape)
        and (zero_point is None or zero_point.shape in ((), (*x.shape[:-1], 1)))
        and (weight_zero_point is None or (offsets is not None and not offsets.any()))
    )


def _untied(node: Node) -> Expansion | None:
    """Return what makes a constant of a turned table of integers, which a head reads and embeddings look up as it is.

    Kernels pack what they multiply by at compile time, so that nothing is saved by one constant for both.
    """
    table = node.constant(0)
    if table is None or node.operand(0).dtype is not DType.int8:
        return None
    return lambda op, node: op.constant(table.transpose(node.attributes.get("perm")), node.output.name)


def _widened_integers(node: Node) -> Expansion | None:
    """Return what makes a constant in int8 of one in int4, which kernels pack at compile time as they like."""
    data = node.constant(0)
    if data is None or (node.operand(0).dtype, node.output.dtype) != (DType.int4, DType.int8):
        return None
    return lambda op, node: op.constant(data.astype(np.int8), node.output.name)


def _is_turned(value: Value) -> bool:
    """Whether a value is about to be made a constant."""
    return value.producer is not None and value.producer.operator == "Transpose" and bool(_untied(value.producer))


def is_product_of_few_bits(node: Node) -> bool:
    """Whether it multiplies float32 with constant weights in 2, 4 or 8 bits, of whole blocks."""
    x = node.operand(0)
    weight = BlockWeight.of(node)
    return (
        x.dtype is DType.float32
        and 0 not in x.shape
        and weight is not None
        and weight.scheme.bits in (2, 4, 8)
        and weight.zero_points.dtype == np.uint8
        and len(weight.codes) % weight.scheme.block == 0
    )


def _is_of_known_rows(node: Node) -> bool:
    x = node.operand(0)
    return x.dtype is DType.float32 and isinstance(x.shape[-1], int) and 0 not in x.shape


def _is_normalized_by_row(node: Node) -> bool:
    """Whether an RMSNormalization has a scale for each element of a row."""
    x, scale = node.operand(0), node.operand(1)
    return (
        _is_of_known_rows(node)
        and node.attributes.get("axis", -1) in (-1, x.type.rank - 1)
        and node.attributes.get("stash_type", 1) == DType.float32.value
        and (scale.dtype, scale.shape) == (DType.float32, x.shape[-1:])
    )


def _is_on_grid(node: Node) -> bool:
    """Whether it computes 8-bit integers, or floats from them, by one scale that is known."""
    return node.constant(0) is None and quant_params_of(node) is not None


def _is_computed(node: Node) -> bool:
    """Whether only data tells the second input."""
    return node.input(1) is not None and node.constant(1) is None


def _may_go(node: Node) -> str:
    """Why only data tells which axes of size 1 go."""
    x = node.operand(0)
    dim = next((dim for dim in x.type.dims or () if isinstance(dim, str)), None)
    return "" if dim is None or node.input(1) is not None else f"it has no axes, and only data tells whether {dim} is 1"


def _unheld(type: TensorType) -> str:
    if not type.is_ranked:
        return f"it computes with {type}, and only with tensors of known rank can TVM"
    if type.dtype is DType.string or type.dtype.name.startswith("complex"):
        return f"TVM has no tensors of {type.dtype}"
    return ""


def _is_half(node: Node) -> bool:
    return (
        not node.graphs
        and not _moves(node)
        and node.operator not in _ROUNDING
        and any(value is not None and value.dtype.is_half for value in node.inputs)
    )


def _moves(node: Node) -> bool:
    """Whether nothing is computed with elements."""
    return node.operator in ("Cast", "CastLike", "Range") or has_trait(node.operator, Trait.MOVING | Trait.SHAPE_ONLY)


def _uncomputed(node: Node) -> str:
    """Why a node can't be computed: elements of up to 8 bits, for one, are held as codes."""
    if node.operator == "Unique" or (has_trait(node.operator, Trait.RANDOM) and node.operator not in EXPANSIONS):
        return "there is no kernel for it"
    values = (value for value in (*node.inputs, *node.outputs) if value is not None)
    small = next((value.dtype for value in values if is_carried(value.dtype)), None)
    return "" if small is None or _moves(node) else f"it computes with {small}: cast it to float32 before"


_MULTIPLYING = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators that have kernels on integers here."""

_ROUNDING = frozenset({"Attention", "NonZero", "QuantizeLinear", "Trilu"})
"""Operators left in half precision besides those that only move elements, or spelled out in steps that round."""

_RECURRENT = ("GRU", "LSTM", "RNN")
"""Operators whose steps are written out one by one where no kernel runs them all."""

_OWN = {"Cast", "Div", "HardSigmoid", "Resize"}
"""Operators that are spelled out for the other backend alone."""

SUPPORT = Support(
    advice=ADVICE,
    expanded={
        **dict.fromkeys(EXPANSIONS.keys() - _OWN, always),
        **dict.fromkeys(_RECURRENT, lambda node: looped(node) is None),
        "Attention": lambda node: not is_plain(node),
        "BatchNormalization": is_training,
        "Conv": is_padded_to_size,
        "ConvTranspose": lambda node: is_padded(node) and not is_interleaved(node),
        "CumProd": _is_computed,
        "CumSum": _is_computed,
        "DequantizeLinear": lambda node: not (_is_multiplied(node) or _is_on_grid(node)),
        "IsInf": lambda node: 0 in node.attributes.values(),
        "LayerNormalization": lambda node: len(node.outputs) > 1,
        "Range": is_of_vectors,
        "MatMulInteger": lambda node: not (_is_turned(node.operand(1)) or is_integer_product(node)),
        "Pow": _is_mixed_power,
        "QuantizeLinear": lambda node: not _is_on_grid(node),
        "RMSNormalization": lambda node: not _is_normalized_by_row(node),
        "SpaceToDepth": lambda node: node.attributes.get("mode", "DCR") == "CRD",
        MATMUL_NBITS: lambda node: not is_product_of_few_bits(node) and with_block_sums(node) is None,
        ROW_QUANTIZER: lambda node: not _is_of_known_rows(node),
        "TopK": _is_uint64,
        "Trilu": _is_computed,
    },
    refused={"Squeeze": _may_go},
    adjusted={
        **dict.fromkeys(_RECURRENT, looped),
        "Cast": _widened_integers,
        MATMUL_NBITS: with_block_sums,
        "Transpose": _untied,
    },
    domains=frozenset({"planish"}),
    unheld=_unheld,
    uncomputed=_uncomputed,
    widened=_is_half,
)
