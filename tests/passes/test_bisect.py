"""A mistake planted in one rewrite, amid a long pipeline over a ResNet-50, is found, and its graph shrunk."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.errors import PlanishError
from planish.ir.graph import Graph, Location, Value
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import Effect, Feeds, Pass, PassContext, PassResult
from planish.passes.bisect import bisect
from planish.passes.check import NumericCheck
from planish.passes.pipeline import parse_pipeline
from planish.passes.reduce import reduce
from planish.targets.load import load_target

Mistake: TypeAlias = Literal["none", "constant", "operands", "axis", "pad", "type", "crash", "small"]
HERE = __name__


def resnet50(size: int = 64) -> Graph:
    """He et al. 2016, with random weights of the usual scale and batch normalizations; images of a small size."""
    graph, random = Graph("resnet50"), np.random.default_rng(0)
    op = Builder(graph)

    def convolution(x: Value, channels: int, kernel: int, stride: int, where: str) -> Value:
        op.location = Location(where)
        inputs = int(x.shape[1])
        weight = random.standard_normal((channels, inputs, kernel, kernel)) / math.sqrt(inputs * kernel**2)
        pads = (kernel // 2,) * 4
        y = op.Conv(x, weight.astype(np.float32), strides=(stride, stride), pads=pads, kernel_shape=(kernel, kernel))
        numbers = [np.full(channels, number, np.float32) for number in (0.9, 0.1, 0.05, 1.1)]
        return op.BatchNormalization(y, *numbers)

    x = op.Relu(
        convolution(graph.add_input("x", TensorType(DType.float32, ("batch", 3, size, size))), 64, 7, 2, "conv1")
    )
    x = op.MaxPool(x, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(blocks):
            where, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = op.Relu(convolution(x, width, 1, 1, f"{where}.conv1"))
            y = op.Relu(convolution(y, width, 3, stride, f"{where}.conv2"))
            y = convolution(y, 4 * width, 1, 1, f"{where}.conv3")
            short = x if block else convolution(x, 4 * width, 1, stride, f"{where}.downsample")
            op.location = Location(where)
            x = op.Relu(op.Add(y, short))
    op.location = Location("fc")
    pooled = op.Flatten(op.GlobalAveragePool(x))
    graph.outputs["y"] = op.Gemm(pooled, (random.standard_normal((10, 2048)) / 45).astype(np.float32), transB=1)
    return graph


@dataclass(frozen=True)
class Planted(Pass):
    """Writes activations, pools, sums and padded convolutions otherwise, and makes a mistake at one layer."""

    name: ClassVar[str] = "planted"
    effect: ClassVar[Effect] = Effect.ROUNDING
    operators: ClassVar[frozenset[str]] = frozenset({"Relu", "Conv", "GlobalAveragePool"})
    mistake: Mistake = "none"
    at: str = "layer3.2*"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        count = 0
        for node in graph.nodes:
            if node.operator not in self.operators or not context.applies(node.operator.lower(), node):
                continue
            op = Builder(graph, node, node.location)
            mistake = self.mistake if fnmatchcase(node.location.module, self.at) else "none"
            new = _REWRITES[node.operator](op, node, mistake)
            if new is not None:
                graph.replace_uses(node.outputs[0], new)
                graph.erase(node)
                count += 1
        return PassResult({"all": count})


class PlantedExactly(Planted):
    """Activations alone, to the last bit."""

    name: ClassVar[str] = "planted-exactly"
    effect: ClassVar[Effect] = Effect.EXACT
    operators: ClassVar[frozenset[str]] = frozenset({"Relu"})


def _relu(op: Builder, node: Any, mistake: Mistake) -> Value | None:
    x, zero = node.inputs[0], op.constant(np.float32(0.1 if mistake == "constant" else 0))
    if mistake == "crash":
        raise RuntimeError("out of luck")
    if mistake == "operands":
        return op.Where(op.Less(x, zero), x, zero)
    y = op.Where(op.Less(x, zero), zero, x)
    if mistake == "small":
        y = op.Mul(y, np.float32(1 + 1e-6))
    if mistake == "type":
        y.type = TensorType(y.dtype, tuple(reversed(y.shape)))
    return y


def _convolution(op: Builder, node: Any, mistake: Mistake) -> Value | None:
    pads = node.attributes.get("pads")
    if pads != (1, 1, 1, 1):
        return None
    around = [0, 0, 2, 1, 0, 0, 0, 1] if mistake == "pad" else [0, 0, 1, 1, 0, 0, 1, 1]
    return op.Conv(op.Pad(node.inputs[0], around), *node.inputs[1:], **node.attributes | {"pads": (0, 0, 0, 0)})


def _pool(op: Builder, node: Any, mistake: Mistake) -> Value | None:
    return op.ReduceMean(node.inputs[0], [3] if mistake == "axis" else [2, 3])


_REWRITES: dict[str, Callable[[Builder, Any, Mistake], Value | None]] = {
    "Relu": _relu,
    "Conv": _convolution,
    "GlobalAveragePool": _pool,
}


@pytest.fixture(scope="module")
def source() -> Graph:
    return resnet50()


@pytest.fixture(scope="module")
def check(source: Graph) -> NumericCheck:
    return NumericCheck(source, probes(source))


def probes(graph: Graph) -> list[Feeds]:
    """One of a batch of one, which is enough for these mistakes."""
    return [{value.name: random_array(value) for value in graph.inputs}]


def random_array(value: Value) -> np.ndarray:
    shape = [size if isinstance(size, int) else 1 for size in value.shape]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def pipeline(mistake: Mistake, at: str) -> str:
    """Thirty passes or more, the planted one among them."""
    kind = PlantedExactly if mistake == "small" else Planted
    planted = f"{HERE}:{kind.__name__}{{mistake={mistake},at={at}}}"
    return f"cleanup,fuse,{planted},fixpoint(cse,dce),cleanup,fold-constants,dce"


@pytest.mark.parametrize(
    ("mistake", "at", "rewrite", "reason"),
    [
        ("constant", "layer3.2.conv2", "relu", "declares itself rounding, but output 'y' differs"),
        pytest.param("operands", "layer1.0.conv1", "relu", "differs by up to", marks=pytest.mark.wide),
        pytest.param("axis", "fc", "globalaveragepool", "layer|fc|y", marks=pytest.mark.wide),
        pytest.param("pad", "layer2.1.conv2", "conv", "differs by up to", marks=pytest.mark.wide),
        ("type", "layer4.1.conv1", "relu", "types are wrong"),
        pytest.param(
            "small", "layer4.2.conv2", "relu", "declares itself exact, but output 'y' differs", marks=pytest.mark.wide
        ),
        pytest.param("crash", "layer2.3.conv1", "relu", "RuntimeError: out of luck", marks=pytest.mark.wide),
    ],
)
def test_the_rewrite_at_fault_is_found(
    source: Graph, check: NumericCheck, mistake: Mistake, at: str, rewrite: str, reason: str
) -> None:
    passes = parse_pipeline(pipeline(mistake, at))
    assert len(passes) >= 30
    fault = bisect(passes, check, PassContext(load_target("x86-64"), source))
    assert fault is not None
    assert fault.step.startswith(f"{HERE}:Planted")
    assert fault.rewrite == rewrite
    assert fault.node.endswith(f" of {at}")
    assert re.search(reason, fault.reason), fault.reason
    assert fault.checks <= 2 * math.log2(fault.applications) + 10


class Silent(Planted):
    """Says that it changed nothing."""

    name: ClassVar[str] = "silent"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        super().run(graph, context)
        return PassResult()


def test_a_pass_is_judged_by_what_it_does_not_by_what_it_says() -> None:
    graph = Graph("layer")
    graph.outputs["y"] = Builder(graph, location=Location("fc")).Relu(
        graph.add_input("x", TensorType(DType.float32, (3,)))
    )
    fault = bisect(
        [*parse_pipeline("dce"), Silent(mistake="constant", at="fc"), *parse_pipeline("cse")],
        NumericCheck(graph, probes(graph)),
        PassContext(load_target("x86-64"), graph),
    )
    assert fault is not None
    assert (fault.position, fault.rewrite) == (2, "relu")


@pytest.mark.wide
def test_where_every_check_holds_nothing_is_found(source: Graph, check: NumericCheck) -> None:
    context = PassContext(load_target("x86-64"), source)
    assert bisect(parse_pipeline(pipeline("none", "*")), check, context) is None


@pytest.mark.parametrize(
    ("mistake", "at", "most"),
    [
        pytest.param("operands", "layer1.0.conv1", 2, marks=pytest.mark.wide),
        ("pad", "layer2.1.conv2", 1),
        pytest.param("type", "layer4.1.conv1", 1, marks=pytest.mark.wide),
        pytest.param("axis", "fc", 1, marks=pytest.mark.wide),
    ],
)
def test_a_failing_graph_shrinks_to_the_nodes_that_fail(source: Graph, mistake: Mistake, at: str, most: int) -> None:
    planted = Planted(mistake=mistake, at=at)
    context = PassContext(load_target("x86-64"), source)

    def fails(graph: Graph) -> bool:
        check = NumericCheck(graph, probes(graph))
        changed = graph.clone()
        try:
            planted.apply(changed, context)
            check.check(changed, planted)
        except PlanishError:
            return True
        return False

    assert fails(source)
    smaller = reduce(source, fails)
    verify(smaller)
    assert fails(smaller)
    assert len(smaller) <= most
    assert {node.location.module for node in smaller.nodes} <= {at}
