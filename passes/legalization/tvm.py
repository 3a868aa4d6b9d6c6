"""What TVM runs as it is, what has to be spelled out for it, and what it can't run."""

import numpy as np

from ...ir.graph import Node
from ...ir.types import DType
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


def _padding(node: Node) -> str:
    if node.attributes.get("mode", "constant") == "wrap":
        return "padding that wraps around would be miscompiled"
    if node.input(2) is not None and node.constant(2) is None:
        return "its padding value is computed from data"
    return ""


def _resize(node: Node) -> str:
    """TVM takes the ratio of the sizes for the scale, and has its own idea of the edges."""
    x, scales = node.inputs[0], node.constant(2)
    transformation = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    if node.attributes.get("antialias", 0) or node.attributes.get("exclude_outside", 0):
        return "it filters against aliasing or leaves out the outside"
    if transformation not in ("half_pixel", "asymmetric", "align_corners"):
        return f"it maps coordinates by {transformation}"
    if transformation == "align_corners" and (not node.output.type.is_static or 1 in node.output.shape[2:]):
        return "it aligns the corners of a single row or of a size that isn't known"
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch" or node.attributes.get("axes"):
        return "it resizes by aspect ratio or along chosen axes"
    if x is None or x.type.rank != 4 or node.output.shape[:2] != x.shape[:2]:
        return "it resizes other than the last two of four axes"
    if scales is None or scales.size == 0:
        return "" if node.output.type.is_static else "its sizes are computed from data"
    exact = all(
        float(scale).is_integer() or (isinstance(dim, int) and float(dim * np.float64(scale)).is_integer())
        for dim, scale in zip(x.shape, scales, strict=True)
    )
    return "" if exact else "its scales don't divide the sizes"


def _transposed(node: Node) -> str:
    return "its output's size is given apart" if node.attributes.get("output_shape") else ""


def _top(node: Node) -> str:
    value = node.inputs[0]
    return f"it sorts {value.dtype}" if value is not None and value.dtype is DType.uint64 else ""


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
    "CenterCropPad",
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
    "ReverseSequence",
    "STFT",
    "TensorScatter",
]

TVM = Support(
    expanded={
        **dict.fromkeys(
            [
                *("Attention", "CastLike", "Celu", "ConvInteger", "Dropout", "EyeLike", "LpNormalization", "Mish"),
                *("NegativeLogLikelihoodLoss", "OneHot", "QLinearConv", "QLinearMatMul", "RMSNormalization"),
                *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceSumSquare"),
                *("RotaryEmbedding", "SoftmaxCrossEntropyLoss", "Softplus", "Swish"),
            ],
            _always,
        ),
        "DequantizeLinear": _is_unusual_quantization,
        "IsInf": lambda node: 0 in node.attributes.values(),
        "LayerNormalization": lambda node: len(node.outputs) > 1,
        "Pow": _is_integer_power,
        "QuantizeLinear": _is_unusual_quantization,
    },
    refused={
        **dict.fromkeys(_ABSENT, _absent),
        "BatchNormalization": _training,
        "ConvTranspose": _transposed,
        "Pad": _padding,
        "Resize": _resize,
        "TopK": _top,
    },
    widened=_is_half,
)
