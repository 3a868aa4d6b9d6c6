"""Convolutions, pools, and what lies between them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from planish.ir.builder import Builder
from planish.ir.graph import Value

from .case import EIGHTH, Case, fake, halves, normal, octets, plain, rounded

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
        weights = [normal(rng, *filters) / np.float32(np.prod(filters[1:])) for _, filters, _ in chosen]
        biases = [normal(rng, len(each)) for each in weights]

        def build(op: Builder, *images: Value) -> list[Value]:
            results: list[Value] = []
            for x, weight, bias, (_, _, attributes) in zip(images, weights, biases, chosen, strict=True):
                results.append(op.Relu(op.Conv(precision(op, x), precision(op, weight), bias, **attributes)))
            return results

        return Case(build, tuple(normal(rng, *shape) for shape, _, _ in chosen), tolerance=tolerance)

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

    return lambda rng: Case(build, tuple(octets(rng, *shape) for shape, _, _ in chosen), steps=steps)


def _first_layers(rng: np.random.Generator) -> Case:
    """Images that are quantized while they are put into blocks of four bytes."""
    weights = rng.integers(-127, 128, (24, 3, 3, 5)).astype(np.int8)

    def build(op: Builder, x: Value) -> list[Value]:
        weight = op.DequantizeLinear(weights, np.full(24, 0.25, np.float32), axis=0)
        return [op.Conv(fake(op, x), weight, strides=(2, 1), pads=(1, 2, 0, 3))]

    return Case(build, (halves(rng, 2, 3, 6, 43),))


def _networks(precision: Callable[[Builder, Any], Any], tolerance: float) -> Callable[[np.random.Generator], Case]:
    """Images that are read and written by all kinds of kernels."""

    def make(rng: np.random.Generator) -> Case:
        point, square, tall, wide, last = (
            normal(rng, filters, channels, 1, 1) / 4
            for filters, channels in ((24, 20), (24, 24), (24, 24), (32, 24), (16, 64))
        )
        tall = np.repeat(np.repeat(tall, 2, 2), 2, 3)
        statistics = [normal(rng, 24) for _ in range(3)]

        def build(op: Builder, x: Value) -> list[Value]:
            y = precision(op, op.Conv(x, point))
            pooled = precision(op, op.MaxPool(y, kernel_shape=(3, 3), pads=(1, 1, 1, 1)))
            deep = op.Conv(pooled, precision(op, square))
            means = precision(op, op.AveragePool(deep, kernel_shape=(2, 2), strides=(2, 2)))
            gate = precision(op, op.GlobalAveragePool(y))
            gated = precision(op, op.Mul(y, op.Sigmoid(op.Conv(gate, precision(op, square)))))
            turned = precision(op, op.ConvTranspose(gated, tall, strides=(2, 2)))
            normed = op.BatchNormalization(pooled, *statistics, np.ones(24, np.float32))
            joined = precision(op, op.Concat(op.Relu(pooled), op.Add(deep, y), normed, axis=1))
            whole = precision(op, op.Conv(pooled, precision(op, wide)))
            largest = precision(op, op.MaxPool(whole, kernel_shape=(3, 3), pads=(1, 1, 1, 1)))
            blocks = op.Conv(op.Concat(whole, largest, axis=1), precision(op, last))
            plain = op.Transpose(gated, perm=(0, 2, 3, 1))
            return [means, turned, joined, blocks, plain, op.Add(y, np.float32(1))]

        return Case(build, (normal(rng, 2, 20, 6, 10),), tolerance=tolerance)

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

    x = octets(rng, 2, 2, 37, 9, 11)
    return Case(build, (x[0], x[1].view(np.int8)))


def _pixels_of_bytes(rng: np.random.Generator) -> Case:
    """Elementwise operators between bytes, and tables of what follows from one."""
    row = rng.random((21, 1, 1), np.float32)
    weights = rng.integers(-3, 4, (32, 21, 1, 1)).astype(np.int8)
    windows = [{"kernel_shape": (size, size), "pads": (size // 2,) * 4} for size in (3, 5)]

    def build(op: Builder, x: Value, y: Value, gate: Value) -> list[Value]:
        a, b = op.DequantizeLinear(x, EIGHTH, np.uint8(7)), op.DequantizeLinear(y, EIGHTH, np.int8(-3))
        deep = fake(op, op.Conv(a, op.DequantizeLinear(weights, np.full(32, 0.25, np.float32), axis=0)))
        return [
            op.QuantizeLinear(op.Relu(op.Add(a, b)), EIGHTH, np.uint8(0)),
            op.QuantizeLinear(op.Mul(a, row), EIGHTH, np.uint8(1)),
            op.QuantizeLinear(op.Mul(op.Sigmoid(gate), a), EIGHTH / 4, np.uint8(9)),
            op.QuantizeLinear(op.Mul(deep, op.HardSigmoid(deep)), EIGHTH, np.int8(3)),
            op.QuantizeLinear(op.HardSwish(a), EIGHTH, np.uint8(3)),
            op.Concat(
                *(op.QuantizeLinear(op.MaxPool(deep, **window), EIGHTH, np.uint8(100)) for window in windows), axis=1
            ),
        ]

    x = octets(rng, 2, 1, 21, 5, 9)
    return Case(build, (x[0], x[1].view(np.int8), rng.integers(-8, 9, (1, 21, 1, 1)).astype(np.float32)))


CASES: Mapping[str, Callable[[np.random.Generator], Case]] = {
    "convolutions": _convolutions(
        ("point", "first", "odd", "grouped", "one axis", "depthwise", _WINOGRAD), plain, 1e-5
    ),
    "convolutions in bfloat16": _convolutions(("point", "odd", "depthwise", _WINOGRAD), rounded, 2e-3),
    "integer convolutions": _integer_convolutions(
        ("point", "first", "odd", "grouped", "depthwise", "depthwise square"), 0
    ),
    "integer convolutions of large images": _integer_convolutions((_WINOGRAD,), 1),
    "first layers": _first_layers,
    "networks": _networks(plain, 1e-4),
    "networks in bfloat16": _networks(rounded, 2e-2),
    "pools of bytes": _pools_of_bytes,
    "pixels of bytes": _pixels_of_bytes,
}
