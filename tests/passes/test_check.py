"""The numeric check lets each pass move the outputs as far as it declares, and no further."""

from typing import Any, ClassVar

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.errors import CheckError, ModelError
from planish.ir.graph import Graph
from planish.ir.numerics import FLOATS, Tolerance, drift, is_close
from planish.ir.text import parse_graph
from planish.ir.types import DType, TensorType
from planish.passes.base import Effect, Pass, PassResult
from planish.passes.check import NumericCheck
from planish.passes.probes import make_probes, run_edges, run_graph
from planish.passes.yardstick import Yardstick

IDENTITY = "(%x: float32[2, 4]) { %y: float32[2, 4] = Identity(%x) return y = %y }"


class Step(Pass):
    """Does nothing: the tests edit the graph themselves."""

    name: ClassVar[str] = "tested"

    def __init__(self, effect: Effect, max_drift: float = 1.0) -> None:
        self.effect = effect  # type: ignore[misc]
        self.max_drift = max_drift  # type: ignore[misc]

    def run(self, graph, context) -> PassResult:
        return PassResult()


EXACT, ROUNDING, LOSSY = Step(Effect.EXACT), Step(Effect.ROUNDING), Step(Effect.LOSSY)


def after(graph: Graph, change: Any) -> Graph:
    """A copy whose output y went through something more."""
    copy = graph.clone()
    copy.outputs["y"] = change(Builder(copy), copy.outputs["y"])
    return copy


def scaled(factor: float) -> Any:
    return lambda op, y: op.Mul(y, factor)


def one(array: Any) -> list[dict[str, np.ndarray]]:
    return [{"y": np.asarray(array, np.float32)}]


# -- drift


def test_drift_is_the_ratio_of_norms() -> None:
    assert drift(one([3.0, 4.0]), one([3.0, 4.0])) == 0.0
    assert drift(one([3.0, 4.0]), one([3.0, 4.5])) == pytest.approx(0.1)
    assert drift(one([3.0, 4.0]), one([0.0, 0.0])) == pytest.approx(1.0)
    assert drift(one([0.0, 0.0]), one([0.0, 1.0])) == np.inf


def test_drift_is_over_all_probes_and_of_the_worst_output() -> None:
    a, b = np.float32([3.0]), np.float32([4.0])
    assert drift([{"y": a}, {"y": b}], [{"y": a}, {"y": b + 0.5}]) == pytest.approx(0.1)
    assert drift([{"y": a, "z": b}], [{"y": a, "z": b * 2}]) == pytest.approx(1.0)
    assert drift([], []) == 0.0


def test_what_is_missing_or_of_another_shape_is_far_away() -> None:
    a = np.float32([3.0, 4.0])
    assert drift([{"y": a}], [{}]) == np.inf
    assert drift([{"y": a}], [{"y": a[:1]}]) == np.inf
    assert drift([{"y": a}, {}], [{"y": a}, {}]) == 0.0


def test_masks_of_infinities_do_not_count_but_new_ones_do() -> None:
    assert drift(one([-np.inf, 4.0]), one([-1e9, 4.0])) == 0.0
    assert drift(one([1.0, 4.0]), one([1.0, np.inf])) == np.inf
    assert drift(one([np.nan, 4.0]), one([1.0, np.nan])) == np.inf


def test_of_classes_it_is_the_share_that_differs() -> None:
    labels, other = np.array([1, 2, 3, 900]), np.array([1, 2, 3, 0])
    assert drift([{"y": labels}], [{"y": other}]) == 0.25
    assert drift([{"y": labels > 2}], [{"y": labels > 1}]) == 0.25


# -- tolerance


def test_float_tolerance() -> None:
    wanted = np.float32([1.0, 100.0, 0.0])
    assert is_close(wanted, wanted + np.float32([1e-3, 0.09, 9e-5]))
    assert is_close(wanted * np.float32(1e-6), (wanted + np.float32([1e-3, 0.09, 9e-5])) * np.float32(1e-6))
    assert not is_close(wanted[:1] * np.float32(1e-6), wanted[:1] * np.float32(2e-6))  # small isn't equal
    assert not is_close(wanted, wanted + np.float32([0, 0, 2e-4]))
    assert not is_close(wanted, wanted + np.float32([0, 0.2, 0]))
    assert is_close(np.float32([np.nan, np.inf]), np.float32([np.nan, np.inf]))
    assert not is_close(np.float32([np.nan]), np.float32([1.0]))
    assert not is_close(np.array([1, 2]), np.array([1, 3]))
    assert is_close(np.array([1, 2]), np.array([1, 3]), rounding=0.5)
    assert not is_close(np.array([1, 2]), np.array([1, 3]), rounding=0.4)


QUANTIZED = """(%x: float32[4]) {
  const %scale: float32[] = 0.5
  %q: uint8[4] = QuantizeLinear(%x, %scale)
  %y: float32[4] = DequantizeLinear(%q, %scale)
  return y = %y
}"""


def rounding_of(graph: Graph, probes: list[Any]) -> Any:
    return Yardstick(graph, probes, run_graph(graph, probes)).rounding


def test_what_quantization_rounds_is_measured_on_the_probes(graph_of) -> None:
    """A quarter is half a step: a nudge takes it to the next one. What lies in the middle of a step stays there."""
    graph = graph_of(QUANTIZED)
    middle, edge = ({"x": np.float32([1.0, x, 1.0, 1.0])} for x in (0.0, 0.25))
    for probes, expected in (([middle], 0.01), ([middle, edge], 2 * np.sqrt(0.5**2 / 3))):
        assert rounding_of(graph, probes) == {"y": pytest.approx(expected)}
    assert rounding_of(graph_of(IDENTITY), []) == {}


def test_what_no_rounding_moves_is_held_exactly_unless_it_is_a_float(graph_of) -> None:
    graph = graph_of(QUANTIZED)
    graph.outputs["size"] = Builder(graph).Shape(graph.inputs[0])
    probes = [{"x": np.float32([1.0, 0.25, 1.0, 1.0])}]
    assert rounding_of(graph, probes)["size"] == 0.0


def test_a_rounding_pass_over_a_quantized_graph_may_turn_a_rounding(graph_of) -> None:
    graph = graph_of(QUANTIZED)
    check = NumericCheck(graph, [{"x": np.float32([1.0, 0.25, 1.0, 1.0])}])
    turned = graph.clone()
    quantize, _ = turned.nodes
    turned.set_input(quantize, 0, Builder(turned, before=quantize).Mul(turned.inputs[0], 1.0000005))
    assert check.check(turned, ROUNDING) == pytest.approx(np.sqrt(0.5**2 / 3))
    turned.set_input(quantize, 0, Builder(turned, before=quantize).Mul(turned.inputs[0], 1.5))
    with pytest.raises(CheckError):
        check.check(turned, ROUNDING)


def test_half_precision_rounds_coarsely(graph_of) -> None:
    """What is reassociated in 16 bits may be a hundredth off."""
    half = graph_of("(%x: float16[2, 4]) { %y: float16[2, 4] = Identity(%x) return y = %y }")
    check = NumericCheck(half, make_probes(half, ()))
    check.check(after(half, scaled(1.005)), ROUNDING)
    with pytest.raises(CheckError):
        check.check(after(half, scaled(1.02)), ROUNDING)


# -- what each effect may do


@pytest.fixture
def source(graph_of) -> Graph:
    return graph_of(IDENTITY)


@pytest.fixture
def check(source: Graph) -> NumericCheck:
    return NumericCheck(source, make_probes(source, ()))


def test_an_exact_pass_may_not_move_a_bit(source: Graph, check: NumericCheck) -> None:
    assert check.check(after(source, scaled(1.0)), EXACT) == 0.0
    message = "pass tested declares itself exact, but output 'y' differs by up to .* on probe 0; the pass is wrong"
    with pytest.raises(CheckError, match=message):
        check.check(after(source, scaled(1.000001)), EXACT)


def test_a_rounding_pass_may_move_within_tolerance(source: Graph, check: NumericCheck) -> None:
    assert 0 < check.check(after(source, scaled(1.0001)), ROUNDING) < 2e-4
    with pytest.raises(CheckError, match="pass tested declares itself rounding, but output 'y' differs by up to"):
        check.check(after(source, scaled(1.01)), ROUNDING)


def test_rounding_errors_do_not_add_up(source: Graph, check: NumericCheck) -> None:
    """Each is small, and together they are not: the reference is what was before all of them."""
    check.check(after(source, scaled(1.0007)), ROUNDING)
    with pytest.raises(CheckError):
        check.check(after(source, scaled(1.0014)), ROUNDING)


def test_an_exact_pass_after_a_rounding_one_is_held_to_what_it_found(source: Graph, check: NumericCheck) -> None:
    rounded = after(source, scaled(1.0005))
    check.check(rounded, ROUNDING)
    check.check(after(rounded, scaled(1.0)), EXACT)
    with pytest.raises(CheckError):
        check.check(source, EXACT)


def test_a_lossy_pass_has_its_own_bound(source: Graph, check: NumericCheck) -> None:
    assert check.check(after(source, scaled(1.5)), LOSSY) == pytest.approx(0.5)
    with pytest.raises(CheckError, match=r"pass tested moved the outputs by 0\.333 .* more than the 0\.25 that"):
        check.check(source, Step(Effect.LOSSY, max_drift=0.25))


def test_what_follows_a_lossy_pass_is_held_to_its_result(source: Graph, check: NumericCheck) -> None:
    lossy = after(source, scaled(1.5))
    check.check(lossy, LOSSY)
    assert check.check(after(lossy, scaled(1.0001)), ROUNDING) == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(CheckError):
        check.check(source, ROUNDING)


@pytest.mark.parametrize("step", [EXACT, ROUNDING, LOSSY])
def test_nobody_may_make_nan(source: Graph, check: NumericCheck, step: Pass) -> None:
    with pytest.raises(CheckError, match="output 'y' has become NaN on probe 0"):
        check.check(after(source, lambda op, y: op.Sqrt(op.Sub(y, 9.0))), step)


def test_nan_where_there_was_none_counts_though_others_were_there(graph_of) -> None:
    """The first half of the source's output is NaN already."""
    source = graph_of(
        """(%x: float32[2]) {
          const %c: float32[2] = [nan, 0.0]
          %y: float32[2] = Add(%x, %c)
          return y = %y
        }"""
    )
    check = NumericCheck(source, make_probes(source, ()))
    assert check.check(after(source, scaled(1.0)), EXACT) == 0.0
    with pytest.raises(CheckError, match="has become NaN"):
        check.check(after(source, lambda op, y: op.Sqrt(op.Sub(y, 9.0))), LOSSY)


def test_nobody_may_make_infinities(source: Graph, check: NumericCheck) -> None:
    with pytest.raises(CheckError, match=r"moved the outputs by inf"):
        check.check(after(source, lambda op, y: op.Div(y, 0.0)), LOSSY)


def test_outputs_keep_shape_and_type(source: Graph, check: NumericCheck) -> None:
    with pytest.raises(CheckError, match=r"output 'y' was float32\[2, 4\] and is float32\[4, 2\]"):
        check.check(after(source, lambda op, y: op.Transpose(y)), LOSSY)
    with pytest.raises(CheckError, match=r"output 'y' was float32\[2, 4\] and is float64\[2, 4\]"):
        check.check(after(source, lambda op, y: op.Cast(y, to=DType.float64)), EXACT)


def test_outputs_keep_their_names_and_order(graph_of) -> None:
    source = graph_of("(%x: float32[2]) { %y: float32[2] = Neg(%x) return y = %y, z = %x }")
    check = NumericCheck(source, make_probes(source, ()))
    for names in (["y"], ["z", "y"], ["y", "z", "more"]):
        changed = source.clone()
        changed.outputs = {name: source.clone().outputs.get(name, changed.inputs[0]) for name in names}
        with pytest.raises(CheckError, match=r"pass tested changed the model's outputs from \['y', 'z'\] to"):
            check.check(changed, EXACT)


def test_inputs_stay_as_they_are(source: Graph, check: NumericCheck) -> None:
    changed = source.clone()
    changed.add_input("more", TensorType(DType.float32, ()))
    with pytest.raises(
        CheckError, match=r"pass tested changed the model's inputs from %x: float32\[2, 4\] to %x: .*more"
    ):
        check.check(changed, EXACT)


def test_a_graph_that_does_not_run_is_the_pass_s_fault(source: Graph, check: NumericCheck) -> None:
    changed = source.clone()
    node = changed.add_node("Add", [changed.outputs["y"], changed.add_constant(np.zeros(3, np.float32))],
                            [TensorType(DType.float32, (2, 4))])  # fmt: skip
    changed.outputs["y"] = node.output
    with pytest.raises(CheckError, match="pass tested left a graph that doesn't run: "):
        check.check(changed, LOSSY)


# -- edge values


@pytest.mark.parametrize(
    "change",
    [
        lambda op, y: op.Clip(y, -16.0, 16.0),  # no random number is that large
        lambda op, y: op.Where(op.Equal(y, 0.0), 1.0, y),  # or is zero
    ],
)
def test_what_is_wrong_at_edges_alone_is_found(source: Graph, check: NumericCheck, change) -> None:
    wrong = after(source, change)
    for step in (EXACT, ROUNDING):
        with pytest.raises(CheckError, match="output 'y' differs by up to .* on edge values"):
            check.check(wrong, step)


def test_edges_say_nothing_where_any_rounding_changes_everything(graph_of) -> None:
    """Waves whose phase no float holds at edge values, though it does for data; NaN are wrong nonetheless."""
    text = """(%x: float32[8]) {
      const %k: float32[] = FACTOR
      %p: float32[8] = Mul(%x, %k)
      %y: float32[8] = WAVE(%p)
      return y = %y
    }"""
    source, other, wrong = (
        graph_of(text.replace("FACTOR", factor).replace("WAVE", wave))
        for factor, wave in (("1e6", "Sin"), ("1000001.0", "Sin"), ("1e6", "Cos"))
    )
    probe = {"x": np.linspace(-1e-6, 1e-6, 8, dtype=np.float32)}
    check = NumericCheck(source, [probe])
    check.check(other, ROUNDING)
    for faulty, message in [
        (wrong, "on probe 0"),
        (
            after(other, lambda op, y: op.Add(y, op.Mul(op.Sqrt(op.Sub(np.float32(0.5), op.graph.inputs[0])), 0.0))),
            "has become NaN",
        ),
    ]:
        with pytest.raises(CheckError, match=message):
            check.check(faulty, ROUNDING)


def test_a_loss_at_edges_is_none(source: Graph, check: NumericCheck) -> None:
    """Where quantization saturates, say; and what follows is held to that."""
    lossy = after(source, lambda op, y: op.Clip(y, -16.0, 16.0))
    assert check.check(lossy, LOSSY) == 0.0
    check.check(lossy, EXACT)
    with pytest.raises(CheckError, match="on edge values"):
        check.check(source, EXACT)


def test_all_of_a_mask_may_be_zero(graph_of) -> None:
    source = graph_of(
        """(%x: float32[2, 4], %mask: int64[4], %name: string[1]) {
          %t: bool[4] = Cast(%mask) {to = 9}
          %n: float32[2, 4] = Neg(%x)
          %y: float32[2, 4] = Where(%t, %x, %n)
          return y = %y
        }"""
    )
    probe = {"x": np.full((2, 4), 3, np.float32), "mask": np.int64([1, 0, 1, 1]), "name": np.array(["a"], object)}
    (edges,), _ = run_edges(source, probe)
    assert not edges["mask"].any()
    assert edges["name"] == "a"
    assert {0, 1, -1, 32, -32} <= set(edges["x"].flat)


def test_a_model_is_not_checked_on_edge_values_that_it_does_not_take(graph_of) -> None:
    """Whole numbers that must not be zero stay those of the probe; floats that must not be edges have none."""
    text = 'graph "shape"(%x: float32[4], %s: int64[2]) { %y: float32[a, b] = Reshape(%x, %s) return y = %y }'
    shape = parse_graph(text)
    (edges,), _ = run_edges(shape, {"x": np.zeros(4, np.float32), "s": np.int64([2, 2])})
    assert list(edges["s"]) == [2, 2]
    shaped = parse_graph(
        """graph "own"(%x: float32[2]) {
          %size: int64[2] = Cast(%x) {to = 7}
          %y: float32[a, b] = Reshape(%x, %size)
          return y = %y
        }"""
    )
    assert run_edges(shaped, {"x": np.float32([2, 1])}) == ([], [])


# -- probes


def test_probes_are_calibration_data_where_there_is_some(graph_of) -> None:
    data = [{"x": np.full((5, 4), value, np.float32)} for value in range(3)]
    probes = make_probes(graph_of("(%x: float32[batch, 4]) { return x = %x }"), data)
    assert [probe["x"].tolist() for probe in probes] == [batch["x"][:2].tolist() for batch in data[:2]]


def test_a_batch_that_the_model_fixes_is_a_probe_as_it_is(graph_of) -> None:
    graph = graph_of("(%x: float32[5, 3], %n: int64[]) { return x = %x }")
    data = [{"x": np.ones((5, 3), np.float32), "n": np.array(1)}]
    assert make_probes(graph, data) == data
    twice = graph_of("(%x: float32[batch, 3], %m: float32[2*batch]) { return x = %x }")
    data = [{"x": np.ones((5, 3), np.float32), "m": np.ones(10, np.float32)}]
    assert make_probes(twice, data) == data  # what a sample is of the second input isn't said


def test_probes_are_cut_along_each_axis_of_the_batch(graph_of) -> None:
    graph = graph_of("(%x: float32[batch, 3], %near: bool[batch, batch], %n: int64[]) { return x = %x }")
    data = [{"x": np.ones((5, 3), np.float32), "near": np.eye(5, dtype=bool), "n": np.array(1)}]
    (probe,) = make_probes(graph, data)
    assert {name: array.shape for name, array in probe.items()} == {"x": (2, 3), "near": (2, 2), "n": ()}


def test_random_probes_fit_the_inputs_and_follow_the_seed(graph_of) -> None:
    graph = graph_of(
        "(%x: float32[batch, 3], %i: int64[batch], %m: bool[2, 2], %h: float16[batch + 1, 2 * batch]) { return x = %x }"
    )
    first, second = make_probes(graph, (), seed=1)
    assert {name: (array.dtype.name, array.shape) for name, array in first.items()} == {
        "x": ("float32", (2, 3)),
        "i": ("int64", (2,)),
        "m": ("bool", (2, 2)),
        "h": ("float16", (3, 4)),
    }
    assert second["h"].shape == (4, 6)
    assert set(first["i"]) <= {0, 1}
    again, _ = make_probes(graph, (), seed=1)
    assert all(np.array_equal(again[name], first[name]) for name in first)
    other, _ = make_probes(graph, (), seed=2)
    assert not np.array_equal(other["x"], first["x"])


def test_sizes_are_tried_until_the_model_runs(graph_of) -> None:
    """A pool of 8 by 8 takes no image that is smaller."""
    graph = graph_of(
        """(%x: float32[1, 1, height, height]) {
          %y: float32[1, 1, height - 7, height - 7] = MaxPool(%x) {kernel_shape = [8, 8]}
          return y = %y
        }"""
    )
    first, _ = make_probes(graph, ())
    assert first["x"].shape == (1, 1, 16, 16)


def test_images_are_tried_that_can_be_halved(graph_of) -> None:
    """A detector joins a map that was halved and doubled to the one before."""
    graph = graph_of(
        """(%x: float32[1, 1, height, width]) {
          const %scales: float32[4] = [1.0, 1.0, 4.0, 4.0]
          %a: float32[1, 1, height // 4, width // 4] = MaxPool(%x) {kernel_shape = [4, 4], strides = [4, 4]}
          %b: float32[1, 1, 4 * (height // 4), 4 * (width // 4)] = Resize(%a, none, %scales) {mode = "nearest"}
          %y: float32[1, 2, height, width] = Concat(%x, %b) {axis = 1}
          return y = %y
        }"""
    )
    assert [probe["x"].shape for probe in make_probes(graph, ())] == [(1, 1, 32, 32), (1, 1, 64, 64)]


def test_random_numbers_of_rows_reach_all_over_the_smallest_table(graph_of) -> None:
    graph = graph_of(
        """(%ids: int64[batch, words], %kinds: int64[batch, words]) {
          const %large: float32[900, 4]
          const %wide: float32[4, 500]
          const %two: float32[2, 4]
          %a: float32[batch, words, 4] = Gather(%large, %ids)
          %b: float32[4, batch, words] = Gather(%wide, %ids) {axis = -1}
          %c: float32[batch, words, 4] = Gather(%two, %kinds)
          return a = %a, b = %b, c = %c
        }""",
        {
            "large": np.ones((900, 4), np.float32),
            "wide": np.ones((4, 500), np.float32),
            "two": np.eye(2, 4, dtype=np.float32),
        },
    )
    first, _ = make_probes(graph, (), sizes=[((40, 40), (3, 3))])
    assert 400 < first["ids"].max() < 500
    assert len(np.unique(first["ids"])) > 300
    assert set(first["kinds"].flat) == {0, 1}


def test_a_single_sequence_is_tried_where_states_are_for_one(graph_of) -> None:
    """The standard has states for as many sequences as the layer reads."""
    weights = {"w": np.ones((1, 9, 2), np.float32), "r": np.ones((1, 9, 3), np.float32)}
    graph = graph_of(
        """(%x: float32[steps, batch, 2], %h: float32[1, 1, 3]) {
          const %w: float32[1, 9, 2]
          const %r: float32[1, 9, 3]
          %turned: float32[batch, steps, 2] = Transpose(%x) {perm = [1, 0, 2]}
          %y: float32[batch, 1, steps, 3] = GRU(%turned, %w, %r, none, none, %h) {hidden_size = 3}
          return y = %y
        }""",
        weights,
    )
    first, second = make_probes(graph, ())
    assert (first["x"].shape, second["x"].shape) == ((1, 64, 2), (1, 96, 2))


def test_a_model_that_runs_on_no_size_asks_for_data() -> None:
    """Inputs of sizes that don't fit together."""
    graph = Graph()
    a, b = (graph.add_input(name, TensorType(DType.float32, (dim,))) for name, dim in (("a", "n"), ("b", 5)))
    graph.outputs["y"] = graph.add_node("MatMul", [a, b], [TensorType(DType.float32, ())]).output
    with pytest.raises(ModelError, match=r"the model runs on no random input \(.*give calibration data to check it on"):
        make_probes(graph, ())


def test_dimensions_that_agree_at_other_sizes_alone_are_no_pass_s_fault() -> None:
    """Networks that add an image to a smaller one made larger do this: at sizes that don't divide, it is broadcast."""
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, (1, 1, "n")))
    pooled, smaller = (op.MaxPool(x, kernel_shape=[size], strides=[size], ceil_mode=1) for size in (4, 8))
    graph.outputs["y"] = op.Add(pooled, op.Concat(smaller, smaller, axis=2))
    check = NumericCheck(graph, [{"x": np.ones((1, 1, 3), np.float32)}])
    check.check(graph.clone(), EXACT)
    with pytest.raises(CheckError, match="declares itself exact"):
        check.check(after(graph, lambda op, y: op.Mul(y, 2.0)), EXACT)


# -- conditioning


def cancelling() -> tuple[Graph, dict[str, np.ndarray]]:
    """Sums of numbers around a million that are about 1: all that is left of them is rounding."""
    graph = Graph("net")
    x, w = (graph.add_input(name, TensorType(DType.float32, shape)) for name, shape in (("x", (4, 64)), ("w", (64,))))
    op = Builder(graph)
    graph.outputs["y"] = op.ReduceSum(op.Mul(x, w), np.array([1]), keepdims=0)
    random = np.random.default_rng(0)
    half = random.uniform(1e5, 1e6, (4, 32)).astype(np.float32)
    x_data = np.concatenate([half, -half + random.standard_normal((4, 32)).astype(np.float32)], axis=1)
    return graph, {"x": x_data, "w": np.ones(64, np.float32)}


def test_what_is_left_of_large_numbers_may_be_off_by_what_rounding_leaves_of_it() -> None:
    """Two layers of a language model may well do this to its logits."""
    graph, probe = cancelling()
    check = NumericCheck(graph, [probe])
    scale = float(np.abs(check.start.outputs[0]["y"]).max())
    other = after(graph, lambda op, y: op.Add(y, 5e-4 * scale))
    assert not is_close(*(run_graph(it, [probe])[0]["y"] for it in (graph, other)))
    check.check(other, ROUNDING)
    with pytest.raises(CheckError, match="differs by up to"):
        check.check(after(graph, lambda op, y: op.Add(y, 5e-3 * scale)), ROUNDING)


def test_who_asks_for_a_strict_tolerance_gets_it() -> None:
    graph, probe = cancelling()
    assert NumericCheck(graph, [probe]).start.slack(0, "y", Tolerance(rtol=0.0)) == 0.0


def test_a_sharp_output_has_next_to_no_slack(graph_of) -> None:
    graph = graph_of(IDENTITY)
    check = NumericCheck(graph, [{"x": np.ones((2, 4), np.float32)}])
    assert check.start.slack(0, "y", FLOATS) < 1e-5
    with pytest.raises(CheckError, match="differs by up to"):
        check.check(after(graph, lambda op, y: op.Add(y, 2e-3)), ROUNDING)
