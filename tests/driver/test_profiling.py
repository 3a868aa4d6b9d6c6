"""Times of operators in place: each counts for the module that its node is from, whatever the runtime fuses."""

import numpy as np
import pytest

from planish.backends import find_backend
from planish.backends.legal import legalized
from planish.driver.profiling import GraphProfiler
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location
from planish.ir.types import DType, TensorType
from planish.passes.base import PassContext
from planish.passes.profit import named
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

TARGET = load_target("x86-64-avx512-vnni")


def convolutions() -> Graph:
    random = np.random.default_rng(0)
    graph = Graph()
    op = Builder(graph)
    h = graph.add_input("x", TensorType(DType.float32, (1, 16, 32, 32)))
    for name in ("first", "second"):
        op.location = Location(name)
        h = op.Relu(op.Conv(h, random.standard_normal((16, 16, 3, 3)).astype(np.float32), pads=(1, 1, 1, 1)))
    op.location = Location("gate")
    graph.outputs["y"] = op.Mul(h, op.Sigmoid(h))
    return graph


@pytest.mark.wide
def test_operators_count_for_their_modules():
    graph = convolutions()
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 16, 32, 32)).astype(np.float32)}
    quantized = graph.clone()
    Quantize().apply(quantized, PassContext(TARGET, graph, [feeds]))
    time = GraphProfiler(find_backend("onnxruntime"), TARGET, feeds)
    in_float, in_int8 = time([graph, quantized])
    for profile in (in_float, in_int8):
        assert {"first", "second", "gate"} <= {name for name, seconds in profile.modules.items() if seconds > 0}
        assert profile.modules.get("", 0.0) < 0.5 * sum(profile.modules.values())
        assert profile.seconds > 0
    assert not sum(in_float.conversions.values())
    assert 0 < sum(in_int8.conversions.values()) < sum(in_int8.modules.values())
    (as_a_whole,) = time([graph], by_layer=False)
    assert as_a_whole.seconds > 0
    assert not as_a_whole.modules
    (in_parts,) = time([graph], wholes=False)
    assert in_parts.modules
    assert not in_parts.rounds.size


@pytest.mark.parametrize("channels", [16, 13])
def test_what_is_fused_counts_for_the_convolution_in_every_layout(channels: int):
    """Channels that fill no blocks take another kernel, which ONNX Runtime names otherwise."""
    graph = Graph()
    op = Builder(graph)
    h = graph.add_input("x", TensorType(DType.float32, (1, channels, 8, 8)))
    weight = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    for _ in range(2):
        h = op.Relu(op.Conv(h, weight, pads=(1, 1, 1, 1)))
    graph.outputs["y"] = op.Flatten(h)
    runtime, feeds = find_backend("onnxruntime"), {"x": np.ones((1, channels, 8, 8), np.float32)}

    (found,) = runtime.node_times([legalized(named(graph), TARGET, runtime)], TARGET, feeds)

    taken = {node.operator for node in graph.nodes if found.modules[node.output.name] > 0}
    assert taken <= {"Conv", "Flatten"}
    assert "Conv" in taken


def test_kernels_of_tvm_count_for_the_nodes_that_they_are_for():
    """Equal kernels are one in the library, and still told apart."""
    graph = named(convolutions())
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 16, 32, 32)).astype(np.float32)}
    native = load_target("native")
    (found,) = find_backend("tvm").node_times([legalized(graph, native, "tvm")], native, feeds)
    taken = {name for name, seconds in found.modules.items() if seconds > 0}
    relu, gated = (next(node.output for node in graph.nodes if node.operator == it) for it in ("Relu", "Mul"))
    assert taken == {relu.name, gated.name}  # the last of what is fused behind each convolution
    assert not found.modules.get("")
    assert not found.conversions
