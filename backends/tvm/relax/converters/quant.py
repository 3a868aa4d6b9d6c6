"""Products of quantized numbers, written as QuantizeLinear and DequantizeLinear around a float32 product."""

from dataclasses import dataclass

import numpy as np
from tvm import relax, te, tirx

from .....ir.graph import Constant, Node, Value
from .....ir.quantization import quant_params_of
from .....ir.types import DType
from ...kernels.epilogue import Broadcast, Epilogue, Operand, PostOp, elementwise_kernel
from ..emitter import Converter, Emitter, known_sizes
from ..fusion import step_attributes, widened_from


@dataclass(frozen=True, slots=True)
class Quantized:
    """A product's operands before they were dequantized.

    Attributes:
        x: the left operand, in uint8.
        weights: the right operand, in int8: `[depth, columns]` or `[filter, channel, *spatial]`.
        scales: the scales of the sums, by column or filter.
        zero_point: the zero point of the left operand.
    """

    x: Value
    weights: np.ndarray
    scales: np.ndarray
    zero_point: int

    def offsets(self, shift: int) -> np.ndarray:
        """Return the int32 offsets that sums start from, by column, to undo the left operand's zero point.

        The `shift` was subtracted from that operand before.
        """
        return -self.weights.sum(0, dtype=np.int32) * np.int32(self.zero_point - shift)


def quantized(node: Node) -> Quantized | None:
    """Return the integers that a MatMul, Gemm or Conv multiplies; None for other operands, or weights' zero points."""
    left, right = (_dequantized(value) for value in node.inputs[:2])
    get = node.attributes.get
    if left is None or right is None or get("transA", 0) or get("alpha", 1.0) != 1 or get("beta", 1.0) != 1:
        return None
    x, scale, zero_point, _ = left
    weights, scales, weight_zero_points, axis = right
    outer = 0 if node.operator == "Conv" or get("transB", 0) else 1  # the weights' axis of filters or columns
    if (
        x.dtype is not DType.uint8
        or scale.size != 1
        or not isinstance(weights, Constant)
        or weights.dtype is not DType.int8
        or (node.operator != "Conv" and weights.type.rank != 2)
        or weight_zero_points.any()
        or (scales.size != 1 and axis % weights.type.rank != outer)
        or scales.size not in (1, weights.data.shape[outer])
    ):
        return None
    matrix = weights.data.T if get("transB", 0) else weights.data
    row = np.broadcast_to(scales.reshape(-1) * scale.reshape(()), weights.data.shape[outer]).astype(np.float32)
    return Quantized(x, matrix, row, int(zero_point.reshape(())))


def constant_weights(value: Value) -> np.ndarray | None:
    """Return a constant, or one that is dequantized or widened at compile time; None for a computed value."""
    if isinstance(value, Constant):
        return value.data
    narrow = widened_from(value)
    if isinstance(narrow, Constant):
        return narrow.data.astype(np.float32)
    found = _dequantized(value)
    if found is None:
        return None
    weights, *numbers, axis = found
    if not isinstance(weights, Constant):
        return None
    rank = weights.type.rank
    shape = [-1 if index == axis % rank else 1 for index in range(rank)]
    scale, zero_point = (array.astype(np.float32).reshape(shape if array.size > 1 else ()) for array in numbers)
    return (weights.data.astype(np.float32) - zero_point) * scale


def _dequantized(value: Value | None) -> tuple[Value, np.ndarray, np.ndarray, int] | None:
    """Return what a value was dequantized from, with scale, zero point and axis."""
    node = None if value is None else value.producer
    if node is None or node.operator != "DequantizeLinear" or node.attributes.get("block_size", 0):
        return None
    x, scale, zero_point = node.inputs[0], node.constant(1), node.constant(2)
    if x is None or scale is None or scale.dtype != np.float32 or (zero_point is None and node.input(2) is not None):
        return None
    return x, scale, np.zeros(1) if zero_point is None else zero_point, node.attributes.get("axis", 1)


def quantize(emitter: Emitter, node: Node) -> relax.Expr:
    """Quantize or dequantize by one grid for the whole tensor."""
    x = node.operand(0)
    operand, step = Operand(Broadcast.ELEMENTS, str(x.dtype)), PostOp(node.operator, step_attributes(node), (1,))
    epilogue = Epilogue((operand,), (step,), str(node.output.dtype))
    kernel = elementwise_kernel(known_sizes(x.shape), epilogue, emitter.machine)
    return emitter.prim_func(node.operator.lower(), kernel, [emitter.tensor(x)], node.output.type)


def dequantize(emitter: Emitter, node: Node) -> relax.Expr:
    """Dequantize by one grid, or by grids for each row or column.

    The latter are left on operands of products that no integer kernel computes.
    """
    if quant_params_of(node) is not None:
        return quantize(emitter, node)
    axis = node.attributes.get("axis", 1)

    def dequantize(x: te.Tensor, scale: te.Tensor, *zero_points: te.Tensor) -> te.Tensor:
        def element(*place: tirx.Expr) -> tirx.Expr:
            beside = (place[axis],) if len(scale.shape) else ()
            number = x(*place).astype("int32")
            for zero_point in zero_points:
                number = number - zero_point(*beside).astype("int32")
            return number.astype("float32") * scale(*beside)

        return te.compute(x.shape, element, name="dequantize")

    return emitter.kernel(dequantize, *emitter.tensors(node))


CONVERTERS: dict[str, Converter] = {"DequantizeLinear": dequantize, "QuantizeLinear": quantize}
