"""Every pass that declares itself exact or rounding is, on graphs at random, alone and after others.

The graphs are built of what the passes look for: constants of 0 and 1, normalisations after convolutions, activations
spelt out, transposes and reshapes that cancel, equal subexpressions, dead ends, shapes computed from shapes.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from planish.ir.builder import Builder
from planish.ir.equal import differences
from planish.ir.graph import Graph, Value
from planish.ir.infer import refresh
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import Effect, Pass
from planish.passes.pipeline import parse_pipeline, pass_classes

KEEPING = [kind() for kind in pass_classes().values() if kind.effect is not Effect.LOSSY]

Step = Callable[[DrawFn, Builder, list[Value]], Value]
ANY: list[Step] = []
"""Continuations of a graph, given the values so far, the latest of which they mostly work on; for tensors of any rank."""
IMAGES: list[Step] = []
"""Those for tensors of four dimensions."""


def step(kind: list[Step]) -> Callable[[Step], Step]:
    def register(function: Step) -> Step:
        kind.append(function)
        return function

    return register


def weights(draw: DrawFn, *shape: int) -> np.ndarray:
    return np.random.default_rng(draw(st.integers(0, 9))).uniform(-1, 1, shape).astype(np.float32)


def sizes(x: Value) -> list[int]:
    """The shape, with 1 for what is symbolic."""
    return [dim if isinstance(dim, int) else 1 for dim in x.shape]


@step(ANY)
def neutral(draw, op, values):
    """Arithmetic with a constant, often neutral, that may broadcast, on either side."""
    x = values[-1]
    widest = sizes(x) if x.type.rank > 3 else [1, *sizes(x)]
    shape = [size if draw(st.booleans()) else 1 for size in widest[draw(st.integers(0, len(widest))) :]]
    constant = np.full(shape, draw(st.sampled_from([0, 1, 1, 0.5, 6])), np.float32)
    operator = draw(st.sampled_from(["Add", "Mul", "Sub", "Div", "Pow"]))
    if operator == "Div":
        return op.Div(x, np.where(constant == 0, 1, constant))
    if operator == "Pow":
        return op.Pow(op.Abs(x), 1.0)
    return op(operator, constant, x) if draw(st.booleans()) else op(operator, x, constant)


@step(ANY)
def unary(draw, op, values):
    operator = draw(st.sampled_from(["Relu", "Tanh", "Identity", "Neg", "Sigmoid", "Dropout", "Max", "Concat"]))
    return op.Concat(values[-1], axis=0) if operator == "Concat" else op(operator, values[-1])


@step(ANY)
def pair(draw, op, values):
    """Two values of one type, perhaps twice the same."""
    x = values[-1]
    other = draw(st.sampled_from([value for value in values if value.type == x.type]))
    return op(draw(st.sampled_from(["Add", "Mul", "Sub", "Max"])), x, other)


@step(ANY)
def twice(draw, op, values):
    """An equal subexpression, of which one copy may be dead or read by another node as well."""
    x = values[-1]
    copies = [op.Relu(op.Neg(x)) for _ in range(2)]
    values.append(copies[0])
    return op.Add(copies[draw(st.integers(0, 1))], copies[1])


@step(ANY)
def transpose(draw, op, values):
    x = values[-1]
    order = draw(st.permutations(range(x.type.rank)))
    turned = op.Transpose(x, perm=order)
    back = [order.index(axis) for axis in range(x.type.rank)]
    return op.Transpose(turned, perm=draw(st.sampled_from([back, order]))) if draw(st.booleans()) else turned


@step(ANY)
def cast(draw, op, values):
    through = draw(st.sampled_from([DType.float32, DType.float64]))
    return op.Cast(op.Cast(values[-1], to=through), to=DType.float32)


@step(ANY)
def reshape(draw, op, values):
    """To the same shape, flat, or flat and back by a shape that is computed."""
    x = values[-1]
    way = draw(st.sampled_from(["same", "flat", "back", "computed"]))
    if way == "same":
        return op.Reshape(x, [0] * x.type.rank)
    flat = op.Reshape(x, [0, -1]) if x.type.rank > 1 else op.Reshape(x, [-1])
    if way == "flat":
        return flat
    if way == "back":
        return op.Reshape(flat, op.Shape(x))
    dims = [op.Gather(op.Shape(x), [axis]) for axis in range(x.type.rank)]
    return op.Reshape(flat, op.Concat(*dims, axis=0))


@step(ANY)
def resize(draw, op, values):
    """Ways to keep a shape, or to change it by one."""
    x = values[-1]
    match draw(st.sampled_from(["pad", "slice", "expand", "tile", "unsqueeze"])):
        case "pad":
            return op.Pad(x, [0] * (2 * x.type.rank - 1) + [draw(st.integers(0, 1))])
        case "slice":
            return op.Slice(x, [0], [draw(st.sampled_from([1, 2**31]))], [x.type.rank - 1])
        case "expand":
            return op.Expand(x, op.Shape(x) if draw(st.booleans()) else [1] * x.type.rank)
        case "tile":
            return op.Tile(x, [1] * (x.type.rank - 1) + [draw(st.integers(1, 2))])
        case _:
            return op.Squeeze(op.Unsqueeze(x, [0]), [0])


@step(ANY)
def constants(draw, op, values):
    """An expression of constants alone."""
    a, b = weights(draw, 3), weights(draw, 1)
    return op.Add(values[-1], op.ReduceMax(op.Mul(op.constant(a), op.constant(b)), keepdims=0))


@step(ANY)
def dead(draw, op, values):
    op.Exp(op.Relu(values[-1]))
    return values[-1]


@step(ANY)
def activation(draw, op, values):
    x = values[-1]
    gate = op.Clip(op.Add(x, 3.0), 0.0, 6.0)
    match draw(st.sampled_from(["swish", "mish", "hard-sigmoid", "hard-swish", "gelu", "gelu-tanh"])):
        case "swish":
            return op.Mul(op.Sigmoid(x), x)
        case "mish":
            return op.Mul(x, op.Tanh(op.Softplus(x)))
        case "hard-sigmoid":
            return op.Mul(gate, 1 / 6)
        case "hard-swish":
            return op.Mul(x, op.Div(gate, 6.0)) if draw(st.booleans()) else op.Div(op.Mul(gate, x), 6.0)
        case "gelu":
            return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, math.sqrt(2))), 1.0)), 0.5)
        case _:
            inner = op.Add(x, op.Mul(op.Pow(x, 3.0), 0.044715))
            return op.Mul(op.Mul(x, 0.5), op.Add(op.Tanh(op.Mul(inner, math.sqrt(2 / math.pi))), 1.0))


@step(ANY)
def layer_norm(draw, op, values):
    """Along the last axis or the first; with a scale of the last axis, or of all."""
    x = values[-1]
    axes = op.constant([draw(st.sampled_from([-1, 0]))])
    deviation = op.Sub(x, op.ReduceMean(x, axes))
    spread = op.Sqrt(op.Add(op.ReduceMean(op.Pow(deviation, 2.0), axes), 1e-2))
    last = sizes(x)[-1] if isinstance(x.shape[-1], int) else 1
    scaled = op.Mul(op.Div(deviation, spread), weights(draw, last))
    return op.Add(scaled, weights(draw, draw(st.sampled_from([1, last]))))


@step(ANY)
def linear(draw, op, values):
    x = values[-1]
    if x.type.rank < 2 or not isinstance(x.shape[-1], int):
        return op.Relu(x)
    y = op.MatMul(x, weights(draw, x.shape[-1], draw(st.sampled_from([4, 3]))))
    return op.Add(y, weights(draw, *draw(st.sampled_from([(y.shape[-1],), (1,), ()])))) if draw(st.booleans()) else y


@step(IMAGES)
def convolution(draw, op, values):
    """With or without a bias, by groups or not, and what often follows it."""
    x = values[-1]
    channels = x.shape[1]
    if not isinstance(channels, int) or not isinstance(x.shape[2], int) or not isinstance(x.shape[3], int):
        return op.Neg(x)
    group = channels if draw(st.booleans()) else 1
    bias = weights(draw, channels) if draw(st.booleans()) else None
    y = op.Conv(x, weights(draw, channels, channels // group, 1, 1), bias, group=group)
    if draw(st.booleans()):
        values.append(y)  # to be read by others
    for _ in range(draw(st.integers(1, 2))):
        change = draw(st.sampled_from(["norm", "norm", "Add", "Mul"]))
        scale, shift, mean, variance = (weights(draw, channels) for _ in range(4))
        if change == "norm":
            y = op.BatchNormalization(y, scale, shift, mean, np.abs(variance) + 0.5)
        else:
            y = op(change, y, draw(st.sampled_from([scale.reshape(-1, 1, 1), scale[:1], weights(draw, *sizes(y)[2:])])))
    return y


@st.composite
def graphs(draw: DrawFn) -> Graph:
    """A chain of steps from one input of a fixed or symbolic batch, with some of all values returned."""
    graph = Graph()
    op = Builder(graph)
    batch = draw(st.sampled_from([2, "batch"]))
    shape = draw(st.sampled_from([(batch, 4, 3, 5), (batch, 6), (batch, 3, 4)]))
    values = [graph.add_input("x", TensorType(DType.float32, shape))]
    for _ in range(draw(st.integers(1, 7))):
        steps = ANY + 6 * IMAGES if values[-1].type.rank == 4 else ANY
        values.append(draw(st.sampled_from(steps))(draw, op, values))
    returned = [values[-1], *draw(st.lists(st.sampled_from(values), max_size=2))]
    graph.outputs.update((f"y{index}", value) for index, value in enumerate(returned))
    return graph


def outputs_of(graph: Graph, feeds: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    """The outputs, and the largest number that occurs on the way to them."""
    largest = [1.0]
    outputs = Interpreter(graph).run(feeds, lambda value, tensor: largest.append(float(tensor.abs().max())))
    return outputs, max(largest)


def hold(graph: Graph, step: Pass, context, feeds) -> None:
    """Run a pass twice and hold it to its word."""
    wanted, largest = outputs_of(graph, feeds)
    before = graph.clone()
    result = step.apply(graph, context(before))
    verify(graph)
    assert result.changed == bool(differences(before, graph)), (result.counts, differences(before, graph))
    got, _ = outputs_of(graph, feeds)
    for name, array in wanted.items():
        if step.effect is Effect.EXACT:
            np.testing.assert_array_equal(got[name], array)
        else:
            np.testing.assert_allclose(got[name], array, rtol=1e-3, atol=1e-5 * largest)
    again = step.apply(graph, context(before))
    assert not again.changed, again.counts


def hold_all(data, context, feeds_of) -> None:
    """Each pass alone, then all of them one after another, and `cleanup`, which needs no second run either."""
    graph = data.draw(graphs())
    feeds = feeds_of(graph)
    for step in KEEPING:
        hold(graph.clone(), step, context, feeds)
    copy = graph.clone()
    for step in parse_pipeline("cleanup"):
        step.run(copy, context(graph))
    for step in parse_pipeline("cleanup"):
        assert not step.run(copy, context(graph)).changed, f"after cleanup there is more for {step.name}"
    for step in data.draw(st.permutations(KEEPING)):
        hold(graph, step, context, feeds)
    types = [value.type for value in graph.values()]
    refresh(graph)
    assert [value.type for value in graph.values()] == types


@settings(deadline=None, max_examples=12, derandomize=True)
@given(st.data())
def test_passes_keep_what_a_graph_computes(context, feeds_of, data) -> None:
    hold_all(data, context, feeds_of)


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(st.data())
def test_passes_keep_what_many_graphs_compute(context, feeds_of, data) -> None:
    hold_all(data, context, feeds_of)
