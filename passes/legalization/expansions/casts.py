"""Conversions that ONNX Runtime makes otherwise than the standard, by way of others that it makes as the standard says.

Its kernels round floats to integers of less than 8 bits instead of cutting them, take every bit of a small float but
the zero's for true, and miss some of what is too large for a float8 that doesn't saturate.
"""

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, attribute, cast

_LARGEST = {DType.float8_e4m3fn: 464.0, DType.float8_e5m2: float(np.nextafter(np.float32(61440), np.float32(0)))}
"""The largest float32 that is rounded to a finite number."""


def is_miscast(node: Node) -> bool:
    x, to = node.operand(0), node.output.dtype
    if not attribute(node, "saturate", 1) and to in _LARGEST:
        return not _is_bounded(x)
    if not x.dtype.is_float:
        return False
    return (to.is_integer and to.bits < 8) or (to is DType.bool and x.dtype.bits <= 8)


def _is_bounded(x: Value) -> bool:
    """Whether numbers that are too large were made infinite by the expansion of this file."""
    node = x.producer
    if node is None or node.operator != "Where" or node.inputs[1] is None or node.inputs[1].producer is None:
        return False
    factor = node.inputs[1].producer.constant(1)
    return node.inputs[1].producer.operator == "Mul" and factor is not None and bool(np.isinf(factor).all())


def _cast(op: Builder, node: Node) -> Value:
    x, to = node.operand(0), node.output.dtype
    if to not in _LARGEST:
        return op.Cast(op.Cast(x, to=DType.int32 if to.is_integer else DType.float32), to=to)
    x = cast(op, x, DType.float32)
    too_large = op.Greater(op.Abs(x), _LARGEST[to])
    return op.Cast(op.Where(too_large, op.Mul(x, np.inf), x), **node.attributes)


EXPANSIONS: dict[str, Expansion] = {"Cast": _cast}
