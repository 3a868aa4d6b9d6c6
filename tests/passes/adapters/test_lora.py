"""Adapters change nothing until they are trained, are trained alone, and are merged within rounding."""

from typing import Any

import numpy as np
import pytest

import planish
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.numerics import drift
from planish.ir.verify import verify
from planish.passes.adapters.adapter import find_adapters
from planish.passes.base import Feeds, PassContext
from planish.passes.pipeline import parse_pipeline
from planish.passes.probes import run_graph
from planish.passes.training.fine_tune import FineTuning
from planish.targets.load import load_target


def applied(pipeline: str, graph: Graph, data: Any = (), **surroundings: Any) -> Any:
    (step,) = parse_pipeline(pipeline)
    result = step.apply(graph, PassContext(load_target("x86-64"), graph.clone(), data, **surroundings))
    verify(graph)
    return result


def moved(one: Graph, other: Graph, data: list[Feeds]) -> float:
    return drift(*(run_graph(graph, data) for graph in (one, other)))


@pytest.mark.parametrize("options", ["rank=4", "rank=4,start=pissa", "rank=5,start=pissa,alpha=2,rslora=true"])
def test_what_the_model_computes_stays(source: Graph, data: list[Feeds], options: str) -> None:
    graph = source.clone()

    result = applied(f"lora{{{options}}}", graph)

    assert moved(source, graph, data) < 1e-6
    names = [adapter.name for adapter in find_adapters(graph)]
    assert names == ["stem", "body.point", "body.wide", "head"]
    assert result.counts == {"adapters": 4}
    same = {name for name in "wvut" if np.array_equal(graph.constants[name].data, source.constants[name].data)}
    assert same == (set() if "pissa" in options else {*"wvut"})


def test_scales_are_alpha_over_the_rank_or_its_root(source: Graph) -> None:
    for options, scale in (("", 1), ("alpha=8,", 2), ("alpha=8,rslora=true,", 4), ("rslora=true,", 2)):
        graph = source.clone()
        applied(f"lora{{{options}rank=4}}", graph)
        assert {adapter.scale for adapter in find_adapters(graph)} == {scale}


def test_pissa_takes_the_largest_part_of_a_weight(source: Graph) -> None:
    graph = source.clone()
    applied("lora{start=pissa,rank=3,only=body.wide}", graph)
    (adapter,) = find_adapters(graph)
    values = np.linalg.svd(source.constants["u"].data, compute_uv=False)
    left = np.linalg.svd(adapter.layer.constant(1), compute_uv=False)
    np.testing.assert_allclose(left[:5], values[3:], rtol=1e-4)


def test_layers_are_selected_and_those_without_a_place_are_told(source: Graph) -> None:
    graph = source.clone()

    result = applied("lora{rank=6,skip=stem}", graph)

    assert [adapter.name for adapter in find_adapters(graph)] == ["body.point", "body.wide"]
    assert result.misses == ["head: rank=6 is more than its 12 x 5 weight can have: give 5 at most"]
    again = applied("lora{rank=6}", graph)
    assert again.counts == {"adapters": 1}
    assert "body.wide: it has an adapter" in again.misses


def test_adapters_alone_are_trained(source: Graph, adapted: Graph, data: list[Feeds]) -> None:
    """The truth is what a model computes that has adapters of its own."""
    graph = source.clone()
    applied("lora{rank=4}", graph)
    before = {name: constant.data for name, constant in graph.constants.items()}
    truth = [outputs["y"] for outputs in run_graph(adapted, data)]

    step = FineTuning(epochs=40, only=("*.lora_?",))
    result = step.apply(graph, PassContext(load_target("x86-64"), source, data, labels=truth))

    assert result.changed
    assert moved(adapted, graph, data[-1:]) < 0.5 * moved(adapted, source, data[-1:])
    same = {name for name, array in before.items() if np.array_equal(graph.constants[name].data, array)}
    assert same == {name for name in before if ".lora_A" not in name and ".lora_B" not in name}


def test_merging_is_exact_within_rounding(source: Graph, adapted: Graph, data: list[Feeds]) -> None:
    assert moved(source, adapted, data) > 0.1
    merged = adapted.clone()

    result = applied("merge-lora", merged)

    assert result.counts == {"adapters": 4}
    assert moved(adapted, merged, data) < 1e-6
    assert [node.operator for node in merged.nodes] == [node.operator for node in source.nodes]
    assert {name: it.type for name, it in merged.constants.items()} == {n: c.type for n, c in source.constants.items()}


def test_a_weight_that_is_turned_is_merged_into(source: Graph, data: list[Feeds]) -> None:
    """As `trace` leaves linear layers, before `cleanup`."""
    graph = source.clone()
    (layer,) = (node for node in graph.nodes if node.operator == "MatMul")
    held = graph.add_constant(np.ascontiguousarray(graph.constants["u"].data.T), "turned")
    graph.set_input(layer, 1, planish.Builder(graph, before=layer).Transpose(held, perm=(1, 0)))

    applied("lora{start=pissa,rank=2,only=body.wide}", graph)
    assert moved(source, graph, data) < 1e-6
    applied("merge-lora", graph)

    assert moved(source, graph, data) < 1e-6
    np.testing.assert_allclose(layer.constant(1), source.constants["u"].data, atol=1e-6)
    assert "Transpose" not in {node.operator for node in graph.nodes}


def test_part_of_the_adapters_may_be_merged(adapted: Graph, data: list[Feeds]) -> None:
    merged = adapted.clone()
    applied("merge-lora{only=body.*}", merged)
    assert [adapter.name for adapter in find_adapters(merged)] == ["stem", "body.point", "head"]
    assert moved(adapted, merged, data) < 1e-6


def test_a_quantized_base_keeps_its_adapters_in_float(source: Graph, data: list[Feeds]) -> None:
    base = planish.optimize(source, "quantize", data=data, target="x86-64-avx512-vnni").graph

    result = applied("lora{rank=4,alpha=8}", base)

    assert result.counts == {"adapters": 4}
    held = {name: constant.data for name, constant in base.constants.items()}
    labels = [outputs["y"] + 1 for outputs in run_graph(source, data)]
    step = FineTuning(epochs=5, lr=1e-2, only=("*.lora_?",))
    assert step.apply(base, PassContext(load_target("x86-64"), source, data, labels=labels)).changed
    changed = {name for name, array in held.items() if not np.array_equal(base.constants[name].data, array)}
    assert {name.rpartition(".lora_")[2] for name in changed} == {"A.weight", "B.weight"}
    (miss, *_) = applied("merge-lora", base).misses
    assert miss.endswith("its weight is not a float constant: merge after cleanup, and before the model is quantized")
    with pytest.raises(UsageError, match="merge-lora needs a graph that is float"):
        planish.optimize(source, "quantize,merge-lora", data=data)


def test_what_is_left_of_an_adapter_is_told_and_an_erased_one_is_an_error(
    adapted: Graph, data: list[Feeds], capsys: Any
) -> None:
    class Notes(planish.driver.reporter.Reporter):
        def note(self, text: str) -> None:
            print(text)

    planish.optimize(adapted, "merge-lora,quantize", data=data, reporter=Notes(), target="x86-64-avx512-vnni")
    share = float(capsys.readouterr().out.partition("% of what the adapter does is left after quantize")[0].split()[-1])
    assert 95 < share < 105

    for name, constant in adapted.constants.items():
        if ".lora_B" in name:
            constant.data = 1e-3 * constant.data
    with pytest.raises(planish.PlanishError, match="after quantize.*of what the adapter does is left: give its layers"):
        planish.optimize(adapted, "merge-lora,quantize{weight_bits=2}", data=data, target="x86-64-avx512-vnni")
