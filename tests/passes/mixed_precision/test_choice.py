"""Layers are ranked as exact measures rank them, and the integer program takes the best of all choices."""

from itertools import chain, combinations

import numpy as np
import pytest
from pathologic_networks import TARGET, by_the_book, context, network

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location
from planish.ir.quantization import QuantParams
from planish.ir.types import DType, TensorType
from planish.passes.base import Profile
from planish.passes.judge import Judge
from planish.passes.mixed_precision.quantize_mixed import MixedQuantization, _Mixing
from planish.passes.mixed_precision.sensitivity import estimate, find_sensitivities
from planish.passes.quantization.allocation import allocate
from planish.passes.quantization.quantize import static_layers
from planish.passes.quantization.rounding import Losses, Rounding, name_of
from planish.passes.quantization.times import Region, Times

INT8 = TARGET.int8
assert INT8 is not None
OPERATORS = INT8.profitable_operators(static=True)


def residual() -> Graph:
    """Convolutions around a sum, whose kernel needs both sides in integers, and a product that yields floats."""
    random = np.random.default_rng(0)

    def array(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 3, 8, 8)))
    first = op.Relu(op.Conv(x, array(4, 3, 1, 1)))
    inner = op.Conv(op.Relu(op.Conv(first, array(4, 4, 1, 1))), array(4, 4, 1, 1))
    last = op.Conv(op.Relu(op.Add(inner, first)), array(4, 4, 1, 1))
    graph.outputs["y"] = op.Gemm(op.Gemm(op.Flatten(last), array(256, 8)), array(8, 2))
    for node in graph.nodes:
        node.location = Location(name_of(node))
    return graph


def rounding(graph: Graph) -> Rounding:
    layers = static_layers(graph, OPERATORS, context(graph)).layers
    assert INT8 is not None
    grids = dict.fromkeys((value.name for value in graph.values()), QuantParams.over(-1.0, 1.0, DType.uint8))
    return Rounding(graph, {name_of(layer.node): layer for layer in layers}, OPERATORS, INT8, grids)


@pytest.mark.parametrize("seed", range(12))
def test_the_integer_program_finds_the_best_of_all_choices(seed: int):
    random, held = np.random.default_rng(seed), rounding(residual())
    names, plan = list(held.layers), held.plan(held.layers.keys())
    heads = [*names, *(name_of(node) for node in plan.carriers)]
    times = Times(
        rounding=held,
        sizes=dict.fromkeys(held.graph.values(), 100),
        regions={name: Region(*sorted(random.uniform(1, 9, 2), reverse=True)) for name in heads},
        whole=10.0,
        converting=random.uniform(0, 0.02),
    )
    losses = Losses(
        {name: random.uniform(0, 1) for name in names}, {value.name: random.uniform(0, 1) for value in plan.reads}
    )
    budget = random.uniform(0.5, 5)
    choices = map(frozenset, chain.from_iterable(combinations(names, count) for count in range(len(names) + 1)))
    fitting = [choice for choice in choices if losses.of(held.plan(choice), choice) <= budget]
    best = min(map(times.predict, fitting))
    chosen = allocate(times, losses, budget)
    assert chosen in fitting
    assert times.predict(chosen) == pytest.approx(best)


def test_a_toy_table_has_the_known_optimum():
    held = rounding(network())
    names = list(held.layers)
    gains = dict(zip(names, (6, 5, 4, 3, 2, 1), strict=True))
    times = Times(held, {}, {name: Region(10.0, 10.0 - gain) for name, gain in gains.items()}, 40.0, 0.0)
    losses = Losses(dict(zip(names, (5, 4, 3, 3, 1, 1), strict=True)), {})
    assert allocate(times, losses, 8.0) == {
        names[1],
        names[2],
        names[4],
    }  # 11 for 8; by gain per loss: 3 + 2 + 1, then 4
    assert allocate(times, losses, 100.0) == set(names)
    assert allocate(times, losses, 0.5) == frozenset()


def sensitivities(graph: Graph):
    mixing = _Mixing(MixedQuantization(), graph, context(graph), INT8)
    return mixing._rounding()


@pytest.mark.parametrize("classes", [True, False])
def test_one_pass_ranks_layers_as_measures_do(classes: bool):
    graph = network(pathologic=2, classes=classes)
    held, few = sensitivities(graph)
    judge = Judge(held.graph, few)
    losses = estimate(held, judge.measures, few, context(graph))
    found = find_sensitivities(
        held, losses, lambda name: judge.judge(held.quantized({name})).loss, len(held.layers), context(graph)
    )
    assert not found.are_exact
    assert found.correlation > 0.8
    assert 0.4 < found.factor < 2.5
    worst = max(held.layers, key=lambda name: losses.of(held.plan({name}), {name}))
    assert held.layers[worst].node is [node for node in held.graph.nodes if node.operator == "Conv"][2]


def test_estimates_that_measures_contradict_are_given_up():
    held = rounding(network())
    names = list(held.layers)
    wrong = Losses({name: 10.0**-place for place, name in enumerate(names)}, {})
    right = {name: 10.0**place for place, name in enumerate(names)}
    found = find_sensitivities(held, wrong, right.__getitem__, 4, context(held.graph))
    assert found.are_exact
    assert found.losses.weights == right
    assert "all were measured" in str(found)


def test_times_of_the_ends_are_those_of_the_models():
    graph = residual()
    held = rounding(graph)
    in_float, in_int8 = by_the_book([graph, held.quantized()])
    times = Times.of(held, dict.fromkeys(graph.values(), 100), in_float, in_int8)
    assert times.predict(held.layers.keys()) == pytest.approx(in_int8.seconds)
    assert times.predict(frozenset()) == pytest.approx(in_float.seconds)


def test_gains_that_cancel_are_not_blown_up():
    """Where integers make some layers faster and others slower, the models differ by less than their layers do."""
    graph = network()
    held = rounding(graph)
    names = list(held.layers)
    in_float = Profile(np.full(3, 63.0), dict.fromkeys(names, 10.0), {})
    in_int8 = Profile(np.full(3, 60.0), dict(zip(names, (4.0, 4.0, 4.0, 15.0, 16.0, 16.0), strict=True)), {})
    times = Times.of(held, dict.fromkeys(graph.values(), 100), in_float, in_int8)
    assert times.predict(names[:3]) == pytest.approx(12 * 60 / 59 + 30 * 63 / 60)
