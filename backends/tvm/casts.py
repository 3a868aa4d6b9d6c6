# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""Conversions between element types."""

from functools import partial
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from tvm import relax, te, tirx

from ...ir.graph import Node
from ...ir.types import DType
from .carriers import carrier

if TYPE_CHECKING:
    from .lowering import Lowering


def cast(lowering: "Lowering", node: Node) -> Any:
    value = node.inputs[0]
    assert value is not None
    x, to = lowering.tensor(value), node.output.dtype
    if value.dtype is to:
        return x
    if _is_coded(value.dtype):
        x = _decoded(lowering, x, value.dtype)
    source = DType.float32 if _is_coded(value.dtype) else value.dtype
    if _is_coded(to):
        x = x if source is DType.float32 else relax.op.astype(x, "float32")
        return lowering.kernel(partial(_encode, to=to, saturate=bool(node.attributes.get("saturate", 1))), x)
    return _converted(lowering, x, source, to)


def _is_coded(dtype: DType) -> bool:
    return dtype.is_float and carrier(dtype) is not dtype


def _decoded(lowering: "Lowering", codes: Any, dtype: DType) -> Any:
    table = np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy).astype(np.float32)
    return relax.op.take(relax.const(table), lowering.block.emit(relax.op.astype(codes, "int32")), 0, mode="clip")


def _converted(lowering: "Lowering", x: Any, source: DType, to: DType) -> Any:
    """Numbers are cut towards zero, and wrap around where an integer can't hold them."""
    if to is DType.bool:
        return relax.op.not_equal(x, relax.const(0, str(carrier(source))))
    if to in (DType.int4, DType.uint4):
        return lowering.kernel(partial(_cut_to_4_bits, to=to), x)
    if source.is_float and to.is_integer and to.bits < 64:
        x = lowering.block.emit(relax.op.astype(x, "int64" if to.bits == 32 else "int32"))
    return relax.op.astype(x, str(to))


def _cut_to_4_bits(x: te.Tensor, to: DType) -> te.Tensor:
    offset = 8 if to is DType.int4 else 0

    def element(*place: Any) -> Any:
        return ((x(*place).astype("int32") + offset) & 15) - offset

    return te.compute(x.shape, lambda *place: element(*place).astype(str(carrier(to))), name="cut")


def _encode(x: te.Tensor, to: DType, saturate: bool) -> te.Tensor:
    """The codes of float32 numbers, rounded to the nearest, and of two as near to the one with an even code."""
    form = ml_dtypes.finfo(to.numpy)
    code = np.array([form.max, np.nan, np.inf], np.float32).astype(to.numpy).view(np.uint8)
    largest, nan, infinity = (tirx.const(int(number) & 0x7F, "int32") for number in code)
    lowest, digits = int(form.minexp), int(form.nmant)

    def element(*place: Any) -> Any:
        bits = tirx.reinterpret("int32", x(*place))
        size = bits & 0x7FFFFFFF
        exponent = (size >> 23) - 127
        scale = tirx.max(exponent, lowest)
        dropped = tirx.min(23 - digits + scale - exponent, 25)  # bits of the significand that are rounded away
        significand = tirx.if_then_else(size < 1 << 23, 0, (size & 0x7FFFFF) | 0x800000)
        odd = (significand >> dropped) & 1
        rounded = (significand + (1 << (dropped - 1)) - 1 + odd) >> dropped
        found = ((scale - lowest) << digits) + rounded
        beyond = largest if saturate else infinity
        found = tirx.if_then_else(found > largest, beyond, found)
        found = tirx.if_then_else(size > 0x7F800000, nan, found)
        return (found | ((bits >> 24) & 0x80)).astype("uint8")

    return te.compute(x.shape, element, name="encode")
