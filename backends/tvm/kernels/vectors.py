# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""Vectors of any number of lanes: TVM has none of one."""

from typing import Any

from tvm.script.ir_builder import tirx as T


def lanes_at(start: Any, lanes: int) -> Any:
    """The places of consecutive elements."""
    return start if lanes == 1 else T.ramp(start, 1, lanes)


def spread(element: Any, lanes: int) -> Any:
    """The same element in every lane."""
    return element if lanes == 1 else T.broadcast(element, lanes)


def held(vector: Any) -> Any:
    """The same vector, computed once: where a name is bound to it, TVM's simplifier puts the expression back in for the name.

    LLVM keeps it in a register.
    """
    lanes = vector.ty.dtype.lanes
    place = lanes_at(0, lanes)
    buffer = T.alloc_buffer((lanes,), vector.ty.dtype.with_lanes(1))
    T.buffer_store(buffer, vector, [place])
    return buffer[place]
