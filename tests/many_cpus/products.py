"""Products and attention."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from planish.ir.block_weight import BlockScheme, BlockWeight
from planish.ir.builder import Builder
from planish.ir.graph import Value
from planish.ir.types import DType

from .case import EIGHTH, Build, Case, fake, normal, plain, rounded


def _products(rng: np.random.Generator) -> Case:
    weights, few, bias = normal(rng, 37, 50), normal(rng, 37, 5), normal(rng, 50)

    def build(op: Builder, x: Value, y: Value) -> list[Value]:
        return [
            op.Relu(op.MatMul(x, weights)),
            op.MatMul(x, few),
            op.Gemm(x, weights.T.copy(), bias, transB=1, alpha=0.5),
            op.MatMul(x, y),
        ]

    return Case(build, (normal(rng, 19, 37), normal(rng, 37, 21)), tolerance=1e-5)


def _products_of_any_rows(rng: np.random.Generator) -> Case:
    weights, more = normal(rng, 33, 40), normal(rng, 33, 3)
    build: Build = lambda op, x: [op.Add(op.MatMul(x, weights), np.float32(1)), op.MatMul(x, more)]  # noqa: E731
    return Case(build, (normal(rng, 2, 7, 33),), [("batch", "rows", 33)], 1e-5)


def _epilogues(rng: np.random.Generator) -> Case:
    """Everything that a product computes in registers."""
    weights, slope, row = normal(rng, 15, 37) / 4, normal(rng, 37), normal(rng, 37)

    def build(op: Builder, x: Value, y: Value) -> list[Value]:
        products = [op.MatMul(op.Mul(x, np.float32(1 + index)), weights) for index in range(6)]
        return [
            op.Tanh(op.Gelu(op.Add(products[0], y))),
            op.Sigmoid(op.Gelu(op.Mul(products[1], row), approximate="tanh")),
            op.Exp(op.Neg(op.Erf(op.Sub(products[2], row)))),
            op.Mul(op.HardSigmoid(products[3]), op.LeakyRelu(op.HardSwish(products[3]), alpha=0.2)),
            op.Elu(op.PRelu(op.Clip(products[4], np.float32(-1), np.float32(2)), slope)),
            op.Div(op.Relu(products[5]), op.Add(op.Exp(y), np.float32(1))),
        ]

    return Case(build, (normal(rng, 9, 15), normal(rng, 9, 37)))


def _integer_products(rng: np.random.Generator) -> Case:
    """Products by weights that are small, so that pairs fit into 16 bits, and by others."""

    def build(op: Builder, x: Value) -> list[Value]:
        results: list[Value] = []
        for most, depth, columns in ((63, 40, 50), (127, 100, 24), (127, 32, 16)):
            weights = np.random.default_rng(most).integers(-most, most + 1, (depth, columns)).astype(np.int8)
            part = op.Slice(x, [0], [depth], [1])
            scaled = op.DequantizeLinear(weights, np.full(columns, 0.25, np.float32), axis=1)
            known = op.MatMul(fake(op, part), scaled)
            integers, _, zero_point = op.DynamicQuantizeLinear(part, outputs=3)
            sums = op.MatMulInteger(integers, weights, zero_point)
            results += [known, op.QuantizeLinear(op.Relu(known), np.float32(4), np.uint8(7)), sums]
        return results

    return Case(build, ((rng.integers(-300, 300, (19, 100)) / 16).astype(np.float32),))


def _integer_products_by_row(rng: np.random.Generator) -> Case:
    """Each row on a grid of its own, and an activation that is quantized again."""
    first, second = (
        rng.integers(-most, most + 1, shape).astype(np.int8) for most, shape in ((127, (36, 40)), (60, (40, 20)))
    )

    def product(op: Builder, x: Value, weights: np.ndarray) -> Value:
        integers, scale, zero_point = op("planish::DynamicQuantizeRows", x, outputs=3)
        sums = op.Cast(op.MatMulInteger(integers, weights, zero_point), to=DType.float32)
        return op.Mul(sums, op.Mul(scale, np.full(weights.shape[1], 2**-9, np.float32)))

    def build(op: Builder, x: Value) -> list[Value]:
        hidden = product(op, x, first)
        return [hidden, product(op, op.Gelu(product(op, x, first)), second)]

    return Case(build, (normal(rng, 9, 36),), [("rows", 36)], 2e-2)


def _products_of_bfloat16(rng: np.random.Generator) -> Case:
    """Numbers whose products and sums are exact; then activations that are rounded at once."""
    first, second = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((21, 33), (33, 24)))

    def build(op: Builder, x: Value) -> list[Value]:
        hidden = op.MatMul(rounded(op, x), rounded(op, first))
        small = op.Mul(hidden, np.float32(1 / 32))
        between = rounded(op, op.Relu(op.MatMul(rounded(op, x), rounded(op, first))))
        return [
            op.MatMul(between, rounded(op, second)),
            rounded(op, op.Gelu(op.MatMul(op.Mul(x, EIGHTH), first / 4))),
            rounded(op, op.Gelu(op.MatMul(op.Mul(x, EIGHTH), first / 8), approximate="tanh")),
            rounded(op, op.Sigmoid(small)),
        ]

    return Case(build, (rng.integers(-9, 9, (9, 21)).astype(np.float32),), [("rows", 21)], 1e-3)


def _nibbles(rng: np.random.Generator) -> Case:
    def build(op: Builder, x: Value, y: Value) -> list[Value]:
        results: list[Value] = []
        for value, columns, block in ((x, 50, 16), (y, 50, 32), (y, 5, 32)):
            own = np.random.default_rng(columns)
            codes, zero_points = (own.integers(0, 16, (depth, columns)).astype(np.uint8) for depth in (96, 96 // block))
            weight = BlockWeight(codes, normal(own, 96 // block, columns) / 64, zero_points, BlockScheme(4, block))
            sizes = {"K": 96, "N": columns, "block_size": block}
            product = op("com.microsoft::MatMulNBits", value, *weight.inputs, bits=4, **sizes)
            results.append(op.Gelu(product))
        return results

    return Case(build, (normal(rng, 3, 96), normal(rng, 21, 96)))


def _attention(precision: Callable[[Builder, Any], Any], tolerance: float) -> Callable[[np.random.Generator], Case]:
    def make(rng: np.random.Generator) -> Case:
        def build(op: Builder, q: Value, k: Value, v: Value, few: Value, mask: Value) -> list[Value]:
            q, k, v, few = (precision(op, factor) for factor in (q, k, v, few))
            heads = {"q_num_heads": 2, "kv_num_heads": 2}
            return [
                precision(op, op.Attention(q, k, v, **heads)),
                op.Attention(q, k, v, mask, **heads),
                op.Attention(few, k, v, is_causal=1, **heads),
            ]

        shapes = (2, 20, 40), (2, 19, 40), (2, 19, 40), (2, 5, 40)
        arrays = [normal(rng, *shape) for shape in shapes]
        return Case(build, (*arrays, rng.random((20, 19)) > 0.3), tolerance=tolerance)

    return make


CASES: Mapping[str, Callable[[np.random.Generator], Case]] = {
    "products": _products,
    "products of any rows": _products_of_any_rows,
    "products of bfloat16": _products_of_bfloat16,
    "epilogues": _epilogues,
    "integer products": _integer_products,
    "integer products by row": _integer_products_by_row,
    "products by 4 bits": _nibbles,
    "attention": _attention(plain, 1e-5),
    "attention in bfloat16": _attention(rounded, 1e-2),
}
