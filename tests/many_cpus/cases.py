"""Small graphs that ask for every kernel, in all element types, of sizes that fill no vector.

Numbers are such that results don't depend on the order of sums by more than a case's tolerance, and that bytes are exact.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location, Value
from planish.ir.types import DType, TensorType
from planish.passes.quantization.nibbles import BlockWeight

Build: TypeAlias = Callable[..., Sequence[Value]]
Dims: TypeAlias = Sequence[Sequence[int | str]]

EIGHTH = np.float32(0.125)


@dataclass(frozen=True, slots=True)
class Case:
    """A graph and what it is fed.

    Attributes:
        build: from a builder and the inputs to what it gives.
        arrays: the inputs.
        dims: of the inputs, where some are symbolic.
        tolerance: of floats, and ten times that of large ones.
        steps: by which integers may differ.
    """

    build: Build
    arrays: tuple[np.ndarray, ...]
    dims: Dims | None = None
    tolerance: float = 1e-4
    steps: int = 0

    def graph(self) -> Graph:
        graph = Graph("test")
        shapes = self.dims or [array.shape for array in self.arrays]
        types = [TensorType(DType.of(array.dtype), tuple(shape)) for array, shape in zip(self.arrays, shapes, strict=True)]
        inputs = [graph.add_input(f"x{index}", type) for index, type in enumerate(types)]
        made = self.build(Builder(graph, location=Location("layer")), *inputs)
        graph.outputs = {f"y{index}": value for index, value in enumerate(made)}
        return graph

    def differences(self, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> list[str]:
        """What is wrong with results, in words."""
        return [fault for name, wanted in expected.items() if (fault := self._difference(wanted, found[name], name))]

    def _difference(self, expected: np.ndarray, found: np.ndarray, name: str) -> str:
        if (found.dtype, found.shape) != (expected.dtype, expected.shape):
            return f"{name}: {found.dtype}{found.shape} instead of {expected.dtype}{expected.shape}"
        is_float = expected.dtype.kind == "f"
        relative, absolute = (10 * self.tolerance, self.tolerance) if is_float else (0.0, float(self.steps))
        wide, wanted = found.astype(np.float64), expected.astype(np.float64)
        wrong = ~np.isclose(wide, wanted, relative, absolute, equal_nan=True)
        if not wrong.any():
            return ""
        return f"{name}: {wrong.sum()} of {wrong.size} numbers are off, the worst by {np.abs(wide - wanted)[wrong].max():.3g}"

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        return {f"x{index}": array for index, array in enumerate(self.arrays)}


@cache
def cases() -> Mapping[str, Case]:
    """All of them, by name; the same numbers each time."""
    rng = np.random.default_rng(0)
    return {name: make(rng) for name, make in _CASES.items()}


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _halves(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Multiples of half a scale, of which those beyond the grid's ends saturate."""
    return (rng.integers(-400, 400, shape) / 16).astype(np.float32)


def _octets(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape).astype(np.uint8)


def _fake(op: Builder, x: Any, zero_point: Any = np.uint8(100), scale: Any = EIGHTH) -> Value:
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)


def _rounded(op: Builder, value: Any) -> Value:
    """To bfloat16 and back, as `reduce-precision` says it."""
    if isinstance(value, np.ndarray):
        return op.Cast(op.constant(value.astype(DType.bfloat16.numpy)), to=DType.float32)
    return op.Cast(op.Cast(value, to=DType.bfloat16), to=DType.float32)


def _plain(op: Builder, value: Any) -> Any:
    return value


# -- products


def _products(rng: np.random.Generator) -> Case:
    weights, few, bias = _normal(rng, 37, 50), _normal(rng, 37, 5), _normal(rng, 50)

    def build(op: Builder, x: Value, y: Value) -> list[Value]:
        return [
            op.Relu(op.MatMul(x, weights)),
            op.MatMul(x, few),
            op.Gemm(x, weights.T.copy(), bias, transB=1, alpha=0.5),
            op.MatMul(x, y),
        ]

    return Case(build, (_normal(rng, 19, 37), _normal(rng, 37, 21)), tolerance=1e-5)


def _products_of_any_rows(rng: np.random.Generator) -> Case:
    weights, more = _normal(rng, 33, 40), _normal(rng, 33, 3)
    build: Build = lambda op, x: [op.Add(op.MatMul(x, weights), np.float32(1)), op.MatMul(x, more)]  # noqa: E731
    return Case(build, (_normal(rng, 2, 7, 33),), [("batch", "rows", 33)], 1e-5)


def _epilogues(rng: np.random.Generator) -> Case:
    """Everything that a product computes in registers."""
    weights, slope, row = _normal(rng, 15, 37) / 4, _normal(rng, 37), _normal(rng, 37)

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

    return Case(build, (_normal(rng, 9, 15), _normal(rng, 9, 37)))


def _integer_products(rng: np.random.Generator) -> Case:
    """By weights that are small, so that pairs of products fit into 16 bits, and by others."""

    def build(op: Builder, x: Value) -> list[Value]:
        results: list[Value] = []
        for most, depth, columns in ((63, 40, 50), (127, 100, 24), (127, 32, 16)):
            weights = np.random.default_rng(most).integers(-most, most + 1, (depth, columns)).astype(np.int8)
            part = op.Slice(x, [0], [depth], [1])
            scaled = op.DequantizeLinear(weights, np.full(columns, 0.25, np.float32), axis=1)
            known = op.MatMul(_fake(op, part), scaled)
            integers, _, zero_point = op.DynamicQuantizeLinear(part, outputs=3)
            sums = op.MatMulInteger(integers, weights, zero_point)
            results += [known, op.QuantizeLinear(op.Relu(known), np.float32(4), np.uint8(7)), sums]
        return results

    return Case(build, ((rng.integers(-300, 300, (19, 100)) / 16).astype(np.float32),))


def _integer_products_by_row(rng: np.random.Generator) -> Case:
    """Each row on a grid of its own, and an activation that is quantized again."""
    first, second = (rng.integers(-most, most + 1, shape).astype(np.int8) for most, shape in ((127, (36, 40)), (60, (40, 20))))

    def product(op: Builder, x: Value, weights: np.ndarray) -> Value:
        integers, scale, zero_point = op("planish::DynamicQuantizeRows", x, outputs=3)
        sums = op.Cast(op.MatMulInteger(integers, weights, zero_point), to=DType.float32)
        return op.Mul(sums, op.Mul(scale, np.full(weights.shape[1], 2**-9, np.float32)))

    def build(op: Builder, x: Value) -> list[Value]:
        hidden = product(op, x, first)
        return [hidden, product(op, op.Gelu(product(op, x, first)), second)]

    return Case(build, (_normal(rng, 9, 36),), [("rows", 36)], 2e-2)


def _products_of_bfloat16(rng: np.random.Generator) -> Case:
    """Numbers whose products and sums are exact; then activations that are rounded at once."""
    first, second = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((21, 33), (33, 24)))

    def build(op: Builder, x: Value) -> list[Value]:
        hidden = op.MatMul(_rounded(op, x), _rounded(op, first))
        small = op.Mul(hidden, np.float32(1 / 32))
        return [
            op.MatMul(_rounded(op, op.Relu(hidden)), _rounded(op, second)),
            _rounded(op, op.Gelu(op.MatMul(op.Mul(x, EIGHTH), first / 4))),
            _rounded(op, op.Gelu(op.MatMul(op.Mul(x, EIGHTH), first / 8), approximate="tanh")),
            _rounded(op, op.Sigmoid(small)),
        ]

    return Case(build, (rng.integers(-9, 9, (9, 21)).astype(np.float32),), [("rows", 21)], 1e-3)


def _nibbles(rng: np.random.Generator) -> Case:
    def build(op: Builder, x: Value, y: Value) -> list[Value]:
        results: list[Value] = []
        for value, columns, block in ((x, 50, 16), (y, 50, 32), (y, 5, 32)):
            own = np.random.default_rng(columns)
            codes, zero_points = (own.integers(0, 16, (depth, columns)).astype(np.uint8) for depth in (96, 96 // block))
            weight = BlockWeight(codes, _normal(own, 96 // block, columns) / 64, zero_points)
            sizes = {"K": 96, "N": columns, "block_size": block}
            product = op("com.microsoft::MatMulNBits", value, *weight.inputs, bits=4, **sizes)
            results.append(op.Gelu(product))
        return results

    return Case(build, (_normal(rng, 3, 96), _normal(rng, 21, 96)))


def _attention(precision: Callable[[Builder, Any], Any], tolerance: float) -> Callable[[np.random.Generator], Case]:
    def make(rng: np.random.Generator) -> Case:
        def build(op: Builder, q: Value, k: Value, v: Value, few: Value, mask: Value) -> list[Value]:
            q, k, v, few = (precision(op, factor) for factor in (q, k, v, few))
            heads = {"q_num_heads": 2, "kv_num_heads": 2}
            return [
                op.Attention(q, k, v, **heads),
                op.Attention(q, k, v, mask, **heads),
                op.Attention(few, k, v, is_causal=1, **heads),
            ]

        shapes = (2, 20, 40), (2, 19, 40), (2, 19, 40), (2, 5, 40)
        arrays = [_normal(rng, *shape) for shape in shapes]
        return Case(build, (*arrays, rng.random((20, 19)) > 0.3), tolerance=tolerance)

    return make


# -- images


_WINOGRAD = "winograd"
"""Where it beats integers, images are dequantized, and what lies half-way between two may be rounded to either."""
CONVOLUTIONS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], Mapping[str, Any]]] = {
    "point": ((2, 32, 7, 5), (48, 32, 1, 1), {}),
    "first": ((1, 3, 19, 23), (20, 3, 5, 5), {"strides": (2, 2), "pads": (2, 2, 2, 2)}),
    "odd": ((1, 19, 9, 11), (21, 19, 3, 2), {"pads": (1, 3, 0, 2), "dilations": (1, 2)}),
    "grouped": ((1, 32, 6, 9), (32, 8, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER"}),
    "one axis": ((2, 20, 31), (18, 20, 5), {"strides": (3,), "pads": (2, 2)}),
    "depthwise": ((1, 37, 9, 19), (37, 1, 3, 5), {"group": 37, "strides": (1, 2), "pads": (1, 2, 0, 3)}),
    "depthwise square": ((1, 32, 14, 15), (32, 1, 3, 3), {"group": 32, "pads": (1, 1, 1, 1)}),
    _WINOGRAD: ((1, 64, 17, 14), (64, 64, 3, 3), {"pads": (1, 1, 1, 1)}),
}
"""Shapes of images and filters, and attributes."""


def _convolutions(
    names: Sequence[str], precision: Callable[[Builder, Any], Any], tolerance: float
) -> Callable[[np.random.Generator], Case]:
    chosen = [CONVOLUTIONS[name] for name in names]

    def make(rng: np.random.Generator) -> Case:
        weights = [_normal(rng, *filters) / np.float32(np.prod(filters[1:])) for _, filters, _ in chosen]
        biases = [_normal(rng, len(each)) for each in weights]

        def build(op: Builder, *images: Value) -> list[Value]:
            results: list[Value] = []
            for x, weight, bias, (_, _, attributes) in zip(images, weights, biases, chosen, strict=True):
                results.append(op.Relu(op.Conv(precision(op, x), precision(op, weight), bias, **attributes)))
            return results

        return Case(build, tuple(_normal(rng, *shape) for shape, _, _ in chosen), tolerance=tolerance)

    return make


def _integer_convolutions(names: Sequence[str], steps: int) -> Callable[[np.random.Generator], Case]:
    """Scales are powers of two, so that float32 holds all sums; every other convolution has small weights."""
    chosen = [CONVOLUTIONS[name] for name in names]

    def build(op: Builder, *images: Value) -> list[Value]:
        results: list[Value] = []
        for index, (x, (shape, filters, attributes)) in enumerate(zip(images, chosen, strict=True)):
            own = np.random.default_rng(shape[1])
            scales = (2.0 ** own.integers(-6, -3, filters[0])).astype(np.float32)
            most, zero_point = ((63, 77), (127, 0))[index % 2]
            weights = own.integers(-most, most + 1, filters).astype(np.int8)
            image = op.DequantizeLinear(x, EIGHTH, np.uint8(zero_point))
            y = op.Conv(image, op.DequantizeLinear(weights, scales, axis=0), **attributes)
            results.append(op.QuantizeLinear(op.Relu(y), np.float32(4), np.uint8(7)))
        return results

    return lambda rng: Case(build, tuple(_octets(rng, *shape) for shape, _, _ in chosen), steps=steps)


def _first_layers(rng: np.random.Generator) -> Case:
    """Images that are quantized while they become rows of bytes."""
    weights = rng.integers(-127, 128, (24, 3, 3, 5)).astype(np.int8)

    def build(op: Builder, x: Value) -> list[Value]:
        weight = op.DequantizeLinear(weights, np.full(24, 0.25, np.float32), axis=0)
        return [op.Conv(_fake(op, x), weight, strides=(2, 1), pads=(1, 2, 0, 3))]

    return Case(build, (_halves(rng, 2, 3, 6, 43),))


def _networks(precision: Callable[[Builder, Any], Any], tolerance: float) -> Callable[[np.random.Generator], Case]:
    """Images that are read and written by all kinds of kernels."""

    def make(rng: np.random.Generator) -> Case:
        point, square, tall, wide = (
            _normal(rng, filters, channels, 1, 1) / 4 for filters, channels in ((24, 20), (24, 24), (24, 24), (32, 24))
        )
        tall = np.repeat(np.repeat(tall, 2, 2), 2, 3)
        statistics = [_normal(rng, 24) for _ in range(3)]

        def build(op: Builder, x: Value) -> list[Value]:
            y = precision(op, op.Conv(x, point))
            pooled = precision(op, op.MaxPool(y, kernel_shape=(3, 3), pads=(1, 1, 1, 1)))
            deep = op.Conv(pooled, precision(op, square))
            means = precision(op, op.AveragePool(deep, kernel_shape=(2, 2), strides=(2, 2)))
            gate = precision(op, op.GlobalAveragePool(y))
            gated = precision(op, op.Mul(y, op.Sigmoid(op.Conv(gate, precision(op, square)))))
            turned = precision(op, op.ConvTranspose(gated, tall, strides=(2, 2)))
            normal = op.BatchNormalization(pooled, *statistics, np.ones(24, np.float32))
            joined = precision(op, op.Concat(op.Relu(pooled), op.Add(deep, y), normal, axis=1))
            whole = precision(op, op.Conv(pooled, precision(op, wide)))
            blocks = op.Concat(whole, op.Relu(precision(op, op.MaxPool(whole, kernel_shape=(1, 1)))), axis=1)
            plain = op.Transpose(gated, perm=(0, 2, 3, 1))
            return [means, turned, joined, blocks, plain, op.Add(y, np.float32(1))]

        return Case(build, (_normal(rng, 2, 20, 6, 10),), tolerance=tolerance)

    return make


def _pools_of_bytes(rng: np.random.Generator) -> Case:
    window = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}

    def build(op: Builder, x: Value, y: Value) -> list[Value]:
        results: list[Value] = []
        for given, zero_point in ((x, np.uint8(77)), (y, np.int8(-5))):
            image = op.DequantizeLinear(given, EIGHTH, zero_point)
            results += [
                op.AveragePool(image, **window),
                op.GlobalAveragePool(image),
                op.QuantizeLinear(op.MaxPool(image, **window), EIGHTH, zero_point),
            ]
        return results

    x = _octets(rng, 2, 2, 37, 9, 11)
    return Case(build, (x[0], x[1].view(np.int8)))


def _pixels_of_bytes(rng: np.random.Generator) -> Case:
    """Elementwise operators between bytes, and tables of what follows from one."""
    row = rng.random((21, 1, 1), np.float32)
    weights = rng.integers(-3, 4, (32, 21, 1, 1)).astype(np.int8)

    def build(op: Builder, x: Value, y: Value, gate: Value) -> list[Value]:
        a, b = op.DequantizeLinear(x, EIGHTH, np.uint8(7)), op.DequantizeLinear(y, EIGHTH, np.int8(-3))
        deep = _fake(op, op.Conv(a, op.DequantizeLinear(weights, np.full(32, 0.25, np.float32), axis=0)))
        return [
            op.QuantizeLinear(op.Relu(op.Add(a, b)), EIGHTH, np.uint8(0)),
            op.QuantizeLinear(op.Mul(a, row), EIGHTH, np.uint8(1)),
            op.QuantizeLinear(op.Mul(op.Sigmoid(gate), a), EIGHTH / 4, np.uint8(9)),
            op.QuantizeLinear(op.Mul(deep, op.HardSigmoid(deep)), EIGHTH, np.int8(3)),
            op.QuantizeLinear(op.HardSwish(a), EIGHTH, np.uint8(3)),
        ]

    x = _octets(rng, 2, 1, 21, 5, 9)
    return Case(build, (x[0], x[1].view(np.int8), rng.integers(-8, 9, (1, 21, 1, 1)).astype(np.float32)))


# -- what works along rows


def _rows(rng: np.random.Generator) -> Case:
    scale, bias = _normal(rng, 2, 50)

    def build(op: Builder, x: Value) -> list[Value]:
        return [
            op.Softmax(x),
            op.LayerNormalization(x, scale, bias, epsilon=1e-3),
            op.RMSNormalization(x, scale, epsilon=1e-3),
            _rounded(op, x),
        ]

    return Case(build, (4 + _normal(rng, 3, 5, 50),), [("batch", "rows", 50)], 1e-5)


def _norms_that_are_rounded(rng: np.random.Generator) -> Case:
    scale, weights = _normal(rng, 24), _normal(rng, 24, 40)

    def build(op: Builder, x: Value) -> list[Value]:
        return [op.MatMul(_rounded(op, norm), _rounded(op, weights)) for norm in (op.LayerNormalization(x, scale),)]

    return Case(build, (_normal(rng, 7, 24),), [("rows", 24)], 1e-1)


def _quantizers(rng: np.random.Generator) -> Case:
    def build(op: Builder, x: Value, y: Value) -> list[Value]:
        found = [op(name, x, outputs=3) for name in ("DynamicQuantizeLinear", "planish::DynamicQuantizeRows")]
        integers = op.QuantizeLinear(y, EIGHTH, np.uint8(131))
        return [*found[0], *found[1], integers, op.DequantizeLinear(integers, EIGHTH, np.uint8(131))]

    # multiples of the grid's step, 1/8: their range is that of 255 steps
    x = (rng.integers(-100, 156, (7, 50)) / 8).astype(np.float32)
    x[:, 0], x[:, 1] = -12.5, 19.375
    return Case(build, (x, _halves(rng, 3, 37)))


_CASES: Mapping[str, Callable[[np.random.Generator], Case]] = {
    "products": _products,
    "products of any rows": _products_of_any_rows,
    "products of bfloat16": _products_of_bfloat16,
    "epilogues": _epilogues,
    "integer products": _integer_products,
    "integer products by row": _integer_products_by_row,
    "products by 4 bits": _nibbles,
    "attention": _attention(_plain, 1e-5),
    "attention in bfloat16": _attention(_rounded, 1e-2),
    "convolutions": _convolutions(("point", "first", "odd", "grouped", "one axis", "depthwise", _WINOGRAD), _plain, 1e-5),
    "convolutions in bfloat16": _convolutions(("point", "odd", "depthwise", _WINOGRAD), _rounded, 2e-3),
    "integer convolutions": _integer_convolutions(
        ("point", "first", "odd", "grouped", "depthwise", "depthwise square"), 0
    ),
    "integer convolutions of large images": _integer_convolutions((_WINOGRAD,), 1),
    "first layers": _first_layers,
    "networks": _networks(_plain, 1e-4),
    "networks in bfloat16": _networks(_rounded, 2e-2),
    "pools of bytes": _pools_of_bytes,
    "pixels of bytes": _pixels_of_bytes,
    "rows": _rows,
    "norms that are rounded": _norms_that_are_rounded,
    "quantizers": _quantizers,
}
