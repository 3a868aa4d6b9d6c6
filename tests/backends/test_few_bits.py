"""Products by weights in 2, 4 and 8 bits: every form that a file may hold, in each backend, against numpy."""

from itertools import product

import numpy as np
import pytest

import planish
from planish.ir.block_weight import BlockScheme, BlockWeight
from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType

COLUMNS, ROWS = 33, 5
BLOCKS = (16, 32, 48, 64, 128, 256, 512)
ZERO_POINTS = ("none", "uint8", "float32")
LEVELS = (0, 4)
"""Levels of accuracy: with 4, ONNX Runtime may put activations on grids of 8 bits."""


def weight_of(bits: int, block: int, zero_points: str, depth: int, random: np.random.Generator) -> BlockWeight:
    shape = (-(-depth // block), COLUMNS)
    zeros = {
        "none": np.full(shape, 2 ** (bits - 1), np.uint8),
        "uint8": random.integers(0, 2**bits, shape, np.uint8),
        "float32": random.uniform(0, 2**bits - 1, shape).astype(np.float32),
    }[zero_points]
    codes = random.integers(0, 2**bits, (depth, COLUMNS), np.uint8)
    scales = random.uniform(0.01, 0.02, shape).astype(np.float32)
    return BlockWeight(codes, scales, zeros, BlockScheme(bits, block, zero_points == "none"))


def stored(weight: BlockWeight) -> tuple[np.ndarray, ...]:
    """The inputs of a node, in blocks as they are: a file may hold what the quantizer would store otherwise."""
    bits, block = weight.scheme.bits, weight.scheme.block
    places = np.arange(0, 8, bits, dtype=np.uint8)

    def packed(codes: np.ndarray, columns: int) -> np.ndarray:
        codes = np.pad(codes.T, ((0, 0), (0, -len(codes) % columns)))
        return np.bitwise_or.reduce(codes.reshape(COLUMNS, -1, 8 // bits) << places, axis=-1, dtype=np.uint8)

    octets = packed(weight.codes, block).reshape(COLUMNS, len(weight.scales), -1)
    if weight.scheme.symmetric:
        return octets, weight.scales.T
    is_float = weight.zero_points.dtype == np.float32
    return octets, weight.scales.T, weight.zero_points.T if is_float else packed(weight.zero_points, 8 // bits)


def forms(bits: int) -> tuple[Graph, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """All forms of weights of some bits in one graph, with inputs, and what numpy makes of these."""
    random, graph, wanted = np.random.default_rng(bits), Graph(), dict[str, np.ndarray]()
    op, feeds = Builder(graph), dict[str, np.ndarray]()
    for depth in (128, 200, 576):
        x = graph.add_input(f"x{depth}", TensorType(DType.float32, (ROWS, depth)))
        feeds[x.name] = random.standard_normal((ROWS, depth), np.float32)
        for block, zero_points, level in product(BLOCKS, ZERO_POINTS, LEVELS):
            weight = weight_of(bits, block, zero_points, depth, random)
            inputs = [*map(np.ascontiguousarray, stored(weight)), None][:3]
            sizes = {"K": depth, "N": COLUMNS, "bits": bits, "block_size": block, "accuracy_level": level}
            bias = random.standard_normal(COLUMNS, np.float32) if level else None
            name = f"{zero_points}, {depth} in blocks of {block}, level {level}"
            graph.outputs[name] = op("com.microsoft::MatMulNBits", x, *inputs, None, bias, **sizes)
            wanted[name] = feeds[x.name].astype(np.float64) @ weight.floats + (0 if bias is None else bias)
    return graph, feeds, wanted


@pytest.mark.parametrize("bits", [pytest.param(2, marks=pytest.mark.wide), 4, 8])
@pytest.mark.parametrize("backend", ["interpreter", "onnxruntime", pytest.param("tvm", marks=pytest.mark.wide)])
def test_every_form_is_multiplied_rightly(bits: int, backend: str) -> None:
    if backend == "tvm":
        pytest.importorskip("tvm")
    graph, feeds, wanted = forms(bits)
    if backend == "interpreter":
        found = Interpreter(graph).run(feeds)
    else:
        found = dict(zip(wanted, planish.compile(graph, backend=backend, target="native").run(feeds), strict=True))
    for name, exact in wanted.items():
        limit = 0.03 if backend == "onnxruntime" and name.endswith("4") else 2e-6
        assert np.linalg.norm(found[name] - exact) <= limit * np.linalg.norm(exact), name
