"""What works along rows."""

from collections.abc import Callable, Mapping

import numpy as np

from planish.ir.builder import Builder
from planish.ir.graph import Value

from .case import EIGHTH, Case, halves, normal, rounded


def _rows(rng: np.random.Generator) -> Case:
    scale, bias = normal(rng, 2, 50)

    def build(op: Builder, x: Value) -> list[Value]:
        return [
            op.Softmax(x),
            op.LayerNormalization(x, scale, bias, epsilon=1e-3),
            op.RMSNormalization(x, scale, epsilon=1e-3),
            rounded(op, x),
        ]

    return Case(build, (4 + normal(rng, 3, 5, 50),), [("batch", "rows", 50)], 1e-5)


def _norms_that_are_rounded(rng: np.random.Generator) -> Case:
    scale, weights = normal(rng, 24), normal(rng, 24, 40)

    def build(op: Builder, x: Value) -> list[Value]:
        norms = [op.LayerNormalization(x, scale), op.RMSNormalization(x, scale)]
        return [op.MatMul(rounded(op, norm), rounded(op, weights)) for norm in norms]

    return Case(build, (normal(rng, 7, 24),), [("rows", 24)], 1e-1)


def _quantizers(rng: np.random.Generator) -> Case:
    def build(op: Builder, x: Value, y: Value) -> list[Value]:
        found = [op(name, x, outputs=3) for name in ("DynamicQuantizeLinear", "planish::DynamicQuantizeRows")]
        integers = op.QuantizeLinear(y, EIGHTH, np.uint8(131))
        return [*found[0], *found[1], integers, op.DequantizeLinear(integers, EIGHTH, np.uint8(131))]

    # multiples of the grid's step, 1/8: their range is that of 255 steps
    x = (rng.integers(-100, 156, (7, 50)) / 8).astype(np.float32)
    x[:, 0], x[:, 1] = -12.5, 19.375
    return Case(build, (x, halves(rng, 3, 37)))


def _recurrent_layers(rng: np.random.Generator) -> Case:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}
    arrays = {name: [normal(rng, 1, count * 21, depth) / 4 for depth in (13, 21)] for name, count in gates.items()}

    def build(op: Builder, x: Value) -> list[Value]:
        return [op(name, x, *pair, outputs=2, hidden_size=21)[0] for name, pair in arrays.items()]

    return Case(build, (normal(rng, 5, 3, 13),), [("steps", "rows", 13)], 1e-5)


CASES: Mapping[str, Callable[[np.random.Generator], Case]] = {
    "rows": _rows,
    "norms that are rounded": _norms_that_are_rounded,
    "quantizers": _quantizers,
    "recurrent layers": _recurrent_layers,
}
