"""What passes look for, written with whatever values there are; random changes (see `changes`) make near misses."""

from collections.abc import Callable
from functools import cache
from inspect import signature
from random import Random
from typing import Any

import numpy as np

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Node, Value
from planish.ir.types import DType
from planish.passes.pipeline import pass_classes

from .sketch import Sketch

Idiom = Callable[[Sketch, Random], object]
IDIOMS: dict[str, Idiom] = {}

_NUMBERS = [*3 * [np.float32], np.float64, np.float16, np.int64, np.int32]


def idiom(function: Idiom) -> Idiom:
    IDIOMS[function.__name__] = function
    return function


def size(x: Value, axis: int) -> int:
    """A size, with 1 for what is symbolic."""
    dim = x.shape[axis]
    return dim if isinstance(dim, int) else 1


def broadcastable(x: Value, random: Random) -> list[int]:
    """A shape that x can be combined with: some of its axes, perhaps one more."""
    widest = [*random.choice([[], [1], [2]]), *(size(x, axis) for axis in range(x.type.rank))]
    return [dim if random.random() < 0.6 else 1 for dim in widest[random.randrange(len(widest) + 1) :]]


@idiom
def neutral(sketch: Sketch, random: Random) -> None:
    """Arithmetic with a constant, often neutral, that may broadcast, on either side; of any numbers."""
    x = sketch.pick(dtype=random.choice(_NUMBERS))
    for _ in range(3):
        number = random.choice([0, 1, 1, 2, -1])
        constant = np.full(broadcastable(x, random), number, x.dtype.numpy)
        operator = random.choice(["Add", "Mul", "Sub", "Div", "Pow"])
        if operator in ("Div", "Pow") and not number:
            constant = constant + constant.dtype.type(1)
        x = sketch.op(operator, *((constant, x) if random.random() < 0.3 else (x, constant)))


@idiom
def exponent(sketch: Sketch, random: Random) -> None:
    """A power of another element type than what is raised."""
    sketch.op.Pow(sketch.pick(), np.full(random.choice([(), (1,), (1, 1)]), 1, random.choice([np.int64, np.float64])))


@idiom
def unary(sketch: Sketch, random: Random) -> None:
    operator = random.choice(["Relu", "Tanh", "Identity", "Neg", "Sigmoid", "Dropout", "Max", "Sum", "Concat", "Shape"])
    sketch.op(operator, sketch.pick(rank=1, dtype=None), **{"axis": 0} if operator == "Concat" else {})


@idiom
def pair(sketch: Sketch, random: Random) -> None:
    x, y = sketch.pick(), sketch.pick()
    operator = random.choice(["Add", "Mul", "Sub", "Max"])
    sketch.op.Concat(sketch.op(operator, x, y), sketch.op(operator, *random.choice([(x, y), (y, x)])), axis=0)


@idiom
def twice(sketch: Sketch, random: Random) -> None:
    """An equal subexpression; almost equal ones."""
    x, op = sketch.pick(rank=2, dtype=random.choice(_NUMBERS)), sketch.op
    axis = random.choice([0, 1, -1])
    copies = [op.Softmax(op.Neg(x), axis=random.choice([axis, axis, -1])) for _ in range(2)]
    op.Sub(*copies)
    op.Mul(op.Add(x, op.constant([1.5])), op.Add(x, op.constant([random.choice([1.5, 1.5, 2.5])])))


@idiom
def several(sketch: Sketch, random: Random) -> None:
    """Nodes of several results, of which some are read."""
    x, op = sketch.pick(rank=2, dtype=random.choice(_NUMBERS)), sketch.op
    axis = random.randrange(2)
    number = size(x, axis)
    results = [
        op.TopK(x, [random.choice([1, number])], axis=axis, outputs=2, largest=random.randrange(2)) for _ in range(2)
    ]
    op.Add(results[0][0], results[1][0])
    if random.random() < 0.5:
        op.Cast(op.Neg(results[1][1]), to=DType.float32)


@idiom
def transpose(sketch: Sketch, random: Random) -> None:
    """One, or two that cancel or don't; with an elementwise operator between them perhaps."""
    x, op = sketch.pick(rank=2, dtype=None), sketch.op
    order = list(range(x.type.rank))
    random.shuffle(order)
    turned = op.Transpose(x, perm=order)
    back = [order.index(axis) for axis in range(x.type.rank)]
    match random.randrange(4):
        case 0:
            op.Transpose(turned, perm=back)
        case 1:
            op.Transpose(turned, perm=random.sample(order, len(order)))
        case 2:
            op.Transpose(op.Relu(turned), perm=back)
        case _:
            op.Transpose(op.Transpose(x))


@idiom
def cast(sketch: Sketch, random: Random) -> None:
    to = random.choice([DType.float32, DType.float64, DType.float16, DType.int32, DType.bool])
    sketch.op.Cast(sketch.op.Cast(sketch.pick(dtype=None), to=to), to=random.choice([to, DType.float32]))


@idiom
def reshape(sketch: Sketch, random: Random) -> None:
    """A reshape to the same shape, flat, or flat and back by a shape that is computed."""
    x, op = sketch.pick(rank=1, dtype=None), sketch.op
    rank = x.type.rank
    flat = op.Reshape(x, [0, -1]) if rank > 1 else op.Reshape(x, [-1])
    match random.randrange(6):
        case 0:
            op.Reshape(x, [0] * rank)
        case 1:
            op.Reshape(flat, op.Shape(x))
        case 2:
            dims = [op.Gather(op.Shape(x), [axis]) for axis in range(rank)]
            op.Reshape(flat, op.Concat(*dims, axis=0))
        case 3:
            first = op.Gather(op.Shape(x), op.constant(np.array(0)))
            op.Reshape(flat, op.Concat(op.Unsqueeze(first, [0]), op.constant([-1]), axis=0))
        case 4:
            rows = op.Mul(op.Slice(op.Shape(x), [0], [1]), op.Shape(x, start=rank - 1))
            op.Reshape(x, op.Concat(rows, op.constant([-1]), axis=0))
        case _:
            op.Reshape(op.Squeeze(op.Unsqueeze(flat, [1]), [1]), [-1])


@idiom
def shapes(sketch: Sketch, random: Random) -> None:
    """Arithmetic of sizes, read as such or as numbers."""
    x, op = sketch.pick(rank=1, dtype=random.choice(_NUMBERS)), sketch.op
    shape = op.Shape(x)
    changed = op(random.choice(["Add", "Mul", "Sub", "Div", "Max"]), shape, random.choice([1, 2, -1]))
    match random.randrange(5):
        case 0:
            op.ConstantOfShape(op.Abs(changed), value=np.ones(1, np.float32))
        case 1:
            op.Expand(x, op.Where(op.Equal(shape, 1), op.constant([2]), shape))
        case 2:
            op.Add(x, op.Cast(op.ReduceProd(changed, keepdims=0), to=DType.float32))
        case 3:
            op.Range(0, op.Squeeze(op.Gather(shape, [0])), 1)
        case _:
            op.Slice(x, [0], op.Gather(shape, [-1]), [x.type.rank - 1])


@idiom
def counts(sketch: Sketch, random: Random) -> None:
    """A size that is computed in another element type, where sums may be rounded or wrap around."""
    x, op = sketch.pick(rank=1, dtype=None), sketch.op
    kind = random.choice([DType.float32, DType.float16, DType.int32, DType.uint8, DType.int8])
    numbers = [0.7, 0.1, 3.0, 100.0] if kind.is_float else [2, 3, 100]
    row = op.Concat(op.Shape(x), op.constant([random.choice([1, 10, 100])]), axis=0)
    for _ in range(random.choice([1, 1, 2])):
        left = random.choice([op.Cast(row, to=kind), op.constant(np.array([random.choice(numbers)], kind.numpy))])
        row = op(random.choice(["Mul", "Add", "Div", "Sub"]), left, np.array([random.choice(numbers)], kind.numpy))
    op.Add(op.Cast(row, to=DType.int64), random.choice([0, 2**62]))


@idiom
def resize(sketch: Sketch, random: Random) -> None:
    """Ways to keep a shape, or to change it by one."""
    for _ in range(3):
        _resized(sketch, random)


def _resized(sketch: Sketch, random: Random) -> None:
    x, op = sketch.pick(rank=1, dtype=None), sketch.op
    rank = x.type.rank
    axis = random.randrange(rank)
    match random.randrange(6):
        case 0:
            widths = [0] * (2 * rank)
            widths[random.randrange(2 * rank)] = random.choice([0, 1, -1])
            op.Pad(x, widths)
        case 1:
            start, end = random.choice([0, 0, 1]), random.choice([-1, 2**31, size(x, axis)])
            op.Slice(x, [start], [end], [axis], [random.choice([1, 1, 2])])
        case 2:
            op.Slice(x, [-1], [-(2**31)], [axis], [-1])
        case 3:
            op.Expand(x, op.Shape(x) if random.random() < 0.5 else np.array(broadcastable(x, random), np.int64))
        case 4:
            op.Tile(x, [random.choice([1, 1, 1, 2]) for _ in range(rank)])
        case _:
            op.Squeeze(op.Unsqueeze(x, [axis]), [axis])


@idiom
def constants(sketch: Sketch, random: Random) -> None:
    """An expression of constants alone, which others may read as well."""
    op = sketch.op
    a, b = op.constant(sketch.weights(3)), op.constant(sketch.weights(1))
    total = op.ReduceMax(op.Mul(a, b), keepdims=0)
    if random.random() < 0.5:
        op.Add(sketch.pick(), op.ReduceMin(a, keepdims=0))
    op.Add(sketch.pick(), total)


@idiom
def dead(sketch: Sketch, random: Random) -> None:
    """What nobody can read: its own result is its only one, and goes nowhere (see `graphs`)."""
    sketch.op.Exp(sketch.op.Relu(sketch.pick(dtype=None)), name="dead")


@idiom
def layer_norm(sketch: Sketch, random: Random) -> None:
    """Along the last axis or the first; with a scale of the last axis, or of all."""
    x, op = sketch.pick(rank=1), sketch.op
    axes = op.constant([random.choice([-1, -1, 0])])
    deviation = op.Sub(x, op.ReduceMean(x, axes))
    square = random.choice([lambda: op.Pow(deviation, 2.0), lambda: op.Mul(deviation, deviation)])()
    spread = op.Sqrt(op.Add(op.ReduceMean(square, axes), 1e-2))
    last = size(x, -1)
    op.Add(op.Mul(op.Div(deviation, spread), sketch.weights(last)), sketch.weights(random.choice([last, last, 1])))


@idiom
def linear(sketch: Sketch, random: Random) -> None:
    x, op = sketch.pick(rank=2), sketch.op
    x = x if random.random() < 0.5 else op.Flatten(x)
    columns = random.choice([3, 4])
    y = op.MatMul(x, sketch.weights(size(x, -1), columns))
    op.Add(y, sketch.weights(*random.choice([(columns,), (columns,), (1,), (), (1, columns), (size(y, -2), 1)])))


@idiom
def convolution(sketch: Sketch, random: Random) -> None:
    """A convolution with or without a bias, by groups or not, and what often follows it."""
    x, op = sketch.pick(rank=4), sketch.op
    if x.type.rank != 4:
        x = op.Reshape(x, [0, 0, 0, -1])
    channels = size(x, 1)
    group = random.choice([1, 1, channels])
    bias = sketch.weights(channels) if random.random() < 0.5 else None
    if random.random() < 0.5:
        y = op.ConvTranspose(x, sketch.weights(channels, channels // group, 1, 1), bias, group=group)
    else:
        y = op.Conv(x, sketch.weights(channels, channels // group, 1, 1), bias, group=group)
    for _ in range(random.choice([1, 1, 2])):
        y = _after_linear(sketch, random, y, channels)


@idiom
def gemm(sketch: Sketch, random: Random) -> None:
    """A Gemm and what often follows it."""
    x, op = sketch.pick(rank=2), sketch.op
    flat = x if x.type.rank == 2 else op.Flatten(x)
    turned = random.randrange(2)
    shape = (3, size(flat, 1)) if turned else (size(flat, 1), 3)
    attributes = {"transB": turned, "beta": random.choice([None, None, 0.5]), "alpha": random.choice([None, None, 2.0])}
    y = op.Gemm(flat, sketch.weights(*shape), sketch.weights(3) if random.random() < 0.5 else None, **attributes)
    _after_linear(sketch, random, y, 3)


def _after_linear(sketch: Sketch, random: Random, y: Value, channels: int) -> Value:
    scale, shift, mean, variance = (sketch.weights(channels) for _ in range(4))
    if random.random() < 0.5:
        return sketch.op.BatchNormalization(y, scale, shift, mean, np.abs(variance) + 0.5)
    ones = (1,) * (y.type.rank - 2)
    last = sketch.weights(size(y, -1))
    other = random.choice([scale.reshape(-1, *ones), scale.reshape(1, -1, *ones), scale[:1], last])
    return sketch.op(random.choice(["Add", "Mul"]), y, other)


@idiom
def branch(sketch: Sketch, random: Random) -> None:
    """An If on data, whose branches read what is around them, and repeat themselves."""
    x, op = sketch.pick(dtype=random.choice(_NUMBERS)), sketch.op
    outer = op.Relu(x)
    condition = op.Less(op.ReduceSum(x, keepdims=0), random.choice([0.0, 1e9]))
    branches = {name: _branch(sketch, random, x, outer) for name in ("then_branch", "else_branch")}
    op.If(condition, **branches)


def _branch(sketch: Sketch, random: Random, x: Value, outer: Value) -> Graph:
    graph = Graph("branch", sketch.graph)
    op = Builder(graph)
    y = op.Sub(op.Neg(outer), op.Neg(random.choice([outer, x])))
    op.Exp(y)
    match random.randrange(4):
        case 0:
            y = op.Mul(op.Add(x, 0.0), op.Sigmoid(op.Add(x, 0.0)))
        case 1:
            y = op.Add(y, op.ReduceSum(op.Mul(op.constant(sketch.weights(2)), 1.5), keepdims=0))
        case 2:
            y = op.Transpose(op.Transpose(y))
        case _:
            y = op.Identity(outer)
    graph.outputs["y"] = y
    return graph


@idiom
def loop(sketch: Sketch, random: Random) -> None:
    """A Loop over a state, with a constant and a value from around it."""
    x, op = sketch.pick(), sketch.op
    body = Graph("body", sketch.graph)
    inner = Builder(body)
    _, goes_on, state = (body.add_input(body.unique_name(name), type) for name, type in _loop_inputs(x))
    body.outputs["go"] = inner.Identity(goes_on)
    twin = inner.Mul(inner.Add(state, x), inner.Add(inner.Add(state, x), 0.0))
    body.outputs["state"] = inner.Add(inner.Tanh(twin), inner.Mul(inner.constant(sketch.weights(1)), 1.0))
    body.outputs["row"] = inner.Relu(random.choice([state, twin]))
    op.Loop(op.constant(np.array(2)), None, x, body=body, outputs=2)


def _loop_inputs(x: Value) -> list[tuple[str, Any]]:
    kind = type(x.type)
    return [("step", kind(DType.int64, ())), ("goes_on", kind(DType.bool, ())), ("state", x.type)]


@idiom
def sequences(sketch: Sketch, random: Random) -> None:
    """Values put into a sequence and taken out again."""
    x, op = sketch.pick(rank=1, dtype=None), sketch.op
    held = op.SequenceConstruct(x, op.Relu(x), op.Neg(x))
    match random.randrange(5):
        case 0:
            op.SequenceAt(held, op.constant(np.array(random.choice([0, -1]))))
        case 1:
            op.SequenceLength(op.SequenceErase(held, op.constant(np.array(1))))
        case 2:
            op.ConcatFromSequence(held, axis=0, new_axis=random.randrange(2))
        case 3:
            op.SequenceLength(op.SequenceInsert(op.SequenceEmpty(dtype=1), x))
        case _:
            op.OptionalGetElement(op.Optional(x))


@cache
def _patterns() -> list[Callable[..., Any]]:
    """The patterns of all rules that look for one value and what is computed from it."""
    rules = [rule for kind in pass_classes().values() for rule in getattr(kind, "rules", ())]
    return [rule.pattern for rule in rules if list(signature(rule.pattern).parameters) == ["op", "x"]]


@idiom
def rule(sketch: Sketch, random: Random) -> None:
    """What a rule looks for, written by the pattern itself."""
    writer = _Writer(sketch.graph)
    result = random.choice(_patterns())(
        writer, sketch.pick(dtype=random.choice([*3 * [np.float32], np.float64, np.float16]))
    )
    for node in reversed(writer.nodes):  # a pattern may write more than it returns
        if node.output is not result and not node.output.uses:
            sketch.graph.erase(node)


class _Writer(Builder):
    """Stands in for a pattern's builder: writes the nodes that it looks for."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.nodes: list[Node] = []

    def __call__(self, operator: str, *operands: Any, **attributes: Any) -> Any:
        result = super().__call__(operator, *operands, **attributes)
        self.nodes.append(result.producer)
        return result

    def attribute(self, name: str) -> float | None:
        return {"alpha": 1 / 6}.get(name)
