"""Block pruning: which branches go, how many, what makes up for them, and what is said of the rest."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planish
from planish.ir.analysis.residuals import residual_branches
from planish.ir.errors import BudgetError, UsageError
from planish.ir.graph import Graph, Value
from planish.ir.interpreter import Interpreter
from planish.ir.text import parse_graph, print_graph
from planish.ir.verify import verify
from planish.passes.base import Feeds, PassContext, PassResult
from planish.passes.judge import Judge, divided
from planish.passes.pruning.block_importance import Importance
from planish.passes.pruning.branches import Shortened
from planish.passes.pruning.prune_blocks import BlockPruning
from planish.targets.load import load_target


def images(count: int, seed: int = 0) -> list[Feeds]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((4, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


DATA = images(20)


def prune(graph: Graph, data: Sequence[Feeds] = DATA, timing: Any = None, **options: Any) -> PassResult:
    context = PassContext(load_target("x86-64"), graph.clone(), data, timing=timing)
    result = BlockPruning(**options).apply(graph, context)
    verify(graph)
    return result


def residual(net: Any, x: Value, name: str, size: float = 1.0) -> Value:
    """A block of two convolutions, whose last weight is multiplied by a number."""
    h = net.op.Relu(net.conv(x, f"{name}.first", 6, 3))
    out = net.conv(h, f"{name}.second", 4)
    for constant in out.producer.inputs[1:]:
        constant.data = (constant.data * size).astype(np.float32)
    return net.op.Add(x, out)


def three_blocks(net: Any, sizes: Sequence[float] = (0.3, 0.001, 0.3)) -> Graph:
    x = net.conv(net.x, "stem", 4, 3)
    for number, size in enumerate(sizes):
        x = net.op.Relu(residual(net, x, f"block{number}", size))
    return net.classify(x)


def left(graph: Graph) -> list[str]:
    """The blocks that are left."""
    return [it.layers[0].location.module.partition(".")[0] for it in residual_branches(graph)]


BEFORE = """\
graph "g"(%x: float32[batch, 2]) {
  const %w: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
  const %scale: float32[2] = [1.0, 2.0]
  const %v: float32[2, 2] = [0.5, 0.25, 0.125, 2.0]
  %h: float32[batch, 2] = Relu(%x) @ "stem"
  %a: float32[batch, 2] = MatMul(%h, %w) @ "attention"
  %b: float32[batch, 2] = Tanh(%a) @ "attention"
  %c: float32[batch, 2] = Add(%b, %h) @ "attention"
  %d: float32[batch, 2] = RMSNormalization(%c, %scale) {axis = -1} @ "norm"
  %e: float32[batch, 2] = MatMul(%d, %v) @ "head"
  %y: float32[batch, 2] = Add(%d, %e) @ "head"
  return y = %y
}
"""
AFTER = """\
graph "g"(%x: float32[batch, 2]) {
  const %scale: float32[2] = [1.0, 2.0]
  const %v: float32[2, 2] = [0.5, 0.25, 0.125, 2.0]
  %h: float32[batch, 2] = Relu(%x) @ "stem"
  %d: float32[batch, 2] = RMSNormalization(%h, %scale) {axis = -1} @ "norm"
  %e: float32[batch, 2] = MatMul(%d, %v) @ "head"
  %y: float32[batch, 2] = Add(%d, %e) @ "head"
  return y = %y
}
"""


def test_the_sum_gives_way_to_what_it_started_from_and_the_norm_behind_stays() -> None:
    graph = parse_graph(BEFORE)
    data = [{"x": np.random.default_rng(seed).standard_normal((3, 2)).astype(np.float32)} for seed in range(4)]

    result = prune(graph, data, blocks=1, only=("attention",), repair=False)

    assert print_graph(graph) == print_graph(parse_graph(AFTER))
    assert result.counts == {"blocks": 1, "fits": 0}


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_graph_without_branches_computes_what_it_does_if_they_add_nothing(
    new_net: Any, data: st.DataObject
) -> None:
    net = new_net(data.draw(st.integers(0, 99)))
    graph = net.classify(any_blocks(net, net.conv(net.x, "stem", 4), data.draw, 2))
    branches = residual_branches(graph)
    may_go = [number for number, branch in enumerate(branches) if branch.frozen is None]
    gone = data.draw(st.lists(st.sampled_from(may_go), unique=True)) if may_go else []
    nothing = {branches[number].added for number in gone}

    shorter = Shortened.of(graph, branches).without(gone, PassContext(load_target("x86-64"), graph)).finished()

    verify(shorter)
    wanted = Interpreter(graph).run(DATA[0], lambda value, it: it * 0 if value in nothing else None)["y"]
    assert np.allclose(Interpreter(shorter).run(DATA[0])["y"], wanted, rtol=1e-4, atol=1e-4)
    outputs = {output.name for branch in (branches[number] for number in gone) for output in branch.nodes[-1].outputs}
    assert outputs.isdisjoint(value.name for value in shorter.values())


def any_blocks(net: Any, x: Value, draw: Callable[..., Any], depth: int) -> Value:
    """Blocks in a row, some with others inside, some with norms before or behind, some read by others too."""
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["plain", "before", "behind", "inside", "read", "sum"]))
        name = f"layer{len(net.graph)}"
        h = net.conv(net.norm(x) if kind == "before" else x, name, 4)
        inner = any_blocks(net, h, draw, depth - 1) if kind == "inside" and depth else net.op.Relu(h)
        summed = net.op.Add(*draw(st.permutations([x, net.conv(inner, f"{name}.last", 4)])))
        if kind == "read":
            summed = net.op.Mul(summed, net.op.Sigmoid(h))
        elif kind == "sum":
            summed = net.op.Add(net.op.Relu(summed), x)
        x = net.op.Relu(net.norm(summed)) if kind == "behind" else summed
    return x


def test_by_default_what_changes_little_goes_and_outputs_stay_within_bounds(new_net: Any) -> None:
    graph = three_blocks(new_net())
    whole = graph.clone()

    result = prune(graph, DATA, max_drop=0.5)

    assert "block1" not in left(graph)
    assert result.counts["blocks"] == 3 - len(left(graph)) > 0
    context = PassContext(load_target("x86-64"), whole, DATA)
    assert Judge(whole, divided(context)[1]).judge(graph).drop <= 0.5


def test_where_all_blocks_matter_it_is_an_error_that_says_what_would_be_lost(new_net: Any) -> None:
    graph = three_blocks(new_net(), (1.0, 1.0, 1.0))
    with pytest.raises(
        UsageError, match=r"(?s)changed nothing.*without the blocks of .* loses .* than max_drop=0\.001"
    ):
        planish.optimize(graph, "prune-blocks{max_drop=0.001}", data=DATA)


def test_layers_behind_make_up_for_a_branch(new_net: Any) -> None:
    """A branch that is linear can go without a loss: the layer behind takes it over, for the sum that lacks it, too."""
    net = new_net()
    x = net.conv(net.x, "stem", 4)
    x = net.op.Add(x, net.conv(x, "linear", 4))
    graph = net.classify(net.op.Add(x, net.conv(x, "behind", 4)))
    whole, plain = graph.clone(), graph.clone()
    weights = {name: it.data for name, it in whole.constants.items()}

    result = prune(graph, blocks=1, only=("linear", "behind"), skip=("head",))
    prune(plain, blocks=1, only=("linear",), repair=False)

    judge = Judge(whole, images(4, seed=1))
    assert result.counts["fits"] > 0
    assert judge.judge(graph).loss < 1e-3 * judge.judge(plain).loss
    assert all(np.array_equal(weights[name], it.data) for name, it in graph.constants.items() if "head" in name)


@pytest.mark.parametrize(
    ("options", "gone"),
    [({"blocks": 1}, 1), ({"blocks": 2}, 2), ({"blocks": 9}, 3), ({"ratio": 0.6}, 2), ({"flops": 0.3}, 2)],
)
def test_as_many_go_as_are_asked_for(options: dict[str, Any], gone: int, new_net: Any) -> None:
    graph = three_blocks(new_net())
    assert prune(graph, DATA[:4], repair=False, **options).counts["blocks"] == gone
    assert len(left(graph)) == 3 - gone


def test_more_operations_than_there_are_to_save_are_told(new_net: Any) -> None:
    result = prune(three_blocks(new_net()), DATA[:4], repair=False, flops=0.99)
    assert result.counts["blocks"] == 3
    assert any("of the operations can be removed" in note for note in result.notes)


def test_a_ratio_that_rounds_to_nothing_is_told(new_net: Any) -> None:
    result = prune(three_blocks(new_net()), DATA[:4], ratio=0.1)
    assert not result.changed
    assert result.misses == ["ratio=0.1 of 3 blocks is none: give a larger ratio"]


def test_only_and_skip_choose_by_the_layers_of_a_branch(new_net: Any) -> None:
    graph = three_blocks(new_net())
    prune(graph, DATA[:4], blocks=3, repair=False, skip=("block1.second", "block2.*"))
    assert left(graph) == ["block1", "block2"]


def test_obstacles_are_among_the_misses(new_net: Any) -> None:
    net = new_net()
    x = net.conv(net.x, "stem", 4)
    h = net.conv(x, "gate", 4)
    graph = net.classify(net.op.Mul(net.op.Add(x, h), net.op.Sigmoid(h)))
    (miss,) = prune(graph, DATA[:4]).misses
    assert miss.startswith("gate: the block stays, because Sigmoid in gate reads %conv")


def test_the_last_ones_go_if_that_loses_less(new_net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Importance, "least", lambda self, now: now.left[0])
    graph = three_blocks(new_net(), (0.3, 0.3, 0.001))
    prune(graph, blocks=1)
    assert left(graph) == ["block0", "block1"]


def test_fitted_layers_stay_as_they_are_if_that_loses_less(new_net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(source: Graph, graph: Graph, *rest: Any, **options: Any) -> list[str]:
        graph.constants["head"].data = -graph.constants["head"].data
        return ["head"]

    monkeypatch.setattr("planish.passes.pruning.branches.repair", spoil)
    graph = three_blocks(new_net())
    head = graph.constants["head"].data

    result = prune(graph, blocks=1)

    assert np.array_equal(graph.constants["head"].data, head)
    assert result.counts["fits"] == 0
    assert "layers stay as they are, since it loses more with them fitted" in result.notes[-1]


class Clock:
    """A machine on which only convolutions take time."""

    def layers(self, graphs: Iterable[Graph]) -> list[Mapping[str, float]]:
        return [{node.outputs[0].name: float(node.operator == "Conv") for node in graph.nodes} for graph in graphs]

    def rounds(self, graphs: Sequence[Graph]) -> list[np.ndarray]:
        return [np.full(3, sum(table.values())) for table in self.layers(graphs)]


def test_branches_go_until_the_model_is_measured_to_be_fast_enough(new_net: Any) -> None:
    graph = three_blocks(new_net())
    result = prune(graph, DATA[:4], Clock(), speedup=2, repair=False)  # of 7 convolutions 3 are left
    assert result.counts["blocks"] == 2
    assert "the model is 2.33 times as fast as before" in result.notes
    with pytest.raises(BudgetError, match="speedup=9 can't be reached: .* 7.00 times as fast"):
        prune(three_blocks(new_net()), DATA[:4], Clock(), speedup=9, repair=False)


@pytest.mark.parametrize(
    ("data", "options", "said"),
    [
        ((), {}, "needs calibration data"),
        (DATA, {"speedup": 2}, "measures the model"),
        (DATA, {"speedup": 1}, "faster"),
    ],
)
def test_what_it_needs_is_told(data: Sequence[Feeds], options: dict[str, Any], said: str, new_net: Any) -> None:
    with pytest.raises(UsageError, match=said):
        prune(three_blocks(new_net()), data, **options)


@pytest.mark.parametrize(
    "steps", ["prune-blocks{blocks=1},prune-channels{ratio=0.5}", "fuse,factorize{ratio=0.3},prune-blocks{blocks=1}"]
)
def test_it_goes_with_other_passes(steps: str, new_net: Any) -> None:
    graph = planish.optimize(three_blocks(new_net()), f"cleanup,{steps}", data=DATA).graph
    assert len(left(graph)) == 2
    quantized = planish.optimize(graph, "quantize", data=DATA).graph
    assert "QuantizeLinear" in {node.operator for node in quantized.nodes}
