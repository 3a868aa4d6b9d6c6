"""Batch normalizations get the statistics of the data, where that brings the outputs back to the source's."""

import numpy as np
import pytest
import torch

from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.numerics import drift
from planish.ir.types import DType, TensorType
from planish.passes.base import Feeds, PassContext
from planish.passes.probes import run_graph
from planish.passes.training.reestimate_norms import NormReestimation
from planish.targets.load import load_target

RANDOM = np.random.default_rng(0)
DATA: list[Feeds] = [{"x": 2 * RANDOM.standard_normal((32, 3, 6, 6), np.float32) + 1} for _ in range(8)]
WEIGHTS = [RANDOM.standard_normal(shape, np.float32) / 4 for shape in ((8, 3, 3, 3), (8, 8, 3, 3))]
TARGET = load_target("x86-64")


def network() -> Graph:
    """A network whose norms have the statistics of its inputs, as torch's own layers find them."""
    graph, norms = Graph(), []
    op = Builder(graph)
    h = graph.add_input("x", TensorType(DType.float32, ("batch", 3, 6, 6)))
    tensors = [torch.from_numpy(feeds["x"]) for feeds in DATA]
    for place, weight in enumerate(WEIGHTS):
        norm = torch.nn.BatchNorm2d(8, momentum=None)  # the mean over batches
        tensors = [torch.relu(norm(torch.conv2d(it, torch.from_numpy(weight)))) for it in tensors]
        norms.append(norm)
        arrays = [np.ones(8, "f"), np.zeros(8, "f"), norm.running_mean.numpy(), norm.running_var.numpy()]
        held = [op.constant(array.copy(), f"{name}{place}") for array, name in zip(arrays, "sbmv", strict=True)]
        op.location = type(op.location)(f"norm{place}")
        h = op.Relu(op.BatchNormalization(op.Conv(h, op.constant(weight, f"w{place}")), *held))
    graph.outputs["y"] = h
    return graph


def error(source: Graph, graph: Graph) -> float:
    return drift(run_graph(source, DATA[-1:]), run_graph(graph, DATA[-1:]))


def test_statistics_come_back_after_weights_have_moved() -> None:
    source, graph = network(), network()
    graph.constants["w0"].data = 1.5 * WEIGHTS[0] + 0.05  # which statistics can make up for, but for what Relu does
    before = error(source, graph)

    result = NormReestimation().apply(graph, PassContext(TARGET, source, DATA))

    assert result.counts == {"norms": 2}
    assert error(source, graph) < 0.5 * before
    assert {name for name in graph.constants if graph.constants[name].data is not source.constants[name].data} >= {"m0"}
    for name in ("w1", "s0", "b1"):
        np.testing.assert_array_equal(graph.constants[name].data, source.constants[name].data)


def test_statistics_are_those_of_training() -> None:
    source, graph = network(), network()
    for name in ("m0", "v0", "m1", "v1"):
        graph.constants[name].data = graph.constants[name].data + 1
    NormReestimation().apply(graph, PassContext(TARGET, source, DATA))
    for name in ("m0", "v0", "m1", "v1"):
        np.testing.assert_allclose(graph.constants[name].data, source.constants[name].data, rtol=0.05, atol=0.1)


def test_what_is_no_better_is_undone_and_what_is_not_selected_stays() -> None:
    source, graph = network(), network()
    result = NormReestimation().apply(graph, PassContext(TARGET, source, DATA))
    assert not result.changed
    assert result.misses[0].startswith("new statistics are no better on held-out data: the loss is")
    assert error(source, graph) == 0

    graph.constants["m0"].data = graph.constants["m0"].data + 1
    moved = graph.constants["m0"].data
    assert NormReestimation(only=("nothing",)).apply(graph, PassContext(TARGET, source, DATA)).misses == [
        "there are no batch normalizations, or they are folded already"
    ]
    NormReestimation(skip=("norm0",)).apply(graph, PassContext(TARGET, source, DATA))
    assert graph.constants["m0"].data is moved
    with pytest.raises(UsageError, match="reestimate-norms takes statistics of inputs and got none"):
        NormReestimation().apply(graph, PassContext(TARGET, source))
