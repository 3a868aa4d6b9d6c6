"""Tables of latencies: what was measured once is not measured again, in this model or another with the same layers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from planish.driver.latencies import LatencyTable, TableTiming, signatures
from planish.driver.measurement import Settled
from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.base import Profile


def convolutions(*channels: int) -> Graph:
    graph, random = Graph(), np.random.default_rng(0)
    op = Builder(graph)
    h = graph.add_input("x", TensorType(DType.float32, ("batch", 4, 8, 8)))
    for count in channels:
        width = h.type.shape[1]
        assert isinstance(width, int)
        h = op.Relu(op.Conv(h, random.standard_normal((count, width, 1, 1)).astype(np.float32)))
    graph.outputs["y"] = h
    return graph


class Machine:
    """Tells a second for each weight, times its speed at the moment, and counts what it is asked for."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed, self.timed = speed, 0

    def __call__(self, graphs: Sequence[Graph], *, wholes: bool = True, by_layer: bool = True) -> list[Profile]:
        self.timed += len(graphs)
        return [
            Profile(
                np.ones(7),
                {
                    node.location.module: self.speed * node.operand(1).type.static_shape[0]
                    for node in graph.nodes
                    if node.operator == "Conv"
                },
                {},
            )
            for graph in graphs
        ]


def seconds(timing: TableTiming, *graphs: Graph) -> list[list[float]]:
    return [
        [each[node.output.name] for node in it.nodes] for it, each in zip(graphs, timing.layers(graphs), strict=True)
    ]


def test_a_layer_is_measured_once(tmp_path: Path) -> None:
    machine, path = Machine(), tmp_path / "table.json"
    whole, half = convolutions(8, 4), convolutions(4, 4)

    first = seconds(TableTiming(machine, LatencyTable(lambda: path), {"batch": 1}), whole, half)
    asked = machine.timed
    again = seconds(TableTiming(machine, LatencyTable(lambda: path), {"batch": 1}), whole, half)

    assert first == again == [[8, 0, 4, 0], [4, 0, 4, 0]]
    assert machine.timed == asked
    seconds(TableTiming(machine, LatencyTable(lambda: path), {"batch": 2}), whole)
    assert machine.timed > asked  # other shapes


def test_new_rows_are_on_the_scale_of_the_old_ones(tmp_path: Path) -> None:
    path, whole = tmp_path / "table.json", convolutions(8, 4)
    seconds(TableTiming(Machine(), LatencyTable(lambda: path), {}), whole)

    slowed = TableTiming(Machine(speed=3.0), LatencyTable(lambda: path), {})

    assert seconds(slowed, whole, convolutions(6, 4))[1][0] == 6


@pytest.mark.parametrize(("spread", "rounds"), [(0.0, 7), (0.01, 7), (0.04, 25)])
def test_whole_graphs_are_timed_until_their_ratio_is_sure(spread: float, rounds: int) -> None:
    ratios = 2.0 + spread * np.resize([-1.0, 0.0, 1.0], 25)

    def machine(graphs: Sequence[Graph], *, settled: Settled, **_: object) -> list[Profile]:
        every = np.array([ratios, np.ones(25)])
        count = next((count for count in range(1, 25) if settled(every[:, :count])), 25)
        return [Profile(row, {}, {}) for row in every[:, :count]]

    graph = convolutions(2)
    before, after = TableTiming(machine, LatencyTable(lambda: None), {}).rounds([graph, graph])
    assert len(before) == len(after) == rounds


def test_a_broken_table_is_measured_anew(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text('{"half a')

    assert seconds(TableTiming(Machine(), LatencyTable(lambda: path), {}), convolutions(2)) == [[2, 0]]
    assert LatencyTable(lambda: path).rows


def test_products_of_widened_factors_have_rows_of_their_own() -> None:
    """Bias and activation behind a product run in its kernel, which depends on what the factors are stored as."""
    plain, widened = Graph(), Graph()
    weight = np.ones((4, 8), np.float32)
    for graph in (plain, widened):
        op = Builder(graph)
        x = graph.add_input("x", TensorType(DType.float32, (2, 4)))
        w = op.constant(weight.astype(DType.bfloat16.numpy) if graph is widened else weight)
        graph.outputs["y"] = op.Relu(op.MatMul(x, op.Cast(w, to=DType.float32) if graph is widened else w))
    rows = [list(signatures(graph, {}).values())[-2:] for graph in (plain, widened)]
    assert not set(rows[0]) & set(rows[1])
