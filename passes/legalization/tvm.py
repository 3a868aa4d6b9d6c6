"""What TVM runs as it is, what has to be spelled out for it, and what it can't run."""

from ...ir.graph import Node
from ...ir.types import DType, TensorType
from .expansions import EXPANSIONS
from .support import Support


def _always(node: Node) -> bool:
    return True


def _absent(node: Node) -> str:
    return "there is no kernel for it"


def _is_unusual_quantization(node: Node) -> bool:
    """Blocks, and stored integers of 4 bits."""
    four_bits = any(value is not None and value.dtype in (DType.int4, DType.uint4) for value in node.inputs)
    return bool(node.attributes.get("block_size", 0)) or four_bits


def _is_integer_power(node: Node) -> bool:
    base, exponent = node.inputs
    return base is not None and exponent is not None and (not base.dtype.is_float or exponent.dtype is not base.dtype)


def _training(node: Node) -> str:
    return "it is in training mode" if node.attributes.get("training_mode", 0) else ""


def _transposed(node: Node) -> str:
    return "its output's size is given apart" if node.attributes.get("output_shape") else ""


def _is_uint64(node: Node) -> bool:
    value = node.inputs[0]
    return value is not None and value.dtype is DType.uint64


def _is_computed(node: Node) -> bool:
    """Whether only data tells the second input."""
    return node.input(1) is not None and node.constant(1) is None


def _unheld(type: TensorType) -> str:
    if not type.is_ranked:
        return f"it computes with {type}, and only with tensors of known rank can TVM"
    if type.dtype is DType.string or type.dtype.name.startswith("complex"):
        return f"TVM has no tensors of {type.dtype}"
    return ""


def _is_half(node: Node) -> bool:
    return node.operator not in _HALF and any(
        value is not None and value.dtype in (DType.float16, DType.bfloat16) for value in node.inputs
    )


_HALF = frozenset(
    {
        *("Attention", "Cast", "CastLike", "Compress", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather"),
        *("GatherElements", "GatherND", "Identity", "NonZero", "Pad", "QuantizeLinear", "Range", "Reshape", "Shape"),
        *("Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where"),
    }
)
"""Operators that stay in half precision: they compute nothing with it, or round at each of the standard's own steps."""

_ABSENT = [
    "Bernoulli",
    "BlackmanWindow",
    "Col2Im",
    "DFT",
    "DeformConv",
    "Det",
    "HammingWindow",
    "HannWindow",
    "MelWeightMatrix",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "STFT",
]

TVM = Support(
    expanded={
        **dict.fromkeys(EXPANSIONS.keys() - {"Cast"}, _always),  # it has its own way with conversions
        "CumSum": _is_computed,
        "DequantizeLinear": _is_unusual_quantization,
        "IsInf": lambda node: 0 in node.attributes.values(),
        "LayerNormalization": lambda node: len(node.outputs) > 1,
        "Pow": _is_integer_power,
        "QuantizeLinear": _is_unusual_quantization,
        "TopK": _is_uint64,
        "Trilu": _is_computed,
    },
    refused={
        **dict.fromkeys(_ABSENT, _absent),
        "BatchNormalization": _training,
        "ConvTranspose": _transposed,
    },
    unheld=_unheld,
    widened=_is_half,
)
