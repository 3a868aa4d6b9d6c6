"""Products by weights in 2, 4 and 8 bits, held to the interpreter's."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import targets

from planish.backends import find_backend
from planish.backends.artifact import write_artifact
from planish.ir.block_weight import BlockScheme, BlockWeight
from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType

pytest.importorskip("tvm")

RNG = np.random.default_rng(0)


target = targets("native", "x86-64-avx512", "x86-64-avx2", "x86-64")
"""Digits of 8 bits, a table of floats in a register, and conversions in vectors of 8 and 4 lanes."""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def weights(depth: int, columns: int, block: int, bits: int = 4) -> BlockWeight:
    """Any codes and zero points."""
    sizes = (depth, depth // block)
    codes, zero_points = (RNG.integers(0, 2**bits, (size, columns)).astype(np.uint8) for size in sizes)
    return BlockWeight(codes, normal(depth // block, columns) / 4**bits, zero_points, BlockScheme(bits, block))


def multiplied(op, x, weight: BlockWeight, bias: np.ndarray | None = None):
    (depth, columns), blocks = weight.codes.shape, len(weight.scales)
    beside = () if bias is None else (None, bias)
    sizes = {"K": depth, "N": columns, "block_size": depth // blocks}
    return op("com.microsoft::MatMulNBits", x, *weight.inputs, *beside, bits=weight.scheme.stored_bits, **sizes)


SIZES = [(32, 1, 32, 4), (48, 50, 16, 4), (64, 16, 64, 4), (96, 131, 32, 4), (64, 50, 32, 8)]
SIZES += [pytest.param(64, 50, 32, 2, marks=pytest.mark.wide)]


@pytest.mark.parametrize(("depth", "columns", "block", "bits"), SIZES)
def test_rows_of_any_number(agree, depth: int, columns: int, block: int, bits: int) -> None:
    """Given or symbolic, few that read codes and many that read floats; columns that fill no tile, one, or several."""
    weight = weights(depth, columns, block, bits)
    rows = [[normal(1, count, depth)] for count in (1, 2, 3, 4, 8, 9, 20, 0)]
    agree(lambda op, x: multiplied(op, x, weight), normal(3, 5, depth), dims=[("batch", "rows", depth)], again=rows)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (8,)])
def test_few_rows_of_any_rank_and_what_follows(agree, shape: tuple[int, ...]) -> None:
    weight, bias = weights(64, 150, 32), normal(150)
    agree(lambda op, x, y: op.Add(op.Gelu(multiplied(op, x, weight, bias)), y), normal(*shape, 64), normal(*shape, 150))


def tied(op, ids, x, weight: BlockWeight):
    """A head's product, and the rows of its codes, scales and zero points."""
    (depth, columns), block = weight.codes.shape, weight.scheme.block
    tables = [op.constant(array) for array in weight.inputs]
    head = op("com.microsoft::MatMulNBits", x, *tables, bits=8, K=depth, N=columns, block_size=block)
    return head, *(op.Gather(table, ids) for table in tables)


@pytest.mark.parametrize(("depth", "columns", "block"), [(64, 50, 32), (48, 131, 16)])
def test_rows_of_a_table_that_a_head_multiplies_by(agree, depth: int, columns: int, block: int) -> None:
    """The last panel of columns overlaps the one before it; places may count from the end."""
    weight, ids = weights(depth, columns, block, 8), np.array([[0, 1, columns - 1], [-1, -columns, columns // 2]])
    agree(
        lambda op, ids, x: tied(op, ids, x, weight),
        ids,
        normal(2, 3, depth),
        dims=[("batch", "rows"), ("batch", "rows", depth)],
    )


def test_a_table_that_a_head_multiplies_by_is_stored_once(target, tmp_path) -> None:
    weight, graph = weights(64, 4096, 32, 8), Graph("tied")
    ids, x = (
        graph.add_input("ids", TensorType(DType.int64, (2,))),
        graph.add_input("x", TensorType(DType.float32, (2, 64))),
    )
    graph.outputs.update(zip("abcd", tied(Builder(graph), ids, x, weight), strict=True))
    write_artifact(tmp_path / "dist", graph, find_backend("tvm"), target)
    stored = sum(array.nbytes for array in weight.inputs)
    assert stored <= (tmp_path / "dist" / "weights.bin").stat().st_size < 1.2 * stored


@given(
    rows=st.integers(1, 20),
    blocks=st.integers(1, 4),
    columns=st.integers(1, 70),
    block=st.sampled_from([16, 32, 128]),
    bits=st.sampled_from([2, 4, 8]),
    has_bias=st.booleans(),
)
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_products_of_any_size(
    agree, rows: int, blocks: int, columns: int, block: int, bits: int, has_bias: bool
) -> None:
    weight = weights(blocks * block, columns, block, bits)
    agree(lambda op, x: multiplied(op, x, weight, normal(columns) if has_bias else None), normal(rows, blocks * block))


def test_long_blocks_of_equal_numbers(agree) -> None:
    """Their sum takes more bits than that of any other block as long."""
    weight, sizes = weights(1024, 20, 1024), {"K": 1024, "N": 20, "block_size": 1024}
    inputs = weight.stored_in(4, 1024)
    agree(
        lambda op, x: op("com.microsoft::MatMulNBits", x, *inputs, bits=4, **sizes), np.full((3, 1024), -1, np.float32)
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_every_size_and_what_is_no_number(agree, bits: int) -> None:
    """Blocks of zeros, subnormal and huge numbers are as exact, relative to their largest, as those around 1.

    What isn't finite spoils its row alone.
    """
    weight = weights(64, 20, 32, bits)
    x = normal(8, 64) * np.float32([1, 1e-30, 1e-39, 1e30, 0, 1, 1, 1])[:, None]
    x[5, :32] *= np.exp(normal(32))
    agree(lambda op, x: op.Mul(multiplied(op, x, weight), np.float32([1, 1e30, 1, 1e-30, 1, 1, 1, 1])[:, None]), x)
    x[6, 40], x[7, 3] = np.nan, np.inf
    agree(lambda op, x: op.Less(op.Abs(multiplied(op, x, weight)), np.float32(1e38)), x)


def test_what_there_is_no_kernel_for_is_spelled_out(agree) -> None:
    """A last block that isn't whole, zero points in floats, and weights that are computed."""
    data = [RNG.integers(0, 256, (5, blocks, 16)).astype(np.uint8) for blocks in (3, 2)]
    scales = [normal(5, len(each[0])) / 64 for each in data]
    names = ("K", "N", "block_size", "bits")

    def product(op, x, data, scales, *sizes, zero_points=None):
        return op("com.microsoft::MatMulNBits", x, data, scales, zero_points, **dict(zip(names, sizes, strict=True)))

    def build(op, x, data2):
        narrow = op.Slice(x, [0], [64], [1])
        return [
            product(op, x, data[0], scales[0], 80, 5, 32, 4, zero_points=RNG.integers(0, 256, (5, 2)).astype(np.uint8)),
            product(op, narrow, data2, scales[1], 64, 5, 32, 4, zero_points=normal(5, 2)),
        ]

    agree(build, normal(7, 80), data[1])
