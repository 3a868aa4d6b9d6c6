"""Factorization: ranks, the layers it splits and those it leaves, and what calibration data is good for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from planish.ir.analysis.cost import summarize
from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.ir.graph import Graph, Location, Value
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import is_subnormal
from planish.ir.text import parse_graph, print_graph
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import Feeds, PassContext, PassResult, Profile
from planish.passes.lowrank.factorize import Factorization
from planish.passes.lowrank.matrix import kernel_of, weight_of
from planish.passes.moments import WIDEST_WINDOW
from planish.targets.load import load_target

RNG = np.random.default_rng(0)


def low_rank(*shape: int, rank: int) -> np.ndarray:
    """A random matrix of a rank, its first two sizes being the matrix's."""
    rows, columns = shape[:2]
    product = RNG.standard_normal((rows, rank)) @ RNG.standard_normal((rank, columns))
    return product.reshape(shape).astype(np.float32)


def graph_of(shape: tuple[int | str, ...], build: Any) -> Graph:
    graph = Graph()
    op = Builder(graph, location=Location("layer"))
    graph.outputs["y"] = build(op, graph.add_input("x", TensorType(DType.float32, shape)))
    return graph


def factorize(graph: Graph, calibration: tuple[Feeds, ...] = (), **options: Any) -> PassResult:
    result = Factorization(**options).apply(graph, PassContext(load_target("x86-64"), graph, calibration))
    verify(graph)
    return result


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    return Interpreter(graph).run({"x": x})["y"]


def linear(op: Builder, x: Value) -> Value:
    return op.MatMul(x, low_rank(24, 32, rank=3))


def gemm(op: Builder, x: Value) -> Value:
    return op.Gemm(x, low_rank(24, 32, rank=3), np.ones(32, np.float32), alpha=0.5, beta=2.0)


def gemm_turned(op: Builder, x: Value) -> Value:
    return op.Gemm(x, low_rank(32, 24, rank=3), np.ones(32, np.float32), transB=1)


def pointwise(op: Builder, x: Value) -> Value:
    weight = low_rank(32, 24, 1, 1, rank=3)
    return op.Conv(x, weight, np.ones(32, np.float32), strides=(2, 2), pads=(1, 0, 1, 0), kernel_shape=(1, 1))


def scaled(op: Builder, x: Value) -> Value:
    return op("com.microsoft::FusedMatMul", x, low_rank(32, 24, rank=3), alpha=0.5, transB=1)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(linear, (5, 7, 24)), (gemm, (5, 24)), (gemm_turned, (5, 24)), (pointwise, (2, 24, 6, 7)), (scaled, (5, 7, 24))],
)
def test_a_layer_of_low_rank_becomes_two_that_compute_the_same(
    layer: Any, shape: tuple[int, ...], calibrated: bool
) -> None:
    graph = graph_of(shape, layer)
    x = RNG.standard_normal(shape).astype(np.float32)
    expected, before = run(graph, x), summarize(graph)

    result = factorize(graph, ({"x": x},) if calibrated else (), energy=1 - 1e-9)

    assert result.counts == {"factorize": 1}
    assert np.allclose(run(graph, x), expected, rtol=1e-3, atol=1e-4)
    assert len(graph) == 2
    assert {node.location.module for node in graph.nodes} == {"layer"}
    assert summarize(graph).flops < before.flops / 3
    matrices = [constant.data for constant in graph.constants.values() if constant.data.ndim >= 2]
    assert sum(matrix.size for matrix in matrices) == 3 * (24 + 32)


@pytest.mark.parametrize("layer", [linear, gemm, pointwise], ids=["MatMul", "Gemm", "Conv"])
def test_an_output_that_is_nearly_nothing_gets_no_subnormal_weights(layer: Any) -> None:
    graph = graph_of((2, 24, 6, 7) if layer is pointwise else (5, 24), layer)
    weight = next(constant for constant in graph.constants.values() if constant.data.ndim >= 2)
    weight.data = weight.data.copy()
    weight.data[(slice(None), 3) if layer is not pointwise else 3] *= np.float32(1e-39)

    factorize(graph, rank=3)

    matrices = [constant.data for constant in graph.constants.values() if constant.data.ndim >= 2]
    assert len(matrices) == 2
    assert not any(np.any(is_subnormal(matrix)) for matrix in matrices)


def separable(channels: int, outputs: int, first: tuple[int, ...], second: tuple[int, ...], rank: int) -> np.ndarray:
    """The weight that two convolutions through a rank have together; an axis has taps in one of the two."""
    one, other = RNG.standard_normal((rank, channels, *first)), RNG.standard_normal((outputs, rank, *second))
    return (
        np.einsum("rcuv,orij->ocuivj", one, other).reshape(outputs, channels, *np.multiply(first, second)).astype("f")
    )


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("option", ["energy", "ratio"])
@pytest.mark.parametrize(("first", "second"), [((5, 3), (1, 1)), ((5, 1), (1, 3)), ((1, 3), (5, 1)), ((1, 1), (5, 3))])
def test_a_convolution_is_split_where_its_weight_has_a_low_rank(
    first: tuple[int, ...], second: tuple[int, ...], option: str, calibrated: bool
) -> None:
    weight = separable(8, 12, first, second, rank=2)
    attributes = {"strides": (2, 1), "pads": (1, 2, 0, 1), "dilations": (1, 2)}
    graph = graph_of((4, 8, 12, 13), lambda op, x: op.Relu(op.Conv(x, weight, np.ones(12, np.float32), **attributes)))
    x = RNG.standard_normal((4, 8, 12, 13)).astype(np.float32)
    expected = run(graph, x)

    factorize(graph, ({"x": x},) if calibrated else (), **{option: {"energy": 1 - 1e-9, "ratio": 0.7}[option]})

    shapes = [weight_of(node).data.shape for node in graph.nodes if node.operator == "Conv"]
    rank = shapes[0][0]
    assert shapes == [(rank, 8, *first), (12, rank, *second)]
    assert rank == 2 or option == "ratio"
    assert np.allclose(run(graph, x), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_convolution_becomes_a_column_and_a_row() -> None:
    text = """graph "net"(%x: float32[1, 6, 12, 12]) {
  const %w: float32[6, 6, 3, 3]
  %y: float32[1, 6, 6, 12] = Conv(%x, %w) {pads = [1, 1, 1, 1], strides = [2, 1]} @ "layer"
  return y = %y
}
"""
    graph = parse_graph(text, {"w": separable(6, 6, (3, 1), (1, 3), rank=2)})

    factorize(graph, energy=1 - 1e-9)

    assert (
        print_graph(graph)
        == """graph "net"(%x: float32[1, 6, 12, 12]) {
  const %w_in: float32[2, 6, 3, 1]
  const %w_out: float32[6, 2, 1, 3]
  %conv: float32[1, 2, 6, 12] = Conv(%x, %w_in) {pads = [1, 0, 1, 0], strides = [2, 1]} @ "layer"
  %y: float32[1, 6, 6, 12] = Conv(%conv, %w_out) {pads = [0, 1, 0, 1]} @ "layer"
  return y = %y
}
"""
    )


def test_ranks_of_wide_convolutions_suit_blocks_of_channels() -> None:
    weight = RNG.standard_normal((64, 64, 3, 3)).astype(np.float32)
    graph = graph_of((8, 64, 6, 6), lambda op, x: op.Relu(op.Conv(x, weight)))
    batches = tuple({"x": RNG.standard_normal((8, 64, 6, 6)).astype(np.float32)} for _ in range(4))
    whole = summarize(graph).flops

    for share in (0.3, 0.36, 0.43, 0.5, 0.6):
        copy = graph.clone()
        factorize(copy, batches, flops=share)
        assert weight_of(next(iter(copy.nodes))).data.shape[0] % 4 == 0
        assert summarize(copy).flops <= (1 - share) * whole


@pytest.mark.parametrize("is_padded", [False, True])
def test_a_mean_goes_into_the_bias_unless_zeros_are_around_an_image(is_padded: bool) -> None:
    """What a number makes up for in the middle of an image, it would add to what is lost at the border."""
    weight = RNG.standard_normal((16, 8, 3, 3)).astype(np.float32)

    def images() -> np.ndarray:
        return (5 + 0.1 * RNG.standard_normal((8, 8, 8, 8))).astype(np.float32)

    graph = graph_of((8, 8, 8, 8), lambda op, x: op.Conv(x, weight, pads=(int(is_padded),) * 4))
    test = images()
    expected = run(graph, test)

    factorize(graph, ({"x": images()},) * 4, rank=3)

    *_, last = graph.nodes
    assert (last.input(2) is None) == is_padded
    lost = (run(graph, test) - expected).mean(axis=(0, 2, 3))
    assert is_padded or np.abs(lost).max() < 1e-2 * np.abs(expected.mean(axis=(0, 2, 3))).max()


def test_a_convolution_with_thousands_of_inputs_is_split_by_what_each_of_them_reads() -> None:
    assert WIDEST_WINDOW < 10 * 512
    weight = (low_rank(16, 5120, rank=2) / 50).reshape(16, 10, 512, 1)
    graph = graph_of((2, 10, 600, 1), lambda op, x: op.Conv(x, weight))
    batches = RNG.standard_normal((5, 2, 10, 600, 1)).astype(np.float32)
    expected = run(graph, batches[4])

    factorize(graph, tuple({"x": x} for x in batches[:4]), energy=1 - 1e-6)

    assert len(list(graph.nodes)) == 2
    assert np.abs(run(graph, batches[4]) - expected).max() < 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_images_of_which_only_rounding_varies_are_no_error(value: float) -> None:
    random = np.random.default_rng(0)
    shapes = (32, 3, 3, 3), (64, 32, 3, 5), (48, 64, 3, 3), (48, 10)
    first, second, third, last = (random.standard_normal(shape, np.float32) / 10 for shape in shapes)

    def build(op: Builder, x: Value) -> Value:
        x = op.Relu(op.Conv(x, first, random.standard_normal(32, np.float32), pads=(1, 1, 1, 1)))
        x = op.Relu(op.Conv(x, second, pads=(1, 1, 1, 1), strides=(2, 1), dilations=(1, 2)))
        return op.MatMul(op.ReduceMean(op.Conv(x, third), np.array([2, 3]), keepdims=0), last)

    graph = graph_of((8, 3, 16, 16), build)
    images = tuple({"x": np.full((8, 3, 16, 16), value, np.float32)} for _ in range(6))
    assert factorize(graph, images, ratio=0.5).changed


def test_windows_of_more_weights_than_moments_are_held_of_count_by_themselves() -> None:
    weight = low_rank(8, 520 * 9, rank=2).reshape(8, 520, 3, 3)
    graph = graph_of((2, 520, 5, 5), lambda op, x: op.Conv(x, weight))
    x = RNG.standard_normal((2, 520, 5, 5)).astype(np.float32)
    expected = run(graph, x)

    assert factorize(graph, ({"x": x},) * 4, ratio=0.7).counts == {"factorize": 1}
    assert np.allclose(run(graph, x), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_energy_is_the_share_of_the_squared_singular_values() -> None:
    weight = np.diag(np.array([4.0, 2.0, 1.0, 1.0] + [0.0] * 28, np.float32))  # 16, 20, 21 and 22 of 22

    def rank(energy: float) -> int:
        graph = graph_of(("batch", 32), lambda op, x: op.MatMul(x, weight))
        factorize(graph, energy=energy)
        return next(iter(graph.nodes)).output.type.shape[-1]

    assert [rank(energy) for energy in (0.7, 16.1 / 22, 20.1 / 22, 21.1 / 22)] == [1, 2, 3, 4]


def test_rank_and_ratio_set_the_size_instead() -> None:
    def full(op: Builder, x: Value) -> Value:
        return op.MatMul(x, RNG.standard_normal((64, 64)).astype(np.float32))

    by_rank, by_ratio, whole = (graph_of((1, 64), full) for _ in range(3))
    factorize(by_rank, rank=5)
    factorize(by_ratio, ratio=0.5)

    assert [constant.data.shape for constant in by_rank.constants.values()] == [(64, 5), (5, 64)]
    assert summarize(by_ratio).flops == summarize(whole).flops / 2


def test_a_layer_that_would_not_get_cheaper_stays_and_says_why() -> None:
    graph = graph_of((5, 24), lambda op, x: op.MatMul(x, low_rank(24, 24, rank=12)))

    result = factorize(graph, energy=1 - 1e-9)

    assert not result.changed
    assert len(graph) == 1
    assert result.misses == ["layer: rank 12 of its 24 x 24 weight saves no time: only ranks below 11 do"]


def test_only_and_skip_choose_layers() -> None:
    def two(op: Builder, x: Value) -> Value:
        op.location = Location("first")
        h = op.Relu(linear(op, x))
        op.location = Location("second")
        return op.MatMul(h, low_rank(32, 32, rank=3))

    def split(**options: Any) -> list[str]:
        graph = graph_of((5, 24), two)
        factorize(graph, energy=1 - 1e-9, **options)
        return [node.location.module for node in graph.nodes if node.operator == "MatMul"]

    assert split(only=("first",)) == ["first", "first", "second"]
    assert split(skip=("first",)) == ["first", "second", "second"]
    assert split(skip=("MatMul",)) == ["first", "second"]


@pytest.mark.parametrize(
    "layer",
    [
        lambda op, x: op.Conv(x, low_rank(24, 9, rank=1).reshape(24, 1, 3, 3), group=24),
        lambda op, x: op.Conv(x, low_rank(24, 12, rank=1).reshape(24, 12, 1, 1), group=2),
        lambda op, x: op.MatMul(x, op.Transpose(x, perm=(0, 1, 3, 2))),
    ],
)
def test_other_layers_are_left_alone(layer: Any) -> None:
    graph = graph_of((2, 24, 6, 6), layer)

    reason = "no layer that may be split multiplies by a constant matrix"
    assert factorize(graph, rank=1) == PassResult({"factorize": 0}, [reason])


def test_a_shared_weight_outlives_the_layer_that_is_split() -> None:
    def shared(op: Builder, x: Value) -> Value:
        weight = op.constant(low_rank(24, 24, rank=2), "shared")
        op.location = Location("split")
        h = op.MatMul(x, weight)
        op.location = Location("whole")
        return op.MatMul(h, weight)

    graph = graph_of((5, 24), shared)
    factorize(graph, rank=2, only=("split",))
    assert "shared" in graph.constants

    factorize(graph, rank=2, only=("whole",))
    assert "shared" not in graph.constants


def test_calibration_lowers_the_error_of_the_output_at_equal_rank() -> None:
    """Inputs vary along few directions, as activations do; the data that judges is not the data that calibrates."""
    mixing = RNG.standard_normal((48, 48)) * np.logspace(0, -2, 48)
    calibration, test = ((RNG.standard_normal((400, 48)) @ mixing.T).astype(np.float32) for _ in range(2))
    weight = RNG.standard_normal((48, 64)).astype(np.float32)
    expected = np.maximum(test @ weight, 0)

    def error(batches: tuple[Feeds, ...]) -> float:
        graph = graph_of((400, 48), lambda op, x: op.Relu(op.MatMul(x, weight)))
        factorize(graph, batches, rank=12)
        return float(np.linalg.norm(run(graph, test) - expected) / np.linalg.norm(expected))

    blind, aware = error(()), error(({"x": calibration[:200]}, {"x": calibration[200:]}))

    assert aware < 0.5 * blind


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_mean_is_no_energy(has_bias: bool) -> None:
    """Inputs lie around a point far from 0, and vary along 6 directions of 32."""
    mixing, mean = RNG.standard_normal((6, 32)), 50 * RNG.standard_normal(32)
    fitted, held_out, test = ((RNG.standard_normal((200, 6)) @ mixing + mean).astype(np.float32) for _ in range(3))
    weight, bias = RNG.standard_normal((32, 40)).astype(np.float32), np.ones(40, np.float32)
    graph = graph_of((200, 32), lambda op, x: op.Gemm(x, weight, bias if has_bias else None))
    expected = run(graph, test)

    factorize(graph, tuple({"x": x} for x in (fitted, fitted, fitted, held_out)), energy=0.99)

    first, second = (node.constant(1) for node in graph.nodes)
    assert first is not None
    assert second is not None
    assert 3 <= first.shape[1] <= 7
    found = run(graph, test)
    assert np.square(found - expected).sum() < 0.015 * np.square(expected - expected.mean(axis=0)).sum()
    assert np.abs((found - expected).mean(axis=0)).max() < 0.2  # of outputs that are hundreds


@pytest.mark.parametrize("max_drop", [1.0, 5.0])
def test_by_default_the_outputs_stay_within_a_bound(max_drop: float) -> None:
    """The bound is held on data that nobody has fitted anything to, but for a little."""
    mixing = RNG.standard_normal((48, 6))
    weights = [RNG.standard_normal((48, 48)).astype(np.float32) / 7 for _ in range(3)]

    def network(op: Builder, x: Value) -> Value:
        for weight in weights[:-1]:
            x = op.Relu(op.Gemm(x, weight))
        return op.Gemm(x, weights[-1])

    batches = [(RNG.standard_normal((400, 6)) @ mixing.T).astype(np.float32) for _ in range(8)]
    graph = graph_of(("batch", 48), network)
    test = np.concatenate(batches[-4:])
    expected = run(graph, test)

    result = factorize(graph, tuple({"x": x} for x in batches[:4]), max_drop=max_drop)

    assert result.changed
    flips = (run(graph, test).argmax(axis=1) != expected.argmax(axis=1)).mean()
    assert flips <= 2 * max_drop / 100


@pytest.mark.parametrize("goal", ["flops", "parameters"])
def test_a_budget_takes_from_where_the_outputs_lose_least(goal: str) -> None:
    """Both layers are alike, but little is made of what the second computes."""

    def two(op: Builder, x: Value) -> Value:
        op.location = Location("matters")
        h = op.MatMul(x, RNG.standard_normal((64, 64)).astype(np.float32))
        op.location = Location("hardly matters")
        return op.Add(h, op.Mul(op.MatMul(x, RNG.standard_normal((64, 64)).astype(np.float32)), 1e-3))

    graph = graph_of((50, 64), two)
    before = summarize(graph)
    batches = tuple({"x": RNG.standard_normal((50, 64)).astype(np.float32)} for _ in range(4))

    result = factorize(graph, batches, **{goal: 0.3})

    assert 0.3 <= 1 - getattr(summarize(graph), goal) / getattr(before, goal) < 0.35
    assert result.misses == ["matters: it stays whole, since other layers save what was asked for at less loss"]
    assert [node.location.module for node in graph.nodes if node.operator == "MatMul"] == ["matters"] + [
        "hardly matters"
    ] * 2


@pytest.mark.parametrize(("options", "left"), [({"parameters": 0.5}, (32, 32)), ({"flops": 0.5}, (200, 32))])
def test_an_embedding_is_narrowed_for_the_sake_of_size(options: dict[str, float], left: tuple[int, int]) -> None:
    """Rows of the table lie in 4 directions; the layer that reads them can give half of its operations."""
    graph = Graph()
    op = Builder(graph, location=Location("table"))
    ids = graph.add_input("ids", TensorType(DType.int64, ("batch", 6)))
    rows = op.Gather(low_rank(200, 32, rank=4), ids)
    op.location = Location("layer")
    graph.outputs["y"] = op.MatMul(rows, low_rank(32, 32, rank=4))
    before = summarize(graph)
    feeds = [{"ids": RNG.integers(0, 100, (16, 6))} for _ in range(4)]  # others are looked up later
    unseen = {"ids": RNG.integers(100, 200, (16, 6))}
    expected = Interpreter(graph).run(unseen)["y"]

    factorize(graph, tuple(feeds), **options)

    (goal,) = options
    assert getattr(summarize(graph), goal) <= getattr(before, goal) / 2
    assert [node.operator for node in graph.nodes] == ["Gather", "MatMul", "MatMul"]
    assert left in [constant.data.shape for constant in graph.constants.values()]
    assert np.allclose(Interpreter(graph).run(unseen)["y"], expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())


def test_parameters_and_operations_are_both_removed() -> None:
    """The table alone gives the parameters; the layer behind it is all that takes operations."""
    graph = Graph()
    op = Builder(graph, location=Location("table"))
    ids = graph.add_input("ids", TensorType(DType.int64, ("batch", 6)))
    rows = op.Gather(low_rank(500, 64, rank=4), ids)
    graph.outputs["y"] = op.Relu(op.MatMul(rows, RNG.standard_normal((64, 64)).astype(np.float32)))
    smaller, before = graph.clone(), summarize(graph)
    feeds = tuple({"ids": RNG.integers(0, 500, (16, 6))} for _ in range(4))

    factorize(smaller, feeds, parameters=0.5)
    result = factorize(graph, feeds, parameters=0.5, flops=0.3)

    assert summarize(smaller).flops >= before.flops
    assert summarize(graph).parameters <= 0.5 * before.parameters
    assert summarize(graph).flops < 0.8 * before.flops  # the narrow table takes some itself
    assert not result.notes


def test_rows_of_a_table_that_are_looked_up_most_stay_as_they_are() -> None:
    """Ten rows of 320 are nine of ten of those that are looked up."""
    graph, table = Graph(), low_rank(320, 32, rank=4)
    table[40:50] = RNG.standard_normal((10, 32))
    op = Builder(graph, location=Location("table"))
    rows = op.Gather(table, graph.add_input("ids", TensorType(DType.int64, ("batch", 20))))
    graph.outputs["y"] = op.Relu(rows)
    ids = RNG.integers(0, 320, (64, 20))
    ids[:, :18] = RNG.integers(40, 50, (64, 18))
    ids[0, :2] = -1, -275  # counted from the back
    before = summarize(graph)

    factorize(graph, tuple({"ids": ids[place : place + 16]} for place in range(0, 64, 16)), parameters=0.7)

    assert summarize(graph).parameters <= 0.3 * before.parameters
    every = np.arange(320).reshape(16, 20)
    found = Interpreter(graph).run({"ids": every})["y"].reshape(320, 32)
    assert np.array_equal(found[40:50], np.maximum(table[40:50], 0))
    assert np.allclose(found, np.maximum(table, 0), atol=1e-2 * np.abs(table).max())
    assert np.array_equal(Interpreter(graph).run({"ids": every - 320})["y"].reshape(320, 32), found)


def test_errors_that_add_up_over_the_rows_of_a_sample_count_more() -> None:
    """Most of what varies differs from row to row and is gone from their mean; a fifth is the same for all rows."""
    shared, own = np.linalg.qr(RNG.standard_normal((32, 32)))[0].reshape(2, 16, 32)

    def batch() -> np.ndarray:
        common = 0.5 * RNG.standard_normal((32, 1, 16)) @ shared
        return (common + RNG.standard_normal((32, 64, 16)) @ own).astype(np.float32)

    weight = np.linalg.qr(RNG.standard_normal((32, 32)))[0].astype(np.float32)
    graph = graph_of(("batch", 64, 32), lambda op, x: op.ReduceMean(op.MatMul(x, weight), (1,), keepdims=0))
    test = batch()
    expected = run(graph, test)

    factorize(graph, tuple({"x": batch()} for _ in range(8)), rank=15)

    assert np.linalg.norm(run(graph, test) - expected) < 0.7 * np.linalg.norm(expected)


def test_rows_that_are_masked_do_not_count() -> None:
    """As of padding: they vary more than the others, and in other directions."""
    mask = (np.arange(12) < 6).astype(np.float32)[:, None]
    seen, padding = RNG.standard_normal((2, 4, 32))
    mixing = np.where(mask[..., None], seen, 5 * padding)

    def batch() -> np.ndarray:
        return np.einsum("brk,rkn->brn", RNG.standard_normal((16, 12, 4)), mixing).astype(np.float32)

    weight = RNG.standard_normal((32, 32)).astype(np.float32)
    graph = graph_of(("batch", 12, 32), lambda op, x: op.Mul(op.MatMul(x, weight), mask))
    test = batch()
    expected = run(graph, test)

    factorize(graph, tuple({"x": batch()} for _ in range(4)), rank=4)

    assert np.allclose(run(graph, test), expected, atol=0.05 * np.abs(expected).max())


def test_where_nothing_has_gradients_a_layer_counts_by_the_share_of_what_it_computes() -> None:
    """What the layer of full rank computes is a thousandth of what the other does."""

    def two(op: Builder, x: Value) -> Value:
        op.location = Location("of full rank")
        full = op.MatMul(x, 1e-3 * RNG.standard_normal((32, 32)).astype(np.float32))
        op.location = Location("of low rank")
        low = op.MatMul(x, low_rank(32, 32, rank=8))
        return op.Concat(op.ArgMax(full, axis=-1), op.ArgMax(low, axis=-1), axis=1)

    graph = graph_of((50, 32), two)
    batches = tuple({"x": RNG.standard_normal((50, 32)).astype(np.float32)} for _ in range(4))

    factorize(graph, batches, parameters=0.2)

    products = [node.location.module for node in graph.nodes if node.operator == "MatMul"]
    assert products == ["of full rank", "of low rank", "of low rank"]


def test_a_budget_that_is_out_of_reach_is_told() -> None:
    def shared(op: Builder, x: Value) -> Value:
        weight = op.constant(RNG.standard_normal((24, 24)).astype(np.float32), "weight")
        return op.MatMul(op.Relu(op.MatMul(x, weight)), weight)

    batches = ({"x": RNG.standard_normal((50, 24)).astype(np.float32)},) * 4

    assert factorize(graph_of((50, 24), shared), batches, parameters=0.3).notes == [
        "no more than 0 % of the parameters can be removed"  # whoever reads the weight still needs it
    ]
    assert factorize(graph_of((50, 24), shared), batches, flops=0.99).notes == [
        "no more than 91 % of the operations can be removed"
    ]


def test_a_budget_needs_data() -> None:
    with pytest.raises(UsageError, match=r"factorize\{flops=...\} needs calibration data .*factorize\{ratio=...\}"):
        factorize(graph_of((5, 24), linear), flops=0.5)


def test_where_nothing_keeps_the_outputs_nothing_is_split() -> None:
    graph = graph_of((64, 24), lambda op, x: op.Gemm(x, RNG.standard_normal((24, 24)).astype(np.float32)))
    batches = tuple({"x": RNG.standard_normal((64, 24)).astype(np.float32)} for _ in range(4))

    result = factorize(graph, batches, max_drop=1e-3)

    assert not result.changed
    assert len(result.misses) == 1


@pytest.mark.parametrize("channels", [1, 16])
def test_a_small_head_stays_whole_behind_a_large_layer(channels: int) -> None:
    first = RNG.standard_normal((64, channels, 5, 5)).astype(np.float32)
    last = RNG.standard_normal((64, 1)) @ RNG.standard_normal((1, 4))

    def network(op: Builder, x: Value) -> Value:
        return op.MatMul(op.Flatten(op.GlobalAveragePool(op.Relu(op.Conv(x, first)))), last.astype(np.float32))

    shape = (8, channels, 7, 7)
    batches = tuple({"x": RNG.standard_normal(shape).astype(np.float32)} for _ in range(12))
    result = factorize(graph_of(shape, network), batches)

    assert result.changed == (channels == 1)
    assert result.changed or "less than 1 % of the model" in result.misses[0]


@pytest.mark.parametrize("fed", [np.zeros((0, 24), np.float32), np.full((4, 24), np.inf, np.float32)])
def test_a_layer_stays_whose_inputs_say_nothing(fed: np.ndarray) -> None:
    graph = graph_of(("batch", 24), linear)

    result = factorize(graph, ({"x": fed},) * 4, energy=0.9)

    assert result.counts == {"factorize": 0}
    assert result.misses == ["layer: its input in the calibration data is empty, or not finite"]


def test_too_few_rows_to_judge_on_are_said_or_refused() -> None:
    graph = graph_of(("batch", 24), lambda op, x: op.Gemm(x, low_rank(24, 32, rank=3)))
    batches = tuple({"x": RNG.standard_normal((9, 24)).astype(np.float32)} for _ in range(12))

    with pytest.raises(UsageError, match=r"have 18 rows of classes.* say how much as in factorize\{flops=0.3\}"):
        factorize(graph, batches[:8])
    result = factorize(graph, batches)

    assert result.notes == ["27 rows can't tell 1 % from nothing: give 300 to judge on"]


def test_a_wide_head_is_decomposed_by_its_inputs() -> None:
    weight = low_rank(16, 3000, rank=4)
    graph = graph_of((64, 16), lambda op, x: op.MatMul(x, weight))
    x = RNG.standard_normal((64, 16)).astype(np.float32)
    expected = run(graph, x)

    assert factorize(graph, ({"x": x},), energy=1 - 1e-6).counts == {"factorize": 1}
    assert [constant.data.shape for constant in graph.constants.values()] == [(16, 4), (4, 3000)]
    assert np.allclose(run(graph, x), expected, rtol=1e-3, atol=1e-3)


def test_a_value_that_two_layers_read_along_different_axes_has_a_moment_for_each() -> None:
    def both(op: Builder, x: Value) -> Value:
        by_row = op.MatMul(x, low_rank(24, 24, rank=2))
        return op.Add(by_row, op.Conv(x, low_rank(20, 20, 1, 1, rank=2)))

    graph = graph_of((2, 20, 6, 24), both)
    x = RNG.standard_normal((2, 20, 6, 24)).astype(np.float32)
    expected = run(graph, x)

    assert factorize(graph, ({"x": x},), rank=2).counts == {"factorize": 2}
    assert np.allclose(run(graph, x), expected, rtol=1e-3, atol=1e-3)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    graph = graph_of((5, 24), lambda op, x: op.MatMul(op.Mul(x, 0.0), low_rank(24, 24, rank=2)))
    x = np.ones((5, 24), np.float32)

    factorize(graph, ({"x": x},), rank=2)

    assert np.array_equal(run(graph, x), np.zeros((5, 24)))


@pytest.mark.parametrize(
    "options", [{"energy": -0.1}, {"energy": 1.5}, {"max_drop": 0.0}, {"rank": -1}, {"ratio": 1.0}]
)
def test_senseless_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"option {next(iter(options))} of pass factorize"):
        factorize(graph_of((5, 24), linear), **options)


def test_a_layer_that_takes_longer_in_two_stays_whole() -> None:
    graph = Graph()
    op = Builder(graph, location=Location("first"))
    first = op.MatMul(graph.add_input("x", TensorType(DType.float32, (4, 24))), low_rank(24, 32, rank=3))
    op.location = Location("second")
    graph.outputs["y"] = op.MatMul(op.Relu(first), low_rank(32, 24, rank=3))

    def profile(graphs: Sequence[Graph], *, wholes: bool) -> list[Profile]:
        """The first layer is slower in two, and the second faster."""
        assert not wholes
        slow, fast = first.name, graph.outputs["y"].name
        times = [{slow: 1e-4, fast: 1e-4}, {slow: 2e-4, fast: 5e-5}]
        return [Profile(np.ones(8), modules, {}) for modules, _ in zip(times, graphs, strict=True)]

    context = PassContext(load_target("x86-64"), graph.clone(), profile=profile)
    result = Factorization(rank=3).apply(graph, context)
    assert result.counts == {"factorize": 1}
    assert result.misses == ["first: as two layers of rank 3 it would take 200 µs instead of 100 µs"]
    assert [node.location.module for node in graph.nodes if node.operator == "MatMul"] == ["first", "second", "second"]


def test_a_convolution_that_takes_longer_in_two_stays_whole() -> None:
    weight = separable(8, 8, (3, 1), (1, 3), rank=2)
    graph = graph_of((1, 8, 9, 9), lambda op, x: op.Conv(x, weight))
    name = graph.outputs["y"].name

    def profile(graphs: Sequence[Graph], *, wholes: bool) -> list[Profile]:
        assert not wholes
        assert [kernel_of(node) for node in graphs[1].nodes] == [(3, 1), (1, 3)]
        return [Profile(np.ones(8), {name: seconds}, {}) for seconds in (1e-4, 2e-4)]

    result = Factorization(energy=1 - 1e-9).apply(
        graph, PassContext(load_target("x86-64"), graph.clone(), profile=profile)
    )
    assert not result.changed
    assert result.misses == ["layer: as two layers of rank 2 it would take 200 µs instead of 100 µs"]


def test_a_convolution_that_takes_longer_in_one_way_is_split_in_another() -> None:
    weight = separable(8, 8, (3, 1), (1, 3), rank=2)
    graph = graph_of(("batch", 8, 9, 9), lambda op, x: op.Conv(x, weight))
    name = graph.outputs["y"].name
    tried: list[list[tuple[int, ...]]] = []

    def profile(graphs: Sequence[Graph], *, wholes: bool) -> list[Profile]:
        """A column in front of a row is slower than the whole."""
        assert not wholes
        tried.append([kernel_of(node) for node in graphs[1].nodes])
        times = (1e-4, 2e-4 if len(tried) == 1 else 5e-5)
        return [Profile(np.ones(8), {name: seconds}, {}) for seconds in times]

    feeds = tuple({"x": RNG.standard_normal((8, 8, 9, 9)).astype(np.float32)} for _ in range(4))
    context = PassContext(load_target("x86-64"), graph.clone(), feeds, profile=profile)
    result = Factorization(flops=0.5).apply(graph, context)

    assert result.counts == {"factorize": 1}
    assert tried[0] == [(3, 1), (1, 3)]
    assert [kernel_of(node) for node in graph.nodes] == tried[1] != tried[0]
    assert not any("longer" in miss or "it would take" in miss for miss in result.misses)


def test_others_give_what_slow_layers_would_have_and_tables_give_for_size_alone() -> None:
    graph = Graph()
    op = Builder(graph, location=Location("table"))
    rows = op.Gather(low_rank(200, 32, rank=4), graph.add_input("ids", TensorType(DType.int64, ("batch", 6))))
    op.location = Location("slow")
    first = op.MatMul(rows, low_rank(32, 64, rank=4))
    op.location = Location("fast")
    graph.outputs["y"] = op.MatMul(op.Relu(first), low_rank(64, 32, rank=8))
    before = summarize(graph).parameters
    feeds = tuple({"ids": RNG.integers(0, 200, (16, 6))} for _ in range(4))

    def profile(graphs: Sequence[Graph], *, wholes: bool) -> list[Profile]:
        assert not wholes
        times = [dict.fromkeys((rows.name, first.name), seconds) for seconds in (1e-4, 2e-4)]
        return [Profile(np.ones(8), modules, {}) for modules, _ in zip(times, graphs, strict=True)]

    context = PassContext(load_target("x86-64"), graph.clone(), feeds, profile=profile)
    result = Factorization(parameters=0.6).apply(graph, context)

    products = [node.location.module for node in graph.nodes if node.operator == "MatMul"]
    assert products == ["table", "slow", "fast", "fast"]
    assert summarize(graph).parameters <= 0.4 * before
    assert any(miss.startswith("slow: as two layers of rank ") for miss in result.misses)
