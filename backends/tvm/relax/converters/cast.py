"""Conversions between element types.

A small float is converted to its code by counting how many midpoints between neighbouring numbers are less.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from tvm import relax, te, tirx

from .....ir.graph import Node
from .....ir.types import DType
from ...kernels.epilogue import Broadcast, Epilogue, Operand, PostOp, elementwise_kernel
from ...runtime.storage import carrier, is_carried
from ..emitter import Emitter, known_sizes
from ..expressions import choose

_ROUNDING = Epilogue((Operand(Broadcast.ELEMENTS),), (PostOp("Cast", (), (1,)),), "bfloat16")
_POWERS = DType.float8_e8m0fnu
_LEAST = {"down": 1.0, "nearest": 0.75, "up": math.nextafter(0.5, 1.0)}
"""The least number between 0.5 and 1 that becomes 1, for each way of rounding to powers of two."""


def cast(emitter: Emitter, node: Node) -> relax.Expr:
    value = node.operand(0)
    x, source, to = emitter.tensor(value), value.dtype, node.output.dtype
    if source is to:
        return x
    if to is DType.bfloat16 and source is DType.float32:
        kernel = elementwise_kernel(known_sizes(value.shape), _ROUNDING, emitter.machine)
        return emitter.prim_func("round", kernel, [x], node.output.type)
    if is_carried(source) and source.is_float:
        x, source = _decoded(emitter, x, source), DType.float32
    if not is_carried(to) or not to.is_float:
        return _converted(emitter, x, source, to)
    saturate = bool(node.attributes.get("saturate", 1))
    if to is _POWERS and source is not DType.float32:
        x = emitter.block.emit(relax.op.astype(x, "float32"))  # as the standard's reference does first
    x = emitter.block.emit(relax.op.astype(x, "float64"))
    if to is _POWERS:
        bounds = [2.0**power * _LEAST[node.attributes.get("round_mode", "up")] for power in range(-126, 128)]
        return emitter.kernel(partial(_power, saturate=saturate), x, relax.const(np.array(bounds), "float64"))
    finite = _numbers(to)
    numbers = np.append(finite, 2 * finite[-1] - finite[-2])  # what would come next
    bounds = relax.const((numbers[1:] + numbers[:-1]) / 2, "float64")
    return emitter.kernel(partial(_coded, to=to, largest=len(finite) - 1, saturate=saturate), x, bounds)


def _numbers(dtype: DType) -> np.ndarray:
    """Return the numbers of a small float type from 0 on, in ascending order and float64."""
    codes = np.arange(1 << (dtype.bits - 1), dtype=np.uint8)
    numbers = codes.view(dtype.numpy).astype(np.float64)
    return numbers[np.isfinite(numbers)]


def _decoded(emitter: Emitter, codes: relax.Expr, dtype: DType) -> relax.Expr:
    table = np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy).astype(np.float32)
    return relax.op.take(relax.const(table), emitter.block.emit(relax.op.astype(codes, "int32")), 0, mode="clip")


def _converted(emitter: Emitter, x: relax.Expr, source: DType, to: DType) -> relax.Expr:
    """Convert numbers; floats are cut towards zero, and integers wrap around where the type can't hold them."""
    if source is DType.bfloat16:
        x, source = emitter.block.emit(relax.op.astype(x, "float32")), DType.float32
    if to is DType.bool:
        differs = relax.op.not_equal(x, relax.const(0, str(carrier(source))))  # which holds for no NaN
        return relax.op.logical_or(differs, relax.op.isnan(x)) if source.is_float else differs
    if to is DType.bfloat16 and source.is_float:  # whose rounding carries the bits of some NaN over into its sign
        nan = relax.const(np.array(np.nan, to.numpy), str(to))
        return relax.op.where(relax.op.isnan(x), nan, emitter.block.emit(relax.op.astype(x, str(to))))
    if to.is_integer and to.bits < 8:
        return emitter.kernel(partial(_cut, to=to), x)
    if source.is_float and to.is_integer and (to.bits < 32 or to is DType.uint32):
        x = emitter.block.emit(relax.op.astype(x, "int32" if to.bits < 32 else "int64"))
    return relax.op.astype(x, str(to))


def ranks(x: te.Tensor) -> te.Tensor:
    """Map floats to integers in the same order, with NaN above all of them: sorting would stumble over NaN."""
    bits = str(x.dtype).replace("float", "int")
    most = tirx.max_value(bits)

    def element(*place: tirx.Expr) -> tirx.Expr:
        code = tirx.reinterpret(bits, x(*place))
        size = code & most
        return choose(tirx.isnan(x(*place)), most, choose(code < tirx.const(0, bits), -size, size))

    return te.compute(x.shape, element, name="ranks")


def _cut(x: te.Tensor, *, to: DType) -> te.Tensor:
    """Keep the lower bits of integers."""
    low, high = to.limits

    def element(*place: tirx.Expr) -> tirx.Expr:
        return (((x(*place).astype("int32") - low) & (high - low)) + low).astype(str(carrier(to)))

    return te.compute(x.shape, element, name="cut")


def _coded(x: te.Tensor, bounds: te.Tensor, *, to: DType, largest: int, saturate: bool) -> te.Tensor:
    """Return the codes of the nearest numbers, ties to even codes; narrow floats have neither infinity nor NaN."""
    sign = 1 << (to.bits - 1)
    below, up_to = _counts(x, bounds, lambda number, bound: number > bound), _counts(x, bounds, lambda a, b: a >= b)
    nan, infinity = (int(code) for code in np.array([np.nan, np.inf], to.numpy).view(np.uint8))
    is_narrow = to.bits < 8
    has_zeros = is_narrow or nan != sign  # where it is NaN's code, there is no negative zero

    def element(*place: tirx.Expr) -> tirx.Expr:
        number, low, high = x(*place), below(*place), up_to(*place)
        is_nan, is_negative = tirx.isnan(number), tirx.reinterpret("int64", number) < 0
        code = choose(tirx.EQ(low & 1, 1), high, low)  # they differ half way between two numbers alone
        beyond = largest if saturate or is_narrow else infinity & (0xFF if infinity == nan == sign else sign - 1)
        code = choose(code > largest, tirx.const(beyond, "int32"), code)
        if is_narrow:  # as ml_dtypes has it
            is_negative = choose(is_nan, tirx.Not(is_negative), is_negative)
            code = choose(is_nan, tirx.const(0, "int32"), code)
        signed = is_negative if has_zeros else tirx.all(is_negative, code > 0)
        code = choose(signed, code | sign, code)
        return (code if is_narrow else choose(is_nan, tirx.const(nan, "int32"), code)).astype("uint8")

    return te.compute(x.shape, element, name="code")


def _power(x: te.Tensor, bounds: te.Tensor, *, saturate: bool) -> te.Tensor:
    """Return the codes of powers of two; what is too large, negative or 0 becomes the nearer end, or NaN."""
    counts = _counts(x, bounds, lambda number, bound: number >= bound)
    nan = tirx.const(255, "int32")
    ends = [tirx.const(end, "int32") for end in (0, 254)] if saturate else [nan, nan]

    def element(*place: tirx.Expr) -> tirx.Expr:
        number, code = x(*place), counts(*place)
        code = choose(number < tirx.const(2.0**-127, "float64"), ends[0], code)
        code = choose(number > tirx.const(2.0**127, "float64"), ends[1], code)
        return choose(tirx.isnan(number), nan, code).astype("uint8")

    return te.compute(x.shape, element, name="code")


def _counts(x: te.Tensor, bounds: te.Tensor, exceeds: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]) -> te.Tensor:
    """Count how many bounds each number's size exceeds."""
    each = te.reduce_axis((0, bounds.shape[0]), "bound")

    def element(*place: tirx.Expr) -> tirx.Expr:
        return te.sum(exceeds(tirx.abs(x(*place)), bounds(each)).astype("int32"), axis=[each])

    return te.compute(x.shape, element, name="count")


CONVERTERS = {"Cast": cast}
