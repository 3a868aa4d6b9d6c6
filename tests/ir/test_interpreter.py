"""The interpreter computes what the operators mean, lets others watch, and names the layer that fails."""

import gc
import weakref

import numpy as np
import pytest
import torch

from planish.ir.errors import ModelError
from planish.ir.graph import Graph, Value
from planish.ir.interpreter import Interpreter, evaluate_constant
from planish.ir.text import parse_graph

TEXT = """\
graph "g"(%x: float32[batch, 4], %i: int64[1]) {
  const %w: float32[4] = [1.0, 2.0, 3.0, 4.0]
  const %k: int64[1] = [2]
  %y: float32[batch, 4] = Mul(%x, %w) @ "scale" "a.py:1"
  %top: float32[batch, 2], %at: int64[batch, 2] = TopK(%y, %k) @ "head"
  %first: float32[1, 2] = Gather(%top, %i) @ "head.pick"
  return top = %top, again = %top, at = %at, first = %first, w = %w, x = %x
}
"""
FEEDS = {"x": np.array([[1, 1, 1, 1], [4, 3, 2, 1]], np.float32), "i": np.array([1])}


@pytest.fixture
def graph() -> Graph:
    return parse_graph(TEXT)


def test_outputs_come_by_name_also_inputs_constants_and_what_is_returned_twice(graph: Graph) -> None:
    outputs = Interpreter(graph).run(FEEDS)
    assert list(outputs) == ["top", "again", "at", "first", "w", "x"]
    np.testing.assert_array_equal(outputs["top"], [[4, 3], [6, 6]])
    np.testing.assert_array_equal(outputs["again"], outputs["top"])
    np.testing.assert_array_equal(outputs["at"], [[3, 2], [1, 2]])
    np.testing.assert_array_equal(outputs["first"], [[6, 6]])
    np.testing.assert_array_equal(outputs["w"], graph.constants["w"].data)
    np.testing.assert_array_equal(outputs["x"], FEEDS["x"])
    assert outputs["at"].dtype == np.int64


def test_one_interpreter_runs_again_at_another_size(graph: Graph) -> None:
    interpreter = Interpreter(graph)
    first = interpreter.run(FEEDS)["top"]
    assert interpreter.run({"x": np.ones((5, 4), np.float32), "i": np.array([4])})["top"].shape == (5, 2)
    np.testing.assert_array_equal(interpreter.run(FEEDS)["top"], first)


def test_an_observer_sees_inputs_and_every_output_in_order(graph: Graph) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []
    Interpreter(graph).run(FEEDS, lambda value, tensor: seen.append((value.name, tuple(tensor.shape))))
    assert seen == [("x", (2, 4)), ("i", (1,)), ("y", (2, 4)), ("top", (2, 2)), ("at", (2, 2)), ("first", (1, 2))]


def test_a_tensor_is_let_go_after_its_last_use() -> None:
    graph = parse_graph(
        'graph "g"(%x: float32[n]) {\n%a: float32[n] = Exp(%x)\n%b: float32[n] = Neg(%a)\n%c: float32[n] = Abs(%b)\n'
        "return c = %c\n}"
    )
    tensors: dict[str, weakref.ref[torch.Tensor]] = {}
    alive_at: dict[str, bool] = {}

    def observe(value: Value, tensor: torch.Tensor) -> None:
        gc.collect()
        tensors[value.name] = weakref.ref(tensor)
        alive_at[value.name] = tensors["a"]() is not None if "a" in tensors else False

    Interpreter(graph).run({"x": np.ones(3, np.float32)}, observe)
    assert alive_at == {"x": False, "a": True, "b": True, "c": False}


def test_an_input_that_is_missing_is_named_with_its_type(graph: Graph) -> None:
    with pytest.raises(ModelError, match=r"^input 'x' \(float32\[batch, 4\]\) is missing$"):
        Interpreter(graph).run({"i": FEEDS["i"]})


def test_a_node_that_fails_is_named_with_its_layer(graph: Graph) -> None:
    with pytest.raises(ModelError, match=r"^scale at a.py:1: Mul\(%x, %w\) failed: The size of tensor a \(3\)"):
        Interpreter(graph).run(FEEDS | {"x": np.ones((2, 3), np.float32)})
    with pytest.raises(ModelError, match=r"^head.pick: Gather\(%top, %i\) failed: index 7 is out of bounds"):
        Interpreter(graph).run(FEEDS | {"i": np.array([7])})


def test_no_gradients_are_kept(graph: Graph) -> None:
    tracked: list[bool] = []
    Interpreter(graph).run(FEEDS, lambda value, tensor: tracked.append(tensor.requires_grad))
    assert not any(tracked)


def test_read_only_weights_and_inputs_are_left_alone() -> None:
    graph = parse_graph(
        'graph "g"(%x: float32[2]) {\nconst %w: float32[2] = [1.0, 2.0]\n%y: float32[2] = Add(%x, %w)\nreturn y = %y\n}'
    )
    graph.constants["w"].data.setflags(write=False)
    x = np.ones(2, np.float32)
    x.setflags(write=False)
    np.testing.assert_array_equal(Interpreter(graph).run({"x": x})["y"], [2, 3])
    np.testing.assert_array_equal(x, [1, 1])


def test_a_node_of_constants_is_evaluated_without_a_graph() -> None:
    graph = parse_graph(
        'graph "g"() {\nconst %a: int8[4] = [5, 1, 7, 3]\nconst %k: int64[1] = [2]\n'
        "%v: int8[2], %i: int64[2] = TopK(%a, %k)\nreturn v = %v, i = %i\n}"
    )
    values, indices = evaluate_constant(next(graph.nodes))
    assert values.dtype == np.int8
    assert (values.tolist(), indices.tolist()) == ([7, 5], [2, 0])


def test_a_loop_without_steps_returns_rows_of_the_size_that_they_would_have() -> None:
    graph = parse_graph("""\
graph "g"(%x: float32[n]) {
  const %k: int64[] = 0
  %l: float32[n], %y: float32[0, n] = Loop(%k, none, %x) {body = graph "b"(%i: int64[], %c: bool[], %s: float32[n]) {
    %more: bool[] = Identity(%c)
    %next: float32[n] = Add(%s, %s)
    %row: float32[n] = Relu(%s)
    return more = %more, next = %next, row = %row
  }}
  return rows = %y
}
""")
    assert Interpreter(graph).run({"x": np.ones(3, np.float32)})["rows"].shape == (0, 3)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("LpNormalization(%x) {p = 0}", "p is 1 or 2, not 0"),
        ("DFT(%x) {onesided = 1}", "half a spectrum is that of real numbers"),
    ],
)
def test_attributes_that_the_standard_excludes_are_refused(node: str, reason: str) -> None:
    graph = parse_graph(f"""\
graph "g"(%x: float32[1, 4, 2]) {{
  %y: float32[1, 4, 2] = {node}
  return y = %y
}}
""")
    with pytest.raises(ModelError, match=reason):
        Interpreter(graph).run({"x": np.ones((1, 4, 2), np.float32)})


def test_an_image_of_one_channel_is_summed_alike_whatever_made_it() -> None:
    """Strides of an axis of size 1 say nothing, but torch takes the other layout by them, and rounds differently."""
    graph = parse_graph(
        """graph "g"(%x: float32[4, 4], %w: float32[8, 1, 3, 3]) {
  const %sizes: int64[4] = [1, 4, 4, 1]
  const %same: int64[4] = [1, 1, 4, 4]
  %last: float32[1, 4, 4, 1] = Reshape(%x, %sizes)
  %turned: float32[1, 1, 4, 4] = Transpose(%last) {perm = [0, 3, 1, 2]}
  %first: float32[1, 1, 4, 4] = Reshape(%x, %same)
  %y: float32[1, 8, 4, 4] = Conv(%turned, %w) {pads = [1, 1, 1, 1]}
  %z: float32[1, 8, 4, 4] = Conv(%first, %w) {pads = [1, 1, 1, 1]}
  return y = %y, z = %z
}"""
    )
    rng = np.random.default_rng(0)
    feeds = {value.name: rng.standard_normal(value.shape, np.float32) for value in graph.inputs}
    found = Interpreter(graph).run(feeds)
    np.testing.assert_array_equal(found["y"], found["z"])
