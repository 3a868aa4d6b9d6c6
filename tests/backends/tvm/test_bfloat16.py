"""Products of numbers rounded to bfloat16: exact but for the order of sums and for what attention rounds in between."""

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm import tirx

from planish.backends.tvm.relax.lowering import to_relax
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Value
from planish.ir.types import DType
from planish.passes.legalization.origins import Origins
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-avx512-bf16")


@pytest.fixture(params=["native", "x86-64"])
def target(request):
    """A target with products of bfloat16, where this machine has them, and one without."""
    return load_target(request.param)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def rounded(op: Builder, value: Value | np.ndarray) -> Value:
    if isinstance(value, np.ndarray):
        return op.Cast(op.constant(value.astype(DType.bfloat16.numpy)), to=DType.float32)
    return op.Cast(op.Cast(value, to=DType.bfloat16), to=DType.float32)


def kernels_of(graph: Graph) -> dict[str, Sequence[str]]:
    """The element types that each kernel takes and gives, by its name."""
    functions = to_relax(graph, Origins.of(graph), TARGET).module.functions_items()
    return {
        name.name_hint: [str(param.dtype) for param in function.params]
        for name, function in functions
        if isinstance(function, tirx.PrimFunc)
    }


@pytest.mark.parametrize(("depth", "columns"), [(1, 16), (7, 17), (33, 20), (64, 50), (96, 100), (40, 5)])
def test_weights_of_any_size(agree, depth: int, columns: int) -> None:
    """Depths that leave one element without its pair; columns that fill no tile, or no vector."""
    weights = normal(depth, columns)
    rows = [[normal(1, count, depth)] for count in (1, 2, 7, 8, 9, 0)]
    build = lambda op, x: op.MatMul(rounded(op, x), rounded(op, weights))  # noqa: E731
    agree(build, normal(3, 5, depth), dims=[("batch", "rows", depth)], again=rows)


def test_gemm_with_turned_and_scaled_weights(agree) -> None:
    weights, bias = normal(30, 40), normal(30)

    def build(op, x):
        factors = rounded(op, x), rounded(op, weights)
        turned = op.Transpose(rounded(op, weights), perm=(1, 0))
        return [
            op.Gemm(*factors, bias, transB=1),
            op.Gemm(*factors, transB=1, alpha=0.3),
            op.MatMul(factors[0], turned),
        ]

    agree(build, normal(9, 40), dims=[("rows", 40)])


def test_what_is_no_number_stays_in_its_row(agree) -> None:
    weights, x = normal(15, 20), normal(9, 15)
    x[2, 3], x[4, 14], x[8, 0] = np.nan, np.inf, -np.inf
    agree(lambda op, x: op.MatMul(rounded(op, x), rounded(op, weights)), x)


@pytest.mark.parametrize("columns", [1, 7, 16, 50])
def test_rounding(agree, columns: int) -> None:
    """Numbers go to the nearest, half-way ones to the even, those beyond the largest to infinity; NaN stays NaN."""
    x = RNG.integers(0, 1 << 32, (3, 7, columns), np.uint32)
    x[0] = x[0] & 0xFFFF0000 | 0x8000
    x[np.abs(x.view(np.float32)) < 1e-37] = 0
    numbers = x.view(np.float32)
    build = lambda op, x: op.Cast(op.Cast(x, to=DType.bfloat16), to=DType.float32)  # noqa: E731
    agree(build, numbers, dims=[("batch", "rows", columns)], again=[[numbers[:0]]])
    agree(build, np.array([np.nan, -np.nan, np.inf, -np.inf, 3.4e38, -3.39e38, -0.0], np.float32))


def test_what_follows_is_rounded_where_all_that_read_it_ask_for_that(agree) -> None:
    """Numbers whose products and sums are exact, so that they are rounded alike."""
    first, second = (RNG.integers(-4, 5, shape).astype(np.float32) for shape in ((20, 33), (33, 24)))
    bias = RNG.integers(-9, 9, 33).astype(np.float32)

    def build(op, x):
        hidden = op.Relu(op.Add(op.MatMul(rounded(op, x), rounded(op, first)), bias))
        return op.MatMul(rounded(op, hidden), rounded(op, second))

    agree(build, RNG.integers(-9, 9, (9, 20)).astype(np.float32), dims=[("rows", 20)], tolerance=0)


@pytest.mark.parametrize("name", ["gelu", "gelu by tanh", "silu"])
def test_activations_that_are_rounded_at_once(agree, name: str) -> None:
    """The functions are no more exact than the rounding: near 0, where they saturate, and far beyond."""
    activations = {
        "gelu": lambda op, x: op.Gelu(x),
        "gelu by tanh": lambda op, x: op.Gelu(x, approximate="tanh"),
        "silu": lambda op, x: op.Mul(x, op.Sigmoid(x)),
    }
    numbers = np.concatenate([np.linspace(-12, 12, 999), np.logspace(-9, 2, 50), [np.nan]]).astype(np.float32)
    row = np.ones((1, 17), np.float32)
    agree(lambda op, x: rounded(op, activations[name](op, op.MatMul(x, row))), numbers[:, None], tolerance=1e-3)


def test_products_stay_in_bfloat16_from_one_to_the_next(make_graph) -> None:
    scale, weights, more = normal(24), normal(24, 40), normal(40, 24)

    def build(op, x):
        hidden = op.MatMul(rounded(op, op.LayerNormalization(x, scale)), rounded(op, weights))
        return op.Add(op.MatMul(rounded(op, op.Gelu(hidden)), rounded(op, more)), x)

    narrow, wide, pairs = "bfloat16", "float32", "uint16"
    assert kernels_of(make_graph(build, "rows", 24)) == {
        "layer_norm": [wide, wide, narrow],
        "gemm": [narrow, pairs, narrow],
        "gemm1": [narrow, pairs, wide, wide],
    }


def test_what_others_read_in_float32_is_rounded_beside_it(make_graph) -> None:
    scale, weights = normal(24), normal(24, 24)

    def build(op, x):
        x = op.LayerNormalization(x, scale)
        return op.Add(op.MatMul(rounded(op, x), rounded(op, weights)), x)

    kernels = kernels_of(make_graph(build, "rows", 24))
    assert kernels["layer_norm"][-1] == "float32"
    assert kernels["round"] == ["float32", "bfloat16"]


@pytest.mark.parametrize("is_causal", [0, 1])
@pytest.mark.parametrize("size", [6, 32, 40])
def test_attention_of_sequences_of_any_length(agree, size: int, is_causal: int) -> None:
    """Odd numbers of keys, too, and values that fill no vector."""

    def build(op, *factors):
        factors = [rounded(op, factor) for factor in factors]
        found = op.Attention(*factors, q_num_heads=2, kv_num_heads=2, is_causal=is_causal)
        return [found, op.Relu(rounded(op, op.Attention(*factors, q_num_heads=2, kv_num_heads=1 * 2)))]

    def arrays(batch: int, queries: int, keys: int) -> list[np.ndarray]:
        return [normal(batch, length, 2 * size) for length in (queries, keys, keys)]

    dims = [("batch", length, 2 * size) for length in ("queries", "keys", "keys")]
    again = [arrays(1, 33, 16), arrays(3, 1, 1), arrays(1, 8, 7), arrays(1, 17, 17)]
    agree(build, *arrays(2, 5, 20), dims=dims, again=again, tolerance=1e-2)


@pytest.mark.parametrize("is_causal", [0, 1])
def test_attention_with_masks_and_heads_that_share_keys(agree, is_causal: int) -> None:
    seen = RNG.random((9, 17)) > 0.4
    seen[-1] = False
    arrays = normal(2, 4, 9, 8), normal(2, 2, 17, 8), normal(2, 2, 17, 16)

    def build(op, q, k, v, mask):
        return op.Attention(*(rounded(op, factor) for factor in (q, k, v)), mask, is_causal=is_causal)

    agree(build, *arrays, seen, tolerance=1e-2)


def test_attention_takes_and_gives_bfloat16(make_graph) -> None:
    def build(op, x):
        factors = [rounded(op, op.Mul(x, scale)) for scale in (1.0, 2.0, 3.0)]
        return op.Cast(op.Attention(*factors, q_num_heads=2, kv_num_heads=2), to=DType.bfloat16)

    assert kernels_of(make_graph(build, 1, "rows", 32))["attention"] == ["bfloat16"] * 4


CONVOLUTIONS = {
    "point": ((2, 32, 7, 5), (48, 32, 1, 1), {}),
    "strided": ((1, 48, 19, 23), (40, 48, 5, 3), {"strides": (2, 2), "pads": (2, 1, 2, 1)}),
    "winograd": ((1, 64, 17, 14), (64, 64, 3, 3), {"pads": (1, 1, 1, 1)}),
    "pairs-beyond-a-block": ((2, 22, 9, 11), (21, 22, 3, 2), {"strides": (2, 1), "pads": (1, 3, 0, 2)}),
    "odd-channels": ((1, 19, 9, 11), (21, 19, 3, 2), {"dilations": (2, 3)}),
    "few-channels": ((1, 3, 9, 11), (21, 3, 3, 2), {"pads": (1, 1, 1, 1)}),
    "groups": ((1, 72, 6, 6), (72, 24, 3, 3), {"group": 3, "pads": (1, 1, 1, 1)}),
    "depthwise": ((2, 37, 9, 19), (37, 1, 3, 5), {"group": 37, "strides": (1, 2), "pads": (1, 2, 0, 3)}),
    "one-axis": ((2, 20, 31), (18, 20, 5), {"strides": (3,), "pads": (2, 2)}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(agree, case: str) -> None:
    """The second one reads what the first one has stored."""
    shape, filters, attributes = CONVOLUTIONS[case]
    weights, bias = normal(*filters) / filters[1], normal(filters[0])
    more = normal(24, filters[0], *[1] * (len(shape) - 2)) / 64  # so that what is rounded to another side counts little

    def build(op, x):
        y = op.Relu(op.Conv(rounded(op, x), rounded(op, weights), bias, **attributes))
        return [y, op.Conv(rounded(op, y), rounded(op, more))]

    agree(build, normal(*shape), dims=[("n", *shape[1:])], tolerance=2e-3)
    agree(build, normal(*shape), dims=[(*shape[:2], *"hw"[4 - len(shape) :])], tolerance=2e-3)


def test_images_in_bfloat16_are_read_and_written_by_all_kinds_of_kernels(agree) -> None:
    weights, square, tall = normal(24, 20, 1, 1), normal(24, 24, 1, 1), normal(24, 24, 2, 2) / 8

    def build(op, x):
        y = rounded(op, op.Conv(x, weights))
        pooled = rounded(op, op.MaxPool(y, kernel_shape=(3, 3), pads=(1, 1, 1, 1)))
        means = rounded(op, op.AveragePool(op.Conv(pooled, rounded(op, square)), kernel_shape=(2, 2), strides=(2, 2)))
        gate = rounded(op, op.GlobalAveragePool(y))
        gated = rounded(op, op.Mul(y, op.Sigmoid(op.Conv(gate, rounded(op, square)))))
        turned = rounded(op, op.ConvTranspose(gated, tall, strides=(2, 2)))
        beside = rounded(op, op.Add(op.Conv(pooled, rounded(op, square)), y))
        joined = rounded(op, op.Concat(op.Relu(pooled), beside, axis=1))
        return [means, turned, joined, op.Transpose(gated, perm=(0, 2, 3, 1)), op.Add(y, np.float32(1))]

    agree(build, normal(2, 20, 6, 10), dims=[("n", 20, 6, 10)], tolerance=1e-2)
    agree(build, normal(2, 20, 6, 10), dims=[(2, 20, "h", "w")], again=[[normal(2, 20, 8, 24)]], tolerance=1e-2)


def test_images_stay_in_bfloat16_between_convolutions(make_graph) -> None:
    weights = [normal(32, 32, 1, 1) for _ in range(3)]

    def build(op, x):
        x = rounded(op, x)
        y = rounded(op, op.Relu(op.Conv(x, rounded(op, weights[0]))))
        z = rounded(op, op.Relu(op.Add(op.Conv(y, rounded(op, weights[1])), x)))
        return op.Conv(z, rounded(op, weights[2]))

    narrow, wide, bits = "bfloat16", "float32", "uint16"
    kernels = kernels_of(make_graph(build, 1, 32, 8, 8))
    assert kernels["conv"] == [narrow, bits, wide, narrow]
    assert kernels["conv1"] == [narrow, bits, wide, narrow, narrow]
    assert kernels["conv2"] == [narrow, bits, wide, wide]
