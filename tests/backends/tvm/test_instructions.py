"""Instruction sets and element types that planish doesn't have: a class each."""

from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from planish.backends.tvm.kernels.epilogue import Epilogue
from planish.backends.tvm.kernels.gemm import Gemm, Matrix, gemm_kernel, packed, tiles
from planish.backends.tvm.kernels.instructions.base import Instruction
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.vectors import spread
from planish.backends.tvm.llvm import llvm_target
from planish.targets.load import load_target


@dataclass(frozen=True, slots=True)
class Pairs(Instruction):
    """Two products of bytes at once, one after the other in int32."""

    mnemonic = "pairs"
    k_per_instruction = 2
    lhs_dtype, rhs_dtype, accumulator_dtype = "uint8", "int8", "int32"

    def broadcast_lhs(self, elements: tirx.Expr, lanes: int) -> list[tirx.Expr]:
        return [T.reinterpret(spread(T.reinterpret(elements, dtype="int16"), lanes), dtype=f"uint8x{2 * lanes}")]

    def multiply_add(self, sums: tirx.Expr, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
        lanes = sums.ty.dtype.lanes
        for index in range(2):
            factors = (tirx.Shuffle([pair], list(range(index, 2 * lanes, 2))) for pair in (left, right))
            a, b = (factor.astype(f"int32x{lanes}") for factor in factors)
            sums = sums + a * b
        return sums


@pytest.mark.parametrize("has_offsets", [False, True])
@pytest.mark.parametrize("m", [1, 19])
def test_a_toy_instruction_makes_a_gemm(m: int, has_offsets: bool) -> None:
    rng, target = np.random.default_rng(0), load_target("native")
    machine, gemm = Machine.of(target), Gemm((m,), 30, 50, instruction=Pairs())
    x, weights = rng.integers(0, 256, (m, 30)).astype(np.uint8), rng.integers(-128, 128, (30, 50)).astype(np.int8)
    offsets, y = rng.integers(-999, 999, 50).astype(np.int32), np.zeros((m, 50), np.int32)
    tile = tiles(gemm, machine)[0]
    epilogue = Epilogue((), (), "int32")
    kernel = gemm_kernel(gemm, tile, machine, epilogue, Matrix(has_offsets)).with_attr("global_symbol", "main")
    run = tvm.compile(tvm.IRModule({"main": kernel}), target=llvm_target(target))["main"]
    arguments = [x, packed(weights, tile, gemm.instruction), *([offsets] if has_offsets else []), y]
    arrays = [tvm.runtime.tensor(array) for array in arguments]
    run(*arrays)
    expected = x.astype(np.int32) @ weights.astype(np.int32) + (offsets if has_offsets else 0)
    np.testing.assert_array_equal(arrays[-1].numpy(), expected)
