"""Models that sort, select and round: a pass may turn a decision by rounding, and nothing else."""

from typing import Any

import numpy as np
import pytest

from planish import optimize
from planish.ir.builder import Builder
from planish.ir.errors import CheckError
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.base import Effect
from planish.passes.check import NumericCheck
from planish.passes.decisions import Record, decisions, replayed

SELECTED = """(%x: float32[6], %w: float32[6]) {
  const %k: int64[1] = [3]
  %s: float32[6] = Mul(%x, %w)
  %v: float32[3], %i: int64[3] = TopK(%s, %k)
  %y: float32[3] = Gather(%x, %i)
  return y = %y, i = %i
}"""
TIED = {"x": np.float32([1, 2, 3, 4, 5, 6]), "w": np.float32([1.0, 0.5, 1 / 3, 0.1, 0.1, 0.1])}
"""The three first products are 1, but for rounding."""

DETECTED = """(%boxes: float32[1, 4, 4], %scores: float32[1, 1, 4]) {
  const %most: int64[1] = [4]
  const %overlap: float32[1] = [0.5]
  const %least: float32[1] = [0.25]
  %kept: int64[nonmaxsuppression_scores__423df91458_0, 3] = NonMaxSuppression(%boxes, %scores, %most, %overlap, %least)
  return kept = %kept
}"""
ON_THE_EDGE = {
    "boxes": np.float32([[[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5], [6, 6, 7, 7]]]),
    "scores": np.float32([[[0.9, 0.25, 0.25, 0.1]]]),
}
"""Two scores are what a score has to exceed."""


def before(graph: Graph, name: str, change: Any) -> Graph:
    """A copy in which what the first node of an operator reads goes through something more."""
    copy = graph.clone()
    node = next(node for node in copy.nodes if node.operator == name)
    at = 1 if name == "NonMaxSuppression" else 0
    copy.set_input(node, at, change(Builder(copy, before=node), node.inputs[at]))
    return copy


def wobbled(op: Builder, value: Any) -> Any:
    """What another order of sums may do."""
    signs = np.resize(np.float32([1, -1, 1, 1]), value.type.static_shape)
    return op.Mul(value, (1 + np.float32(2e-7) * signs).astype(np.float32))


def raised(op: Builder, value: Any) -> Any:
    """A small mistake in every other number."""
    return op.Add(value, np.resize(np.float32([0, 0.02]), value.type.static_shape))


CASES = pytest.mark.parametrize(
    ("text", "probe", "name"),
    [(SELECTED, TIED, "TopK"), (DETECTED, ON_THE_EDGE, "NonMaxSuppression")],
    ids=["selected", "detected"],
)


@CASES
def test_rounding_may_turn_a_decision(graph_of, tested, text: str, probe: dict[str, Any], name: str) -> None:
    graph = graph_of(text)
    check = NumericCheck(graph, [probe])
    turned = before(graph, name, wobbled)
    (outputs, *_), (expected, *_) = check.run(turned, tested(Effect.ROUNDING)), check.start.outputs
    assert any(not np.array_equal(outputs[key], expected[key]) for key in expected)
    assert check.check(turned, tested(Effect.ROUNDING)) == pytest.approx(0, abs=1e-6)


@CASES
def test_a_mistake_before_a_decision_is_found(graph_of, tested, text: str, probe: dict[str, Any], name: str) -> None:
    graph = graph_of(text)
    with pytest.raises(CheckError, match="pass tested declares itself rounding, but output"):
        NumericCheck(graph, [probe]).check(before(graph, name, raised), tested(Effect.ROUNDING))


def test_what_is_decided_on_nan_tells_nothing(graph_of, tested) -> None:
    """Edge values leave a softmax nothing to look at, and the standard's Attention looks at nothing there."""
    graph = graph_of(
        """(%x: float32[1, 1, 3, 2], %seen: bool[1, 1, 3, 3]) {
          const %none: float32[] = -inf
          const %zero: float32[] = 0.0
          const %bias: float32[2] = [0, 1]
          %turned: float32[1, 1, 2, 3] = Transpose(%x) {perm = [0, 1, 3, 2]}
          %scores: float32[1, 1, 3, 3] = MatMul(%x, %turned)
          %mask: float32[1, 1, 3, 3] = Where(%seen, %zero, %none)
          %masked: float32[1, 1, 3, 3] = Add(%scores, %mask)
          %weights: float32[1, 1, 3, 3] = Softmax(%masked)
          %y: float32[1, 1, 3, 2] = MatMul(%weights, %x)
          %z: float32[1, 1, 3, 2] = Add(%y, %bias)
          %best: int64[1, 1, 3] = ArgMax(%z) {axis = 3, keepdims = 0}
          return best = %best
        }"""
    )
    probe = {"x": np.array([[[[-1, 2], [3, 1], [2, 3]]]], np.float32), "seen": np.ones((1, 1, 3, 3), np.bool_)}
    fused = optimize(graph, "fuse", verify="none").graph
    assert [node.operator for node in fused.nodes] == ["Where", "Attention", "Add", "ArgMax"]
    for seen in (True, False):
        check = NumericCheck(graph, [{**probe, "seen": np.full((1, 1, 3, 3), seen)}])
        assert check.check(fused, tested(Effect.ROUNDING)) == 0


def test_a_mistake_in_a_decision_is_found(graph_of, tested) -> None:
    graph = graph_of(SELECTED)
    wrong = graph.clone()
    node = next(node for node in wrong.nodes if node.operator == "TopK")
    node.attributes = {**node.attributes, "largest": 0}
    with pytest.raises(CheckError, match="output 'y' differs"):
        NumericCheck(graph, [TIED]).check(wrong, tested(Effect.ROUNDING))


def test_what_a_lossy_pass_moves_is_measured_with_the_same_decisions(graph_of, tested) -> None:
    graph = graph_of(DETECTED)
    check = NumericCheck(graph, [ON_THE_EDGE])
    lossy = before(graph, "NonMaxSuppression", lambda op, value: op.Mul(value, np.float32(1.05)))
    assert check.check(lossy, tested(Effect.LOSSY)) == 0.0


def test_which_nodes_decide(graph_of) -> None:
    graph = graph_of(
        """(%x: float32[2, 3]) {
          %shape: int64[2] = Shape(%x)
          %least: float32[2, 3] = Floor(%x)
          %first: int64[2, 1] = ArgMax(%x) {axis = 1}
          %sign: bool[2, 3] = Greater(%x, %least)
          %places: int64[2, nonzero_sign__13f3134ff2_1] = NonZero(%sign)
          return shape = %shape, first = %first, places = %places
        }"""
    )
    assert [node.operator for node in decisions(graph)] == ["Floor", "ArgMax", "Greater"]


@pytest.mark.parametrize("place", [0, 1, 4095])
def test_one_number_among_many_tells_decisions_apart(place: int) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, (4096,)))
    graph.outputs["y"] = Builder(graph).Greater(x, np.float32(0))
    numbers = np.ones(4096, np.float32)
    numbers[place] = 1e-7
    record = Record(graph, {"x": numbers})
    for moved, is_positive in ((-1e-7, True), (-0.5, False)):
        other = numbers.copy()
        other[place] = moved
        assert replayed(graph, {"x": other}, record)["y"][place] == is_positive
