"""Products with weights of which blocks are zero: they are those of dense kernels, and shorter."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from machine import targets

pytest.importorskip("tvm")

import tvm

from planish.backends.legal import legalized
from planish.backends.tvm.kernels import convolution
from planish.backends.tvm.kernels.convolution import Convolution
from planish.backends.tvm.kernels.epilogue import Epilogue
from planish.backends.tvm.kernels.gemm import Gemm, Matrix, gemm_kernel, packed, tiles
from planish.backends.tvm.kernels.instructions.base import FMA, Instruction
from planish.backends.tvm.kernels.instructions.bf16_dot import BF16_DOT
from planish.backends.tvm.kernels.instructions.int8_dot import Int8Dot
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.sparse_gemm import SparseMatrix, SparseTile, compressed, sparse_tiles
from planish.backends.tvm.kernels.windows import Window
from planish.backends.tvm.llvm import llvm_target
from planish.backends.tvm.relax.lowering import to_relax
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Value
from planish.ir.types import DType, TensorType
from planish.passes.legalization.origins import Origins
from planish.targets import Target
from planish.targets.load import load_target

RNG = np.random.default_rng(0)


target = targets("native", "x86-64-avx2", "x86-64")
"""Machines with vectors of 16, 8 and 4 lanes, and dot products or none."""


def masked(weights: np.ndarray, density: float, rows: int, columns: int) -> np.ndarray:
    """Weights `[K, N]` of which blocks of some rows and columns are kept at random; the others are zero."""
    k, n = weights.shape
    mask = RNG.random((-(-k // rows), -(-n // columns))) < density
    return weights * np.kron(mask, np.ones((rows, columns)))[:k, :n].astype(weights.dtype)


def integers(k: int, n: int) -> np.ndarray:
    return RNG.integers(1, 128, (k, n)).astype(np.int8)


def compiled(kernel: tvm.tirx.PrimFunc, target: Target) -> Callable[..., np.ndarray]:
    """Compile a kernel to a function that returns its last argument."""
    module = tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})
    main = tvm.compile(module, target=llvm_target(target))["main"]

    def run(*arguments: np.ndarray) -> np.ndarray:
        arrays = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in arguments]
        main(*arrays)
        return arrays[-1].numpy()

    return run


PATTERNS = {
    "blocks": lambda weights: masked(weights, 0.3, 4, 16),
    "single numbers": lambda weights: masked(weights, 0.05, 1, 1),
    "nothing": lambda weights: weights * 0,
    "everything": lambda weights: weights,
    "empty columns": lambda weights: weights * (np.arange(weights.shape[1]) > 40).astype(weights.dtype),
    "empty rows": lambda weights: weights * (np.arange(len(weights)) % 8 > 3)[:, None].astype(weights.dtype),
}


@pytest.mark.parametrize("is_integer", [False, True])
def test_sums_are_those_of_the_dense_kernel(target: Target, is_integer: bool) -> None:
    """Sums of integers to the last bit; several parts of rows, blocks of one and two vectors, an odd last panel."""
    machine, (m, k, n) = Machine.of(target), (75, 64, 83)
    weights = integers(k, n) if is_integer else RNG.standard_normal((k, n), np.float32)
    instruction: Instruction = Int8Dot.of(machine, weights.T) if is_integer else FMA
    x = RNG.integers(0, 256, (m, k)).astype(np.uint8) if is_integer else RNG.standard_normal((m, k), np.float32)
    beside = [RNG.integers(-999, 999, n).astype(np.int32)] if is_integer else []
    dtype, matrix = instruction.accumulator_dtype, Matrix(has_offsets=is_integer)
    y, epilogue = np.zeros((m, n), dtype), Epilogue((), (), dtype)
    for sizes, vectors in ((Gemm((m,), k, n), 1), (Gemm((None,), k, n), 2)):
        gemm = replace(sizes, instruction=instruction)
        dense, sparse = tiles(gemm, machine)[0], SparseTile(3, vectors * machine.lanes, machine.lanes)
        plain = compiled(gemm_kernel(gemm, dense, machine, epilogue, matrix), target)
        other = compiled(gemm_kernel(gemm, sparse, machine, epilogue, SparseMatrix.of(matrix, held=k)), target)
        for name, pattern in PATTERNS.items():
            kept = pattern(weights)
            expected = plain(x, packed(kept, dense, instruction), *beside, y)
            found = other(x, *compressed(kept, sparse, instruction), *beside, y)
            np.testing.assert_allclose(found, expected, rtol=0, atol=0 if is_integer else 1e-4, err_msg=name)


@pytest.mark.parametrize("is_integer", [False, True])
def test_convolutions_of_one_tap(target: Target, is_integer: bool) -> None:
    """Filters that don't fill their blocks, and windows with strides."""
    machine, (channels, filters) = Machine.of(target), (32, 40)
    whole = integers(channels, 83) if is_integer else RNG.standard_normal((channels, 83), np.float32)
    instruction: Instruction = Int8Dot.of(machine, whole.T) if is_integer else FMA
    dtype, outer = "uint8" if is_integer else "float32", -(-filters // machine.lanes)
    x = RNG.integers(0, 256, (2, channels // machine.lanes, 9, 7, machine.lanes)).astype(dtype)
    row = RNG.standard_normal(outer * machine.lanes, np.float32)
    points = Window.points((9, 7))
    for window in (points, replace(points, strides=(2, 2), result=(5, 4))):
        sizes = Convolution(
            2, channels, filters, 1, channels, window, machine.lanes, instruction, has_offsets=is_integer, dtype=dtype
        )
        y = np.zeros((2, outer, *window.result, machine.lanes), np.float32)
        ways = [convolution.tiles(sizes, machine)[0], convolution.SparseTile(4, 1), convolution.SparseTile(3, outer)]
        runs = [compiled(convolution.convolution_kernel(sizes, way, machine, Epilogue()), target) for way in ways]
        for name, pattern in PATTERNS.items():
            weights = pattern(whole)[:, 20 : 20 + filters].T[:, :, None, None]
            beside = [row]
            if is_integer:
                beside += [row[::-1], convolution.start_offsets(weights, 99, window, machine.lanes)]
            expected, *found = (
                run(x, *convolution.prepared(weights, sizes, way, machine), *beside, y)
                for run, way in zip(runs, ways, strict=True)
            )
            for one in found:
                np.testing.assert_array_equal(one, expected, err_msg=name)


@pytest.mark.parametrize("m", [1, 2, 32, None])
@pytest.mark.parametrize("instruction", [FMA, BF16_DOT, None])
def test_kernels_are_sparse_where_blocks_of_their_own_are_zero(m: int | None, instruction: Instruction | None) -> None:
    machine = Machine.of(load_target("x86-64-avx512-vnni"))
    weights = integers(64, 64)
    instruction = instruction or Int8Dot.of(machine, weights.T)
    gemm, together = Gemm((m,), 64, 64, instruction=instruction), instruction.k_per_instruction
    few = masked(weights, 0.2, together, machine.lanes)
    assert sparse_tiles(gemm, few, machine)[0].columns == machine.lanes
    assert sparse_tiles(gemm, masked(weights, 0.2, together, 2 * machine.lanes), machine)[0].columns > machine.lanes
    for dense in (weights, masked(weights, 0.8, together, machine.lanes), masked(weights, 0.2, 1, 1)):
        assert not sparse_tiles(gemm, dense, machine)
    assert not sparse_tiles(replace(gemm, n=3), few[:, :3], machine)


def products(operator: str) -> Callable[..., list[Value]]:
    """A graph of an integer and a float product, with biases and activations behind them, whose weights have zeros."""
    weights, scale, point = masked(integers(64, 48), 0.2, 4, 16), np.float32(0.03), np.uint8(115)
    scales, bias = RNG.random(48, np.float32) / 50 + 0.01, RNG.standard_normal(48, np.float32)
    by_filter, floats = weights.T[:, :, None, None].copy(), weights.astype(np.float32) / 99

    def build(op: Builder, x: Value) -> list[Value]:
        quantized = op.DequantizeLinear(op.QuantizeLinear(x, scale, point), scale, point)
        if operator == "Conv":
            right = op.DequantizeLinear(by_filter, scales, axis=0)
            filters = by_filter.astype(np.float32) / 99
            return [op.Relu(op.Conv(quantized, right, bias)), op.Relu(op.Conv(x, filters, bias))]
        if operator == "Gemm":
            right = op.DequantizeLinear(weights.T.copy(), scales, axis=0)
            return [op.Gelu(op.Gemm(quantized, right, bias, transB=1)), op.Gemm(x, floats)]
        right = op.DequantizeLinear(weights, scales, axis=1)
        return [op.Add(op.MatMul(quantized, right), bias), op.MatMul(x, floats)]

    return build


@pytest.mark.parametrize("operator", ["MatMul", "Gemm", "Conv"])
def test_models_give_what_they_gave(agree: Callable[..., None], operator: str) -> None:
    shape = (1, 64, 5, 7) if operator == "Conv" else (9, 64)
    again = [[RNG.standard_normal((40, *shape[1:]), np.float32)]]
    x = RNG.standard_normal(shape, np.float32)
    agree(products(operator), x, dims=[("batch", *shape[1:])], again=again)


def test_weights_that_are_all_zero(agree: Callable[..., None]) -> None:
    """A layer that nobody has trained may have no block to hold: in float32, bfloat16, and integers."""
    zeros, bias = np.zeros((48, 64), np.float32), RNG.standard_normal(48, np.float32)
    scale, point, scales = np.float32(0.03), np.uint8(115), np.full(48, 0.1, np.float32)

    def build(op: Builder, x: Value) -> list[Value]:
        rounded = op.Cast(op.Cast(x, to=DType.bfloat16), to=DType.float32)
        narrow = op.Cast(op.constant(zeros.astype(DType.bfloat16.numpy)), to=DType.float32)
        quantized = op.DequantizeLinear(op.QuantizeLinear(x, scale, point), scale, point)
        integers = op.DequantizeLinear(zeros.astype(np.int8), scales, axis=0)
        pairs = [(x, zeros), (rounded, narrow), (quantized, integers)]
        return [op.Gemm(left, right, bias, transB=1) for left, right in pairs]

    agree(build, RNG.standard_normal((9, 64), np.float32))


@pytest.mark.parametrize("operator", ["MatMul", "Gemm", "Conv"])
def test_lowering_finds_blocks_that_are_zero(operator: str) -> None:
    target, graph = load_target("x86-64-avx512-vnni"), Graph("test")
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 64, 5, 7) if operator == "Conv" else ("batch", 64)))
    graph.outputs = {f"y{place}": value for place, value in enumerate(products(operator)(Builder(graph), x))}
    module = to_relax(legalized(graph, target, "tvm"), Origins.of(graph), target).module
    names = {variable.name_hint for variable in module.get_global_vars()}
    kind = "conv" if operator == "Conv" else "gemm"
    assert {f"sparse_{kind}", f"sparse_integer_{kind}"} <= names
