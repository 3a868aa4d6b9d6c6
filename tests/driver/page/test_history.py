"""A graph's history says what the graph was after each step, and counts what `cost` counts."""

import numpy as np
import pytest

from planish.driver.api import optimize
from planish.driver.page.history import Change, History, decoded, encoded, final, fitted, size_of
from planish.driver.page.layers import layers
from planish.driver.page.nodes import Row
from planish.ir.analysis.cost import summarize
from planish.ir.graph import Graph
from planish.ir.text import parse_graph
from planish.passes.base import PassContext
from planish.passes.instrument import Instrument, PassRecord

NET = """
graph "net"(%x: float32[batch, 4]) {
  const %w: float32[4, 3] = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]
  const %b: float32[3] = [1, 1, 1]
  const %v: float32[3, 2] = [1, 2, 3, 4, 5, 6]
  %m: float32[batch, 3] = MatMul(%x, %w) @ "block.first" "net.py:1"
  %a: float32[batch, 3] = Add(%m, %b) @ "block.first" "net.py:1"
  %i: float32[batch, 3] = Identity(%a) @ "block.second" "net.py:2"
  %r: float32[batch, 3] = Relu(%i) @ "block.second" "net.py:2"
  %z: float32[batch, 2] = MatMul(%r, %v) @ "head" "net.py:3"
  return y = %z
}
"""


class Following(Instrument):
    """Keeps the history, and the costs that it has to agree with."""

    def __init__(self) -> None:
        self.history = History({"batch": 2})
        self.costs: list[tuple[int, ...]] = []
        self.number = 0

    def start(self, graph: Graph, context: PassContext) -> None:
        self.history.see(0, graph)
        self._hold(graph)

    def after(self, record: PassRecord, graph: Graph) -> None:
        self.number += 1
        self.history.see(self.number, graph)
        self._hold(graph)

    def _hold(self, graph: Graph) -> None:
        cost, rows = summarize(graph, {"batch": 2}), final(self.history.changes).values()
        inner = [row for row in rows if row.operator not in ("input", "output")]
        found = (len(inner), *(sum(getattr(row, it) for row in rows) for it in ("parameters", "bytes", "flops")))
        assert found == (cost.nodes, cost.parameters, cost.bytes, cost.flops)


def followed(pipeline: str) -> list[Change]:
    following = Following()
    data = [np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)]
    optimize(parse_graph(NET, {}), pipeline, data=data, instruments=[following])
    return following.history.changes


@pytest.fixture(scope="module")
def changes() -> list[Change]:
    return followed("cse,remove-identities,fuse-bias,cse,quantize{scheme=int8,skip=head}")


def test_a_step_is_recorded_where_it_changed_something(changes: list[Change]) -> None:
    assert [change.numbers for change in changes] == [(0,), (2,), (3,), (5,)]
    source, identities, *_ = changes
    assert list(source.made) == ["x", "output:y", "m", "a", "i", "r", "z"]
    assert identities.gone == ["i"]
    assert list(identities.made) == ["r"]
    assert identities.made["r"].inputs == ("a",)


def test_nodes_know_their_precision_and_their_zeros(changes: list[Change]) -> None:
    source, built = final(changes[:1]), final(changes)
    assert (source["m"].weights, source["m"].elements, source["m"].zeros) == ("float32", 12, 4)
    assert {row.precision for row in source.values()} == {"float32"}
    gemm = next(row for row in built.values() if row.operator == "Gemm" and row.module == "block.first")
    assert gemm.precision in ("int8", "uint8")
    assert built["z"].precision == "float32"
    (first,) = [it for it in layers(built.values()) if it.module == "block.first"]
    assert (first.weights, first.elements, first.zeros) == ("int8", 12, 4)


def test_weights_of_four_bits_are_seen_behind_their_conversions() -> None:
    built = final(followed("fuse-bias,quantize{weight_bits=4,skip=head}"))
    assert next(row for row in built.values() if row.operator == "Gemm").precision == "int4"


def test_plain_values_hold_all_of_it(changes: list[Change]) -> None:
    assert decoded(encoded(changes)) == changes
    resumed = History({"batch": 2})
    resumed.resume(encoded(changes[:2]))
    resumed.see(4, parse_graph(NET, {}))
    assert final(resumed.changes) == final(changes[:1])  # back to where it was


def test_steps_are_taken_together_until_they_fit(changes: list[Change]) -> None:
    whole = size_of(encoded(changes))
    assert fitted(changes, whole) == encoded(changes)
    shorter = fitted(changes, whole - 1)
    assert shorter is not None
    assert [step["numbers"] for step in shorter["steps"]] == [[0], [2], [3, 5]]
    assert final(decoded(shorter)) == final(changes)
    assert fitted(changes, 100) is None


def test_layers_are_taken_together_where_there_are_too_many() -> None:
    rows = [Row(f"n{at}", "Relu", f"net.{at % 9}.{at}", "", *[""] * 5, 0, 0, 1, 0, 0, ()) for at in range(2000)]
    found = layers(rows)
    assert [it.module for it in found] == [f"net.{at}" for at in range(9)]
    assert sum(it.flops for it in found) == 2000
