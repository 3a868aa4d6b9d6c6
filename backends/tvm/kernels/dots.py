# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportReturnType=none
"""The instruction that multiplies four pairs of 8-bit integers for each of 16 sums and adds the products to it (VNNI)."""

from typing import Any

from tvm.script.ir_builder import tirx as T

LANES = 16
"""Sums of an instruction."""
DEPTH = 4
"""Products that go into each of them."""


def with_dots(sums: Any, quad: Any, factors: Any) -> Any:
    """Sums of int32, and to each of them the products of the same four uint8 with four int8 of its own."""
    same = T.reinterpret(T.broadcast(T.reinterpret(quad, dtype="int32"), LANES), dtype="int8x64")
    return with_products(sums, same, factors)


def with_products(sums: Any, left: Any, right: Any) -> Any:
    """Sums of int32, and to each of them the products of four uint8, whose bits are given as int8, with four int8."""
    instruction = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512")
    return T.call_llvm_pure_intrin(instruction, sums, left, right, dtype="int32x16")
