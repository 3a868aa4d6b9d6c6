"""Which values are quantized: integers flow from kernel to kernel, and floats are read where nothing is gained."""

import numpy as np
import pytest

from planish.ir.graph import Graph, Node
from planish.ir.text import parse_graph
from planish.passes.base import PassContext
from planish.passes.quantization.layers import select_layers
from planish.passes.quantization.plan import Plan, make_plan
from planish.targets.load import load_target

OPERATORS = frozenset({"Add", "Conv", "Gemm", "MatMul", "MaxPool"})
WEIGHTS = {name: np.ones((4, 4, 1, 1), np.float32) for name in ("w", "v")}


def plan(body: str, output: str) -> tuple[Graph, Plan]:
    graph = parse_graph(
        f"""graph "main"(%x: float32[1, 4, 6, 6]) {{
          const %w: float32[4, 4, 1, 1]
          const %v: float32[4, 4, 1, 1]
          const %zero: float32[] = 0.0
          const %six: float32[] = 6.0
          const %one: float32[] = 1.0
          {body}
          return y = %{output}
        }}""",
        WEIGHTS,
    )
    return graph, make_plan(
        graph, select_layers(graph, OPERATORS, PassContext(load_target("x86-64"), graph)).layers, OPERATORS
    )


def names(found: Plan) -> list[str]:
    return [value.name for value in found.reads]


def outputs(nodes: "list[Node]") -> list[str]:
    return [node.output.name for node in nodes]


SHAPE = "float32[1, 4, 6, 6]"


def test_the_end_of_a_grid_stands_for_relu():
    _, found = plan(f"%a: {SHAPE} = Conv(%x, %w)\n%b: {SHAPE} = Relu(%a)\n%c: {SHAPE} = Conv(%b, %v)", "c")
    assert names(found) == ["x", "b", "c"]
    assert outputs(found.folded_activations) == ["b"]


@pytest.mark.parametrize(("low", "folded_activations"), [("zero", ["b"]), ("one", [])])
def test_the_ends_of_a_grid_stand_for_a_clip_that_holds_zero(low, folded_activations):
    clip = f"%b: {SHAPE} = Clip(%a, %{low}, %six)"
    _, found = plan(f"%a: {SHAPE} = Conv(%x, %w)\n{clip}\n%c: {SHAPE} = Conv(%b, %v)", "c")
    assert outputs(found.folded_activations) == folded_activations


def test_a_relu_that_others_share_the_input_of_stays():
    body = f"%a: {SHAPE} = Conv(%x, %w)\n%b: {SHAPE} = Relu(%a)\n%c: {SHAPE} = Conv(%a, %v)\n%d: {SHAPE} = Sub(%b, %c)"
    _, found = plan(body, "d")
    assert not found.folded_activations


def test_a_sum_between_convolutions_is_carried_in_integers():
    body = (
        f"%a: {SHAPE} = Conv(%x, %w)\n%b: {SHAPE} = Conv(%a, %v)\n%s: {SHAPE} = Add(%a, %b)\n%c: {SHAPE} = Conv(%s, %v)"
    )
    _, found = plan(body, "c")
    assert outputs(list(found.carriers)) == ["s"]


def test_a_sum_with_a_float_is_not_carried():
    body = f"%a: {SHAPE} = Conv(%x, %w)\n%s: {SHAPE} = Add(%a, %x)\n%c: {SHAPE} = Conv(%s, %v)"
    _, found = plan(body, "c")
    assert not found.carriers


def test_a_sum_that_only_floats_read_is_not_carried():
    body = f"%a: {SHAPE} = Conv(%x, %w)\n%b: {SHAPE} = Conv(%a, %v)\n%s: {SHAPE} = Add(%a, %b)\n%e: {SHAPE} = Erf(%s)"
    _, found = plan(body, "e")
    assert not found.carriers


def test_a_pool_shares_the_grid_of_its_input():
    pool = "%p: float32[1, 4, 5, 5] = MaxPool(%a) {kernel_shape = [2, 2]}"
    graph, found = plan(f"%a: {SHAPE} = Conv(%x, %w)\n{pool}\n%c: float32[1, 4, 5, 5] = Conv(%p, %v)", "c")
    values = {value.name: value for value in graph.values()}
    assert found.root(values["p"]) is values["a"]


def test_a_grid_ends_where_hard_swish_is_zero():
    body = f"%a: {SHAPE} = Conv(%x, %w)\n%h: {SHAPE} = HardSwish(%a)\n%c: {SHAPE} = Conv(%h, %v)"
    graph, found = plan(body, "c")
    values = {value.name: value for value in graph.values()}
    assert found.bounds[values["a"]] == (-3.0, np.inf)
    assert found.bounds[values["h"]] == (-np.inf, np.inf)


def test_what_the_graph_returns_is_not_bounded():
    graph, found = plan(f"%a: {SHAPE} = Conv(%x, %w)\n%h: {SHAPE} = HardSwish(%a)\n%c: {SHAPE} = Conv(%h, %v)", "a")
    assert found.bounds[graph.outputs["y"]] == (-np.inf, np.inf)
