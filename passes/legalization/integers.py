"""Integer arithmetic and unusual quantizations, spelled out."""

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Node, Value
from ...ir.types import DType
from .expansion import Expansion, RefusedError, attribute, operand

_CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _conv_integer(op: Builder, node: Node) -> Value:
    """In float64, which holds every sum of 8-bit products exactly."""
    x, w = (op.Cast(operand(node, index), to=DType.float64) for index in (0, 1))
    for index, value in ((2, x), (3, w)):
        zero_point = node.input(index)
        if zero_point is None:
            continue
        if zero_point.type.rank == 1 and zero_point.shape != (1,):
            zero_point = op.Reshape(zero_point, [-1, *[1] * (w.type.rank - 1)])
        shifted = op.Sub(value, op.Cast(zero_point, to=DType.float64))
        x, w = (shifted, w) if index == 2 else (x, shifted)
    return op.Cast(op.Conv(x, w, **_convolution(node)), to=DType.int32)


def _quantized_conv(op: Builder, node: Node) -> Value:
    x = op.DequantizeLinear(*_quantized(node, 0))
    w_scale, bias = operand(node, 4), node.input(8)
    w = op.DequantizeLinear(*_quantized(node, 3), axis=0)
    if bias is not None:
        bias = op.Mul(op.Cast(bias, to=DType.float32), op.Mul(operand(node, 1), w_scale))
    y = op.Conv(x, w, bias, **_convolution(node))
    return op.QuantizeLinear(y, operand(node, 6), operand(node, 7))


def _quantized_matmul(op: Builder, node: Node) -> Value:
    factors = [_quantized(node, start) for start in (0, 3)]
    if any(parameters[1].type.rank > 1 for parameters in factors):
        raise RefusedError("a scale of more than one axis can't be spelled out")
    a, b = (op.DequantizeLinear(*parameters, axis=axis) for parameters, axis in zip(factors, (-2, -1), strict=True))
    return op.QuantizeLinear(op.MatMul(a, b), operand(node, 6), operand(node, 7))


def _dequantize(op: Builder, node: Node) -> Value:
    """Stored 4-bit integers become 8-bit ones, and blocks an axis of their own."""
    x, scale, zero_point = operand(node, 0), operand(node, 1), node.input(2)
    x, zero_point = _widened(op, x), None if zero_point is None else _widened(op, zero_point)
    axis = attribute(node, "axis", 1) % max(x.type.rank, 1)
    size = attribute(node, "block_size", 0)
    to = attribute(node, "output_dtype", None)
    if not size:
        return op.DequantizeLinear(x, scale, zero_point, axis=axis, output_dtype=to)
    y = op.Cast(_blocks(op, x, axis, size), to=scale.dtype)
    if zero_point is not None:
        y = op.Sub(y, op.Cast(op.Unsqueeze(zero_point, [axis + 1]), to=scale.dtype))
    y = op.Reshape(op.Mul(y, op.Unsqueeze(scale, [axis + 1])), list(x.type.static_shape))
    return op.Cast(y, to=to) if to else y


def _quantize(op: Builder, node: Node) -> Value:
    """Blocks get an axis of their own."""
    x, scale, zero_point = operand(node, 0), operand(node, 1), node.input(2)
    to = node.output.dtype
    if to.bits < 8 or to.is_float:
        raise RefusedError(f"it quantizes to {to} at run time")
    if attribute(node, "precision", 0) not in (0, scale.dtype.value):
        raise RefusedError("it divides in a precision of its own")
    axis, size = attribute(node, "axis", 1) % x.type.rank, attribute(node, "block_size", 0)
    y = op.Round(op.Div(_blocks(op, x, axis, size), op.Unsqueeze(scale, [axis + 1])))
    if zero_point is not None:
        y = op.Add(y, op.Cast(op.Unsqueeze(zero_point, [axis + 1]), to=y.dtype))
    limits = np.iinfo(to.numpy)
    y = op.Cast(op.Clip(y, float(limits.min), float(limits.max)), to=to)
    return op.Reshape(y, list(x.type.static_shape))


def _blocks(op: Builder, x: Value, axis: int, size: int) -> Value:
    """The tensor with an axis cut into blocks."""
    if not x.type.is_static or x.type.static_shape[axis] % size:
        raise RefusedError(f"blocks of {size} don't fit into {x.type}")
    shape = x.type.static_shape
    return op.Reshape(x, [*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :]])


def _widened(op: Builder, value: Value) -> Value:
    if value.dtype not in (DType.int4, DType.uint4):
        return value
    if not isinstance(value, Constant):
        raise RefusedError(f"it reads {value.dtype} that is computed at run time")
    return op.constant(value.data.astype(np.int8 if value.dtype is DType.int4 else np.uint8), value.name)


def _quantized(node: Node, start: int) -> tuple[Value, Value, Value]:
    return operand(node, start), operand(node, start + 1), operand(node, start + 2)


def _convolution(node: Node) -> dict[str, object]:
    return {name: node.attributes[name] for name in _CONVOLUTION if name in node.attributes}


EXPANSIONS: dict[str, Expansion] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": _dequantize,
    "QLinearConv": _quantized_conv,
    "QLinearMatMul": _quantized_matmul,
    "QuantizeLinear": _quantize,
}
