"""Quantization, and arithmetic on quantized numbers, spelled out.

Sums of products of 8-bit integers are kept in float64, which holds all of them exactly, or in float32 where that does.
"""

from math import prod

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, attribute, cast, size_of

MATMUL_NBITS = "com.microsoft::MatMulNBits"
ROW_QUANTIZER = "planish::DynamicQuantizeRows"
_CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_MOST_EXACT = 2**24 // 255**2
"""How many products of 8-bit integers float32 sums exactly."""


def _conv_integer(op: Builder, node: Node) -> Value:
    to = _exact(node.operand(1).shape[1:])
    x = _shifted(op, node.operand(0), node.input(2), to)
    w = _shifted(op, node.operand(1), _along(op, node.input(3), node.operand(1), 0), to)
    return op.Cast(op.Conv(x, w, **_convolution(node)), to=DType.int32)


def _matmul_integer(op: Builder, node: Node) -> Value:
    a, b, zero_point = node.operand(0), node.operand(1), _row_parameter(op, node.input(2))
    if zero_point is not None and zero_point.type.rank:
        return _product_of_row_grids(op, node, zero_point)
    to = _exact(a.shape[-1:])
    return op.Cast(op.MatMul(_shifted(op, a, zero_point, to), _shifted(op, b, node.input(3), to)), to=DType.int32)


def _product_of_row_grids(op: Builder, node: Node, zero_points: Value) -> Value:
    """Multiply without the rows' zero points, as runtimes have kernels for, and subtract what these add to the sums."""
    a, b = node.operand(0), node.operand(1)
    right = _shifted(op, b, node.input(3), DType.int32)
    total = op.MatMulInteger(a, b, None, node.input(3))
    return op.Sub(total, op.Mul(op.Cast(zero_points, to=DType.int32), op.ReduceSum(right, [-2])))


def _dynamic_quantize_rows(op: Builder, node: Node) -> tuple[Value, ...]:
    x = node.operand(0)
    low, high = op.Min(op.ReduceMin(x, [-1]), 0.0), op.Max(op.ReduceMax(x, [-1]), 0.0)
    width = op.Div(op.Sub(high, low), 255.0)
    scale = op.Add(width, op.Cast(op.Equal(width, 0.0), to=x.dtype))
    zero_point = op.Round(op.Div(op.Neg(low), scale))
    integers = op.Add(op.Round(op.Div(x, scale)), zero_point)
    return _cut(op, integers, DType.uint8), scale, _cut(op, zero_point, DType.uint8)


def _quantized_conv(op: Builder, node: Node) -> Value:
    x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, zero_point = (node.operand(i) for i in range(8))
    to = _exact(w.shape[1:])
    bias = node.input(8)
    total = op.Conv(
        _shifted(op, x, x_zero_point, to),
        _shifted(op, w, _along(op, w_zero_point, w, 0), to),
        None if bias is None else op.Cast(bias, to=to),
        **_convolution(node),
    )
    factor = op.Div(op.Mul(x_scale, w_scale), y_scale)
    return _requantized(op, total, op.Reshape(factor, [-1, *[1] * (x.type.rank - 2)]), zero_point)


def _quantized_matmul(op: Builder, node: Node) -> Value:
    a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, zero_point = (node.operand(i) for i in range(8))
    to = _exact(a.shape[-1:])
    left, right = _shifted(op, a, _row_parameter(op, a_zero_point), to), _shifted(op, b, b_zero_point, to)
    a_scale, b_scale, y_scale = (cast(op, scale, DType.float32) for scale in (a_scale, b_scale, y_scale))
    factor = op.Div(op.Mul(_row_parameter(op, a_scale), b_scale), y_scale)
    return _requantized(op, op.MatMul(left, right), factor, zero_point)


def _product_of_few_bits(op: Builder, node: Node) -> Value:
    """Multiply by weights `[N, blocks, codes of a block]`, dequantized first by the scale and zero point of each."""
    x, data, zero_points, bias = node.operand(0), node.operand(1), node.input(3), node.input(5)
    depth, columns, block, bits = (int(attribute(node, name, 4)) for name in ("K", "N", "block_size", "bits"))
    blocks = -(-depth // block)
    codes = op.Reshape(_codes(op, data, columns, bits), [columns, blocks, block])
    if zero_points is None:
        zeros = op.constant(np.asarray(2 ** (bits - 1), np.float32))
    elif zero_points.dtype.is_float:
        zeros = op.Reshape(zero_points, [columns, blocks, 1])
    else:
        zeros = op.Slice(_codes(op, zero_points, columns, bits), [0], [blocks], [1])
        zeros = op.Reshape(zeros, [columns, blocks, 1])
    weights = op.Mul(op.Sub(codes, zeros), op.Reshape(node.operand(2), [columns, blocks, 1]))
    weights = op.Slice(op.Reshape(weights, [columns, blocks * block]), [0], [depth], [1])
    y = op.MatMul(x, op.Transpose(cast(op, weights, x.dtype), perm=(1, 0)))
    return y if bias is None else op.Add(y, bias)


def _codes(op: Builder, data: Value, columns: int, bits: int) -> Value:
    """The codes in bytes, lower bits first, as floats, by column."""
    octets = op.Cast(op.Reshape(data, [columns, -1, 1]), to=DType.int32)
    shifted = op.Div(octets, 2 ** np.arange(0, 8, bits, dtype=np.int32))
    return op.Reshape(op.Cast(op.Mod(shifted, np.int32(2**bits)), to=DType.float32), [columns, -1])


def _exact(sizes: tuple[int | str, ...]) -> DType:
    """The type that holds a sum of as many products as these sizes have places."""
    counts = [size for size in sizes if isinstance(size, int)]
    return DType.float32 if len(counts) == len(sizes) and prod(counts) <= _MOST_EXACT else DType.float64


def _shifted(op: Builder, x: Value, zero_point: Value | None, to: DType) -> Value:
    x = op.Cast(x, to=to)
    return x if zero_point is None else op.Sub(x, op.Cast(zero_point, to=to))


def _row_parameter(op: Builder, parameter: Value | None) -> Value | None:
    """A parameter of a left factor's rows, as a column."""
    return parameter if parameter is None or parameter.type.rank != 1 else op.Unsqueeze(parameter, [-1])


def _requantized(op: Builder, total: Value, factor: Value, zero_point: Value) -> Value:
    """Sums of products as quantized numbers: scaled, rounded, shifted and cut to the zero point's type."""
    scaled = op.Mul(op.Cast(total, to=DType.float64), op.Cast(factor, to=DType.float64))
    return _cut(op, op.Add(op.Round(scaled), op.Cast(zero_point, to=DType.float64)), zero_point.dtype)


def _cut(op: Builder, y: Value, to: DType) -> Value:
    limits = (np.asarray(limit, y.dtype.numpy) for limit in to.limits)
    return op.Cast(op.Clip(y, *limits), to=to)


def _dequantize(op: Builder, node: Node) -> Value:
    x, scale, zero_point = node.operand(0), node.operand(1), node.input(2)
    to = _precision(scale).at_least_single
    y = cast(op, x, to)
    if zero_point is not None:
        y = op.Sub(y, cast(op, _spread(op, node, zero_point, x), to))
    y = op.Mul(y, cast(op, _spread(op, node, scale, x), to))
    return cast(op, y, DType(attribute(node, "output_dtype", 0) or scale.dtype.value))


def _quantize(op: Builder, node: Node) -> Value:
    x, scale, zero_point = node.operand(0), node.operand(1), node.input(2)
    to, precision = node.output.dtype, DType(attribute(node, "precision", 0) or _precision(scale).value)
    y = op.Div(cast(op, x, precision), cast(op, _spread(op, node, scale, x), precision))
    if not to.is_float:
        y = op.Round(y)
    if precision.is_half:  # which doesn't hold every integer of 16 bits
        y = op.Cast(y, to=DType.float32)
    if zero_point is not None:
        y = op.Add(y, cast(op, _spread(op, node, zero_point, x), y.dtype))
    if to.is_float:
        return op.Cast(y, to=to, saturate=attribute(node, "saturate", 1))
    lowest = np.asarray(to.limits[0], y.dtype.numpy)
    return _cut(op, op.Where(op.IsNaN(y), lowest, y), to)


def _precision(scale: Value) -> DType:
    """The type that is computed in by a scale: its own, unless that is only stored."""
    if not scale.dtype.is_float:
        return DType.float64
    return scale.dtype if scale.dtype.bits > 8 else DType.float32


def _spread(op: Builder, node: Node, parameter: Value, x: Value) -> Value:
    """A scale or zero point so that it broadcasts against the tensor: one for all, by channel, or by block."""
    size, rank = attribute(node, "block_size", 0), x.type.rank
    axis = attribute(node, "axis", 1) % max(rank, 1)
    if size and parameter.shape[axis] == 1:
        return parameter
    if size:
        return op.Gather(parameter, op.Div(op.Range(0, size_of(op, x, axis), 1), size), axis=axis)
    if parameter.type.rank == 0 or rank == 0:
        return op.Reshape(parameter, np.zeros(0, np.int64)) if parameter.type.rank else parameter
    along = _along(op, parameter, x, axis)
    assert along is not None
    return along


def _along(op: Builder, parameter: Value | None, x: Value, axis: int) -> Value | None:
    """A row of parameters so that it broadcasts against an axis of a tensor."""
    if parameter is None or parameter.type.rank == 0:
        return parameter
    return op.Reshape(parameter, [-1, *[1] * (x.type.rank - 1 - axis)])


def _convolution(node: Node) -> dict[str, object]:
    return {name: node.attributes[name] for name in _CONVOLUTION if name in node.attributes}


EXPANSIONS: dict[str, Expansion] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": _dequantize,
    "MatMulInteger": _matmul_integer,
    MATMUL_NBITS: _product_of_few_bits,
    ROW_QUANTIZER: _dynamic_quantize_rows,
    "QLinearConv": _quantized_conv,
    "QLinearMatMul": _quantized_matmul,
    "QuantizeLinear": _quantize,
}
