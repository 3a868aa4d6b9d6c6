"""Pruning to a speed-up, by tables of latencies: what layers take, and what a whole model does."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from planish.ir.errors import BudgetError, UsageError
from planish.ir.graph import Graph, Node
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.pruning.latency import widths
from planish.passes.pruning.prune_channels import ChannelPruning
from planish.targets.load import load_target

VECTOR = 16
"""Floats of a vector of the machine whose latencies the table holds."""


class Table:
    """A machine on which each convolution takes what a table says, and a whole model something more."""

    def __init__(
        self, seconds: Callable[[Node], float], whole: Callable[[float], float] = lambda layers: layers
    ) -> None:
        self._seconds, self._whole = seconds, whole

    def layers(self, graphs: Iterable[Graph]) -> list[Mapping[str, float]]:
        return [{node.outputs[0].name: self._of(node) for node in graph.nodes} for graph in graphs]

    def rounds(self, graphs: Sequence[Graph]) -> list[np.ndarray]:
        return [np.full(7, self._whole(sum(map(self._of, graph.nodes)))) for graph in graphs]

    def _of(self, node: Node) -> float:
        return self._seconds(node) if node.operator == "Conv" else 0.0


def in_vectors(node: Node) -> float:
    """Time by whole vectors of outputs: 17 channels take as long as 32."""
    outputs, inputs, *_ = node.operand(1).type.static_shape
    return 1e-6 * -(-outputs // VECTOR) * inputs


def network(net: Any, widths: Sequence[int] = (64, 128, 64)) -> Graph:
    x = net.x
    for number, width in enumerate(widths):
        x = net.op.Relu(net.conv(x, f"layer{number}", width, 3))
    return net.classify(x)


def prune(graph: Graph, table: Table | None, **options: Any) -> PassResult:
    result = ChannelPruning(**options).apply(graph, PassContext(load_target("x86-64"), graph.clone(), timing=table))
    verify(graph)
    return result


def left(graph: Graph) -> list[int]:
    return [node.operand(1).type.static_shape[0] for node in graph.nodes if node.operator == "Conv"]


@pytest.mark.parametrize("wanted", [1.5, 2.0, 3.0])
def test_the_model_becomes_as_fast_as_was_asked_for(wanted: float, new_net: Any) -> None:
    graph = network(new_net())
    table = Table(in_vectors)
    before = table.rounds([graph])[0][0]

    result = prune(graph, table, speedup=wanted)

    assert before / table.rounds([graph])[0][0] == pytest.approx(wanted, rel=0.05)
    assert "times as fast as before" in result.notes[0]


def stream(net: Any, width: int = 96, inner: int = 96, blocks: int = 10) -> Graph:
    """Blocks that all add to the same channels: these are the cheapest to give, and come in wide steps."""
    x = net.conv(net.x, "stream", width, 1)
    for number in range(blocks):
        x = net.op.Add(x, net.conv(net.op.Relu(net.conv(x, f"in{number}", inner, 1)), f"out{number}", width, 1))
    return net.classify(x)


@pytest.mark.parametrize("wanted", [1.2, 1.3, 1.5, 1.75, 2.0, 3.0])
def test_what_the_widest_steps_leave_open_other_groups_fill(wanted: float, new_net: Any) -> None:
    """A step of the stream's 96 channels takes a third of the time; there are more groups than pairs are tried of."""
    graph = stream(new_net())

    def seconds(node: Node) -> float:
        outputs, inputs, *_ = node.operand(1).type.static_shape
        return float(outputs * -(-inputs // 32) + inputs * -(-outputs // 32))

    before = Table(seconds).rounds([graph])[0][0]

    prune(graph, Table(seconds), speedup=wanted)

    assert before / Table(seconds).rounds([graph])[0][0] == pytest.approx(wanted, rel=0.05)


def test_no_channels_are_lost_that_save_no_time(new_net: Any) -> None:
    """Widths are multiples of eight by default; those between whole vectors take as long as the next one."""
    graph = network(new_net())

    prune(graph, Table(in_vectors), speedup=2.0)

    assert left(graph) < [64, 128, 64]
    assert all(width % VECTOR == 0 for width in left(graph)[:-1])


def test_what_layers_predict_is_corrected_by_the_whole_model(new_net: Any) -> None:
    """A quarter of the time belongs to nothing that is pruned."""
    graph = network(new_net())
    table = Table(in_vectors, lambda layers: layers + 0.25 * Table(in_vectors).rounds([whole])[0][0])
    whole = graph.clone()

    result = prune(graph, table, speedup=2.0)

    assert table.rounds([whole])[0][0] / table.rounds([graph])[0][0] == pytest.approx(2.0, rel=0.05)
    assert "had predicted" in result.notes[0]


def test_what_is_found_is_measured_anew(new_net: Any) -> None:
    """Each graph seems faster than it is when it is first timed, and a little off later on."""
    graph, seen = network(new_net()), list[list[int]]()

    class Lucky(Table):
        def rounds(self, graphs: Sequence[Graph]) -> list[np.ndarray]:
            before, after = super().rounds(graphs)
            seen.append(left(graphs[1]))
            return [before, after / {1: 1.06, 3: 1.01, 4: 0.99}.get(seen.count(seen[-1]), 1.0)]

    table = Lucky(lambda node: float(np.prod(node.operand(1).type.static_shape[:2])))
    before = table.rounds([graph, graph])[0][0]

    result = prune(graph, table, speedup=2.0)

    assert seen.count(left(graph)) > 1
    true = before / table.rounds([graph, graph])[0][0]
    spread = f"({0.99 * true:.2f} to {1.01 * true:.2f})"
    assert result.notes[0].startswith(f"the model is {true:.2f} times as fast as before {spread}")
    assert true == pytest.approx(2.0, rel=0.05)


def test_a_speedup_out_of_reach_is_refused_with_the_one_in_reach(new_net: Any) -> None:
    graph = network(new_net())
    table = Table(in_vectors, lambda layers: layers + 0.5 * Table(in_vectors).rounds([whole])[0][0])
    whole = graph.clone()

    with pytest.raises(BudgetError, match=r"speedup=4 can't be reached: .* the model is 2\.\d\d times as fast"):
        prune(graph, table, speedup=4.0)

    assert left(graph) == left(whole)


def test_a_speedup_between_two_widths_is_refused_with_the_nearest_one(new_net: Any) -> None:
    graph = network(new_net(), (32, 16))

    with pytest.raises(BudgetError, match="the nearest of"):
        prune(graph, Table(lambda node: float(node.operand(1).type.static_shape[0] > 8)), speedup=1.4, only=("layer0",))


def test_it_takes_a_backend_to_measure_on(new_net: Any) -> None:
    with pytest.raises(UsageError, match="measures the model on the backend"):
        prune(network(new_net()), None, speedup=2.0)
    with pytest.raises(UsageError, match="would be no faster"):
        prune(network(new_net()), Table(in_vectors), speedup=0.9)


@pytest.mark.parametrize(
    ("size", "step", "gone"),
    [(32, 8, [8, 16, 24]), (12, 1, list(range(1, 12))), (1536, 8, list(range(128, 1536, 128))), (20, 8, [4, 12])],
)
def test_few_widths_are_measured_of_wide_groups(size: int, step: int, gone: list[int]) -> None:
    assert widths(size, step) == gone
