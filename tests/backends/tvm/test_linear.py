import numpy as np
import pytest
from machine import targets

from planish.ir.types import DType

ROW_QUANTIZER = "planish::DynamicQuantizeRows"
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


target = targets("native", "x86-64-avx2", "x86-64")
"""Machines with vectors of 16, 8 and 4 lanes; these tests need one that runs the code for all of them."""


@pytest.mark.parametrize(("depth", "columns"), [(7, 1), (33, 5), (64, 16), (20, 50), (96, 100)])
def test_weights_of_any_size(agree, depth: int, columns: int) -> None:
    """Columns that fill no tile, and rows, given or symbolic, that fill none, one, or more of them."""
    weights = normal(depth, columns)
    rows = [[normal(1, count, depth)] for count in (1, 2, 7, 8, 9, 0)]
    agree(lambda op, x: op.MatMul(x, weights), normal(3, 5, depth), dims=[("batch", "rows", depth)], again=rows)


@pytest.mark.parametrize("shape", [(), (1,), (13,), (2, 3)])
def test_rows_of_any_rank(agree, shape: tuple[int, ...]) -> None:
    weights = normal(40, 30)
    agree(lambda op, x: op.MatMul(x, weights), normal(*shape, 40))


def test_gemm_with_turned_and_scaled_weights(agree) -> None:
    weights, bias = normal(30, 40), normal(30)
    agree(
        lambda op, x: [
            op.Gemm(x, weights, bias, transB=1, alpha=0.5),
            op.Gemm(x, weights, transB=1),
            op.Gemm(x, weights, bias, transB=1, beta=2.0),
            op.Gemm(op.Transpose(x, perm=(1, 0)), weights, transA=1, transB=1),
        ],
        normal(9, 40),
        dims=[("rows", 40)],
    )


def test_a_head_that_shares_the_table_of_the_embeddings(agree) -> None:
    table = normal(30, 40)

    def build(op, x, places):
        rows = op.Gather(table, places)
        return op.MatMul(op.Add(x, rows), op.Transpose(op.constant(table), perm=(1, 0)))

    agree(build, normal(9, 40), np.arange(9))


@pytest.mark.parametrize("columns", [1, 16, 50])
def test_products_of_what_is_computed(agree, columns: int) -> None:
    def arrays(batch: int, rows: int, depth: int) -> list[np.ndarray]:
        return [normal(batch, 2, rows, depth), normal(batch, 2, depth, columns)]

    dims = [("batch", 2, "rows", "depth"), ("batch", 2, "depth", columns)]
    build = lambda op, x, y: op.Relu(op.MatMul(op.Neg(x), y))  # noqa: E731
    agree(build, *arrays(3, 9, 20), dims=dims, again=[arrays(1, 128, 7), arrays(2, 1, 1), arrays(2, 0, 3)])


@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (9, 17), (64, 32)])
def test_one_matrix_that_multiplies_all_items(agree, rows: int, columns: int) -> None:
    """The matrix of a transform of signals, for example, computed or constant, with what is added behind it."""
    matrix, items, other = normal(rows, 20), normal(3, 2, 20, columns), normal(4, 5, 20, columns)
    dims = [(rows, 20), ("batch", "channels", 20, columns)]
    agree(lambda op, x, y: op.Relu(op.MatMul(x, y)), matrix, items, dims=dims, again=[[matrix, other]])
    bias = normal(3, 2, rows, columns)
    agree(lambda op, y, z: op.Add(op.MatMul(matrix, y), z), items, bias)


def test_products_with_one_matrix_and_with_spread_items(agree) -> None:
    x, matrix, items = normal(3, 2, 9, 20), normal(20, 17), normal(2, 20, 17)
    agree(lambda op, x, y, z: [op.MatMul(x, y), op.MatMul(x, z)], x, matrix, items)


def test_what_is_no_number_stays_in_its_row(agree) -> None:
    weights, x = normal(16, 20), normal(9, 16)
    x[2, 3], x[4, 5], x[8, 0] = np.nan, np.inf, -np.inf
    agree(lambda op, x: op.MatMul(x, weights), x, dims=[("rows", 16)])


def test_other_element_types(agree) -> None:
    weights = RNG.standard_normal((16, 20))
    agree(lambda op, x: op.MatMul(x, weights), RNG.standard_normal((9, 16)))


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
@pytest.mark.parametrize(("depth", "columns"), [(32, 16), (40, 50), (64, 96), (30, 20), (8, 5)])
def test_quantized_products(agree, operator: str, depth: int, columns: int) -> None:
    """Integers of every size, multiplied exactly; sizes that make whole instructions, and others."""
    weights = RNG.integers(-127, 128, (depth, columns)).astype(np.int8)
    scales, bias = RNG.random(columns, np.float32) / 50 + 0.01, normal(columns)
    scale, zero_point = np.float32(0.03), np.uint8(115)

    def build(op, x):
        x = op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)
        if operator == "Gemm":
            right = op.DequantizeLinear(weights.T.copy(), scales, axis=0)
            return op.Gelu(op.Gemm(x, right, bias, transB=1))
        right = op.DequantizeLinear(weights, scales, np.zeros(columns, np.int8), axis=1)
        return op.Add(op.MatMul(x, right), bias)

    agree(build, normal(9, depth) * 2, dims=[("rows", depth)], again=[[normal(1, depth)]])


@pytest.mark.parametrize("quantizer", ["DynamicQuantizeLinear", ROW_QUANTIZER])
@pytest.mark.parametrize(("depth", "columns"), [(32, 16), (40, 50), (64, 96), (30, 20), (8, 5)])
def test_dynamically_quantized_products(agree, quantizer: str, depth: int, columns: int) -> None:
    """Grids that are found at run time; the sums themselves, and what becomes of them in the kernel."""
    weights = RNG.integers(-127, 128, (depth, columns)).astype(np.int8)
    scales, bias = RNG.random(columns, np.float32) / 50 + 0.01, normal(columns)

    def build(op, x, beside):
        integers, scale, zero_point = op(quantizer, x, outputs=3)
        sums = [op.MatMulInteger(integers, weights, zero_point, np.zeros(columns, np.int8)) for _ in range(2)]
        product = op.Mul(op.Mul(op.Cast(sums[0], to=DType.float32), scales), scale)
        return [op.Add(op.Gelu(op.Add(product, bias)), beside), sums[1]]

    x = normal(9, depth) * np.exp(normal(9, 1))
    rows = [[normal(count, depth), normal(count, columns)] for count in (1, 8, 0)[: 2 + (quantizer == ROW_QUANTIZER)]]
    agree(build, x, normal(9, columns), dims=[("rows", depth), ("rows", columns)], again=rows)


def test_what_of_an_integer_product_is_rounded_at_once_is_stored_so(agree) -> None:
    """Attention in bfloat16 reads products of int8: the graph says Cast, and the kernel stores what that gives."""
    weights = RNG.integers(-127, 128, (32, 48)).astype(np.int8)

    def build(op, x):
        integers, scale, zero_point = op(ROW_QUANTIZER, x, outputs=3)
        product = op.Mul(op.Cast(op.MatMulInteger(integers, weights, zero_point), to=DType.float32), scale)
        return op.Cast(op.Cast(op.Mul(product, np.float32(2**-8)), to=DType.bfloat16), to=DType.float32)

    agree(build, normal(9, 32))
