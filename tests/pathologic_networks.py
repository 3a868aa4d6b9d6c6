"""Networks with layers that int8 can't hold, and a machine that takes as long as it says."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location, Node
from planish.ir.types import DType, TensorType
from planish.passes.base import Feeds, PassContext, Profile, Profiler
from planish.targets.load import load_target

TARGET = load_target("x86-64-avx512-vnni")
DEPTH, CHANNELS, SIZE = 5, 16, 8


def network(pathologic: int | None = None, *, classes: bool = True) -> Graph:
    """Convolutions with rectifiers, and a linear layer at the end.

    Args:
        pathologic: the convolution with large weights that cancel, since two channels that it reads are the same:
            beside them, a grid of 255 steps has none for the others.
        classes: whether the output is of two dimensions.
    """
    random = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    graph = Graph()
    op = Builder(graph)
    h = graph.add_input("x", TensorType(DType.float32, ("batch", 3, SIZE, SIZE)))
    for place in range(DEPTH):
        op.location = Location(f"body.{place}")
        weight = array(CHANNELS, h.shape[1], 3, 3)
        if pathologic == place + 1:
            weight[1] = weight[0]
        if pathologic == place:
            weight[:, 0, 1, 1], weight[:, 1, 1, 1] = 300, -300
        h = op.Relu(op.Conv(h, weight, np.zeros(CHANNELS, np.float32), pads=(1, 1, 1, 1)))
    op.location = Location("head")
    if classes:
        graph.outputs["y"] = op.Gemm(op.Flatten(h), array(10, CHANNELS * SIZE**2), np.zeros(10, np.float32), transB=1)
    else:
        graph.outputs["y"] = op.Conv(h, array(8, CHANNELS, 1, 1), np.zeros(8, np.float32))
    return graph


def batches(count: int = 8, size: int = 16) -> list[Feeds]:
    random = np.random.default_rng(1)
    return [{"x": random.standard_normal((size, 3, SIZE, SIZE)).astype(np.float32)} for _ in range(count)]


def by_the_book(
    graphs: Sequence[Graph], *, in_float: float = 0.010, in_int8: float = 0.004, **asked: Any
) -> list[Profile]:
    """Take so many seconds for a layer, and 0.1 ms for a conversion."""
    return [_profile(graph, in_float, in_int8) for graph in graphs]


def context(graph: Graph, profile: Profiler = by_the_book) -> PassContext:
    return PassContext(TARGET, graph, batches(), profile=profile)


def _profile(graph: Graph, *of_layers: float) -> Profile:
    modules: dict[str, float] = {}
    conversions: dict[str, float] = {}
    for node in graph.nodes:
        module, seconds = node.location.module, _seconds(node, *of_layers)
        modules[module] = modules.get(module, 0.0) + seconds
        if "quantize" in node.operator.lower():
            conversions[module] = conversions.get(module, 0.0) + seconds
    return Profile(np.full(3, sum(modules.values())), modules, conversions)


def _seconds(node: Node, in_float: float, in_int8: float) -> float:
    if node.operator in ("Conv", "Gemm"):
        weight = node.operand(1).producer
        return in_float if weight is None else in_int8
    is_of_activation = "Linear" in node.operator and node.operand(0).dtype in (DType.float32, DType.uint8)
    return 0.0001 if is_of_activation and not _is_inside(node) else 0.0


def _is_inside(node: Node) -> bool:
    """Whether a kernel for integers does it: behind a convolution, or before one."""
    if node.operator == "QuantizeLinear":
        producer = node.operand(0).producer
        return producer is not None and producer.operator in ("Conv", "GlobalAveragePool", "Flatten")
    readers = [use.node for use in node.output.uses]
    return all(reader.operator in ("Conv", "Gemm", "GlobalAveragePool", "Flatten") for reader in readers)
