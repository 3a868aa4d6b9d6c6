"""Mixed precision: the layer that int8 can't hold stays in float, alone, and what can't be done is said."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from pathologic_networks import DEPTH, batches, by_the_book, context, network

import planish
from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.ir.graph import Graph, Location
from planish.ir.text import print_graph
from planish.ir.verify import verify
from planish.passes.base import Labelled, PassResult, Profile
from planish.passes.debug_counter import DebugCounter
from planish.passes.judge import Judge
from planish.passes.mixed_precision.quantize_mixed import MixedQuantization
from planish.passes.pipeline import format_pipeline, parse_pipeline
from planish.passes.probes import run_graph
from planish.passes.quantization.quantize import Quantize


def mixed(source: Graph, **options: float) -> tuple[Graph, PassResult]:
    graph = source.clone()
    step = MixedQuantization(attempts=5, **options)  # pyright: ignore[reportArgumentType]
    result = step.apply(graph, context(source))
    verify(graph)
    return graph, result


@pytest.mark.wide
def test_the_pathologic_layer_alone_stays_in_float():
    source = network(pathologic=2)
    graph, result = mixed(source, max_drop=10.0)
    (island,) = result.misses
    assert island.startswith("body.2: Conv stays in float, which costs ")
    assert result.counts["layers"] == DEPTH
    assert result.counts["float"] == 1
    judge = Judge(source, batches(4, 64))
    full = source.clone()
    Quantize().apply(full, context(source))
    assert judge.judge(graph).drop < 10 < judge.judge(full).drop


def test_all_layers_are_quantized_where_that_loses_little():
    _, result = mixed(network(), max_drop=50.0)
    assert result.counts["layers"] == DEPTH + 1
    assert result.counts["float"] == 0
    assert not result.misses


def test_what_was_judged_is_delivered_as_if_it_were_made_anew():
    source = network()
    made: list[tuple[str, list[Location], int]] = []
    for limit in (None, 1000):  # a limit that no rewrite reaches has the chosen layers quantized once more
        graph, counter = source.clone(), DebugCounter(limit)
        MixedQuantization(max_drop=50.0).apply(graph, replace(context(source), counter=counter))
        made.append((print_graph(graph), [node.location for node in graph.nodes], counter.count))
    assert made[0] == made[1]
    assert any(location.module == "body.2" for location in made[0][1])


def test_why_a_layer_cannot_be_quantized_names_its_module():
    source = network()
    node = next(node for node in source.nodes if node.location.module == "body.2")
    weight = node.operand(1).type
    source.set_input(node, 1, source.add_input("given", weight))
    given = {"given": np.zeros(weight.shape, np.float32)}
    surroundings = replace(context(source), calibration=[{**feeds, **given} for feeds in batches()])
    result = MixedQuantization(max_drop=50.0).apply(source.clone(), surroundings)
    assert any(miss.startswith("body.2: Conv stays in float: ") for miss in result.misses)


def test_a_bound_that_nothing_meets_is_told():
    source = network(classes=False)
    graph, result = mixed(source, max_drop=1e-9)
    assert not result.changed
    assert "no choice of layers keeps the drop within 1e-09 %" in result.misses[-1]
    assert print_graph(graph) == print_graph(source)


def test_recurrent_layers_that_alone_lose_too_much_stay_in_float():
    source = network(classes=False)
    op, random = Builder(source, location=Location("tail")), np.random.default_rng(0)
    steps = op.Transpose(op.Reshape(source.inputs[0], np.array([0, 12, 16])), perm=(2, 0, 1))
    mask, weights = np.ones(12, np.float32), random.standard_normal((1, 4, 12)).astype(np.float32) / 4
    mask[0], weights[..., 0] = 0, 5  # an eighth of the grid's steps for all that counts
    y, _ = op.RNN(op.Mul(steps, mask), weights, np.zeros((1, 4, 4), np.float32), hidden_size=4, outputs=2)
    source.outputs["z"] = y

    graph, result = mixed(source, max_drop=0.1)

    said = "tail: RNN stays in float: in int8, recurrent layers and tables alone would lose "
    assert any(miss.startswith(said) for miss in result.misses)
    assert result.counts["layers"] > 0
    assert Judge(source, batches(4, 64)).judge(graph).drop < 0.1


def test_floats_that_are_faster_stay():
    source, reverse = network(), partial(by_the_book, in_float=0.004, in_int8=0.010)
    result = MixedQuantization(max_drop=50.0).apply(source.clone(), context(source, profile=reverse))
    assert not result.changed
    assert result.misses[-1].startswith("no mix of int8 and float is faster than float alone, which takes 24 ms, ")


@pytest.mark.parametrize(("int8", "mix", "layers"), [(0.02, 0.03, DEPTH + 1), (0.02, 0.01, DEPTH), (0.08, 0.07, 0)])
def test_what_is_measured_decides_between_a_mix_and_what_is_simpler(int8: float, mix: float, layers: int):
    """A runtime may compute in floats what reads integers, so that the mix that was predicted takes far longer."""
    source = network()

    def profile(graphs: Sequence[Graph], *, by_layer: bool = True) -> list[Profile]:
        found = by_the_book(graphs)
        if by_layer:  # the head is slow in integers, and a mix is chosen
            slow = replace(found[1], rounds=found[1].rounds + 0.02, modules={**found[1].modules, "gemm": 0.024})
            return [found[0], slow]
        seconds = [0.06, int8, mix]
        return [replace(one, rounds=np.full(3, took)) for one, took in zip(found, seconds, strict=True)]

    graph = source.clone()
    result = MixedQuantization(max_drop=50.0).apply(graph, context(source, profile=profile))
    assert result.counts.get("layers", 0) == layers
    if not layers:
        told = "float alone takes 60 ms, and the fastest mix of int8 and float takes 70 ms"
        assert result.misses[-1] == told
        assert print_graph(graph) == print_graph(source)


@pytest.mark.wide
def test_the_seed_decides_and_nothing_else():
    first, second = (print_graph(mixed(network(pathologic=2), max_drop=10.0)[0]) for _ in range(2))
    assert first == second


def test_what_is_predicted_is_what_it_takes():
    _, result = mixed(network(pathologic=2), max_drop=10.0)
    (note,) = [note for note in result.notes if "predicted" in note]
    measured, predicted = re.findall(r"([\d.]+) times int8's latency, where ([\d.]+)", note)[0]
    assert float(measured) == pytest.approx(float(predicted), rel=0.1)


def test_layers_that_are_not_asked_for_are_left():
    source = network()
    graph = source.clone()
    result = MixedQuantization(max_drop=50.0, skip=("body.1",)).apply(graph, context(source))
    assert result.counts["layers"] == DEPTH
    assert [node.operand(1).producer is None for node in graph.nodes if node.operator == "Conv"].count(True) == 1


@pytest.mark.wide
def test_labels_make_the_metric_what_may_drop():
    source = network(pathologic=2)
    wanted = [run_graph(source, [feeds])[0]["y"].argmax(1) for feeds in batches()]

    def errors(predictions, labels):
        return float(
            np.mean([outputs[0].argmax(1) != right for outputs, right in zip(predictions, labels, strict=True)])
        )

    surroundings = replace(context(source), labelled=Labelled(wanted, errors, lower_is_better=True))
    for bound, left in ((10.0, 1), (100.0, 0)):
        result = MixedQuantization(max_drop=bound).apply(source.clone(), surroundings)
        assert result.counts["float"] == left
        assert "of the metric's scale are lost" in result.notes[0]


def test_it_needs_a_backend_and_data():
    with pytest.raises(UsageError, match="--lower-to onnxruntime"):
        planish.optimize(network(), "quantize-mixed", data=batches(2), target="x86-64-avx512-vnni")
    with pytest.raises(UsageError, match="which only ONNX Runtime reports"):
        planish.optimize(network(), "quantize-mixed", data=batches(2), target="x86-64-avx512-vnni", backend="tvm")
    with pytest.raises(UsageError, match="calibration data"):
        planish.optimize(network(), "quantize-mixed", target="x86-64-avx512-vnni")


def test_it_round_trips_as_text():
    (step,) = parse_pipeline("quantize-mixed{max_drop=2}")
    assert step == MixedQuantization(max_drop=2.0)
    assert parse_pipeline(format_pipeline([step])) == (step,)
