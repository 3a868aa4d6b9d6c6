"""Layers that stay in float since the model takes longer with them in integers, by times that are made up."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location, Node
from planish.ir.types import DType, TensorType
from planish.passes.base import PassContext, Profile
from planish.passes.quantization.quantize import Quantize
from planish.passes.selection import Selection
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
NAMES = ("stem", "body", "head")


def network() -> Graph:
    """Three convolutions."""
    graph = Graph()
    op = Builder(graph)
    image = graph.add_input("x", TensorType(DType.float32, ("batch", 8, 8, 8)))
    for name in NAMES:
        op.location = Location(name)
        image = op.Relu(op.Conv(image, 0.2 * RNG.standard_normal((8, 8, 1, 1)).astype(np.float32)))
    graph.outputs["y"] = image
    return graph


def is_integer(node: Node) -> bool:
    weight = node.operand(1).producer
    return weight is not None and weight.operator == "DequantizeLinear"


def context(graph: Graph, in_int8: dict[str, float], whole: float | None = None) -> PassContext:
    """Surroundings in which a layer takes 4 ms in float, and some milliseconds in int8.

    Args:
        graph: the graph that is quantized.
        in_int8: the milliseconds of each layer in int8, by its name.
        whole: the milliseconds of a model that has layers of both kinds; None for what its layers add up to.
    """
    layers = [node.outputs[0].name for node in graph.nodes if node.operator == "Conv"]
    took = dict(zip(layers, in_int8.values(), strict=True))

    def profile(graphs: Sequence[Graph], **_: object) -> list[Profile]:
        found: list[Profile] = []
        for one in graphs:
            nodes = [node for node in one.nodes if node.operator == "Conv"]
            modules = {it.outputs[0].name: 1e-3 * (took[it.outputs[0].name] if is_integer(it) else 4.0) for it in nodes}
            is_mix = len({is_integer(node) for node in nodes}) == 2
            seconds = sum(modules.values()) if whole is None or not is_mix else 1e-3 * whole
            found.append(Profile(np.full(8, seconds), modules, dict.fromkeys(modules, 0.0)))
        return found

    feeds = [{"x": RNG.standard_normal((16, 8, 8, 8)).astype(np.float32)} for _ in range(4)]
    return PassContext(load_target("x86-64-avx512-vnni"), graph, feeds, profile=profile)


@pytest.mark.parametrize(
    ("times", "whole", "left"),
    [((1, 1, 1), None, []), ((1, 9, 1), None, ["body"]), ((1, 9, 1), 20.0, []), ((9, 1, 1), 11.0, [])],
    ids=["none is slow", "one is slow", "conversions take more", "little is gained"],
)
def test_a_layer_stays_in_float_where_the_model_is_measured_to_be_faster(
    times: tuple[float, ...], whole: float | None, left: list[str]
) -> None:
    graph = network()
    result = Quantize().apply(graph, context(graph.clone(), dict(zip(NAMES, times, strict=True)), whole))
    in_float = [node.location.module for node in graph.nodes if node.operator == "Conv" and not is_integer(node)]
    assert in_float == left
    told = [f"{name}: Conv stays in float: with it in int8, the model takes longer" for name in left]
    assert [miss for miss in result.misses if "takes longer" in miss] == told


def test_a_layer_that_is_not_selected_is_not_weighed() -> None:
    graph = network()
    surroundings = context(graph.clone(), {"stem": 1, "body": 9, "head": 1})
    chosen = replace(surroundings, selection=Selection().narrowed(["stem", "head"], []))
    assert not [miss for miss in Quantize().apply(graph, chosen).misses if "takes longer" in miss]


def test_for_its_size_all_layers_are_quantized() -> None:
    graph = network()
    Quantize(if_slower="keep").apply(graph, context(graph.clone(), {"stem": 1, "body": 9, "head": 1}))
    assert all(is_integer(node) for node in graph.nodes if node.operator == "Conv")
