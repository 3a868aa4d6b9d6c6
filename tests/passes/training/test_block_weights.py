"""Weights of few bits are trained as what they are: codes and scales move, and stay in the form that they have."""

from typing import Any

import numpy as np
import pytest

import planish
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.verify import verify
from planish.passes.base import Feeds, PassContext
from planish.passes.distillation.distill import Distillation
from planish.passes.distillation.qat import QuantizationAwareTraining
from planish.passes.training.block_weights import unpack_blocks
from planish.targets.load import load_target

TARGET = load_target("x86-64-avx512-vnni")
NET = """(%x: float32[batch, 96]) {
  const %w: float32[96, 64]
  const %b: float32[64]
  const %v: float32[64, 40]
  %a: float32[batch, 64] = MatMul(%x, %w) @ "first"
  %c: float32[batch, 64] = Add(%a, %b)
  %r: float32[batch, 64] = Relu(%c)
  %y: float32[batch, 40] = MatMul(%r, %v) @ "second"
  return y = %y
}"""


@pytest.fixture(scope="module")
def data() -> list[Feeds]:
    """Channels that vary together: of others, rounding each weight to the nearest would be the best."""
    random = np.random.default_rng(0)
    mix = random.standard_normal((12, 96), np.float32) / 3
    return [{"x": random.standard_normal((32, 12), np.float32) @ mix} for _ in range(20)]


@pytest.fixture
def source(graph_of) -> Graph:
    random = np.random.default_rng(1)
    shapes = {"w": (96, 64), "b": (64,), "v": (64, 40)}
    return graph_of(NET, {name: random.standard_normal(it, np.float32) / 8 for name, it in shapes.items()})


def rounded(source: Graph, scheme: str, **options: Any) -> Graph:
    step = {"quantize": {"scheme": scheme, **options}}
    return planish.optimize(source, [step], target=TARGET, verify="structure").graph


def error(source: Graph, graph: Graph, data: list[Feeds]) -> float:
    return drift(*([Interpreter(it).run(feeds) for feeds in data[-1:]] for it in (source, graph)))


def changed(before: Graph, after: Graph) -> set[str]:
    return {name for name, it in after.constants.items() if not np.array_equal(it.data, before.constants[name].data)}


@pytest.mark.parametrize("scheme", ["int2", "int3", "int4"])
@pytest.mark.parametrize("block", [32, 0])
def test_unpacking_means_the_same_and_packs_to_the_same_bytes(
    source: Graph, data: list[Feeds], scheme: str, block: int
) -> None:
    """96 rows in blocks of 64 leave the last block half empty."""
    before = rounded(source, scheme, block=block)
    graph = before.clone()

    unpacked = unpack_blocks(graph, set())

    verify(graph)
    assert "com.microsoft::MatMulNBits" not in {node.operator for node in graph.nodes}
    assert error(before, graph, data) < 1e-6
    assert len(unpacked) == 2
    for one in unpacked:
        for name, array in one.packed(one.codes.data).items():
            np.testing.assert_array_equal(array, before.constants[name].data)


def test_codes_that_are_returned_stay(source: Graph) -> None:
    graph = rounded(source, "int3")
    graph.outputs["codes"] = graph.constants["w.codes"]

    (one,) = unpack_blocks(graph, set())

    verify(graph)
    assert [part.name for part in one.parts][:2] == ["v.codes", "v.scales"]


@pytest.mark.parametrize("scheme", ["int2", "int4"])
def test_codes_and_scales_learn(source: Graph, data: list[Feeds], scheme: str) -> None:
    before = rounded(source, scheme)
    student = before.clone()

    assert QuantizationAwareTraining(epochs=10).apply(student, PassContext(TARGET, source, data[:-1])).changed

    verify(student)
    assert [node.operator for node in student.nodes] == [node.operator for node in before.nodes]
    assert {"w.codes", "w.scales", "v.codes", "v.scales"} <= changed(before, student)
    assert error(source, student, data) < 0.9 * error(source, before, data)
    for backend in ("onnxruntime", "tvm"):
        (found,) = planish.compile(student, backend)(data[-1]["x"])
        assert drift([Interpreter(student).run(data[-1])], [{"y": found}]) < 2e-2, backend


def test_distillation_leaves_grids_and_what_is_not_selected(source: Graph, data: list[Feeds]) -> None:
    before = rounded(source, "int3")
    student = before.clone()

    step = Distillation(epochs=10, only=("second",))
    assert step.apply(student, PassContext(TARGET, source, data[:-1])).changed

    assert changed(before, student) == {"v.codes"}
