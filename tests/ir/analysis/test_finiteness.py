"""What is claimed of masks holds for the numbers, and what is needed of them is claimed."""

import numpy as np
import pytest

from planish.ir.analysis.finiteness import Places, finite_places
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Value
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType

INFINITE = float("inf")
MOST = float(np.finfo(np.float32).max)


def holds(places: Places, array: np.ndarray) -> bool:
    """Whether all that is claimed of an array is so."""
    is_open = array if array.dtype == np.bool_ else np.isfinite(array)
    is_number = array.dtype.kind != "f" or not (np.isnan(array).any() or np.isposinf(array).any())
    rows = all(is_open.any(axis=axis).all() for axis in places.rows if -axis <= array.ndim)
    return (not places.full or bool(is_open.all())) and rows and (not places.is_number or is_number)


FLOATS = [
    np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32),
    np.array([[1, -INFINITE, -INFINITE], [2, 3, -INFINITE], [4, 5, 6]], np.float32),
    np.array([[1, -INFINITE, 0], [-INFINITE, -INFINITE, -INFINITE], [4, 5, 6]], np.float32),
    np.array([-MOST, 0, -INFINITE], np.float32),
    np.array([[-MOST], [0], [1]], np.float32),
    np.array([MOST, MOST, MOST], np.float32),
    np.array([INFINITE, 1, 2], np.float32),
    np.array([np.nan, 1, 2], np.float32),
    np.array(-INFINITE, np.float32),
    np.array(2, np.float32),
]
TRUTHS = [
    np.tri(3, dtype=bool),
    np.array([[True, False, True], [False, False, False], [True, True, True]]),
    np.array([[True], [False], [True]]),
    np.array([True, False, False]),
    np.array(True),
    np.array(False),
]
UNARY = {
    "Identity": lambda op, x: op.Identity(x),
    "Neg": lambda op, x: op.Neg(x),
    "Abs": lambda op, x: op.Abs(x),
    "Relu": lambda op, x: op.Relu(x),
    "Sigmoid": lambda op, x: op.Sigmoid(x),
    "Expand": lambda op, x: op.Expand(x, [2, 3, 3]),
    "Unsqueeze": lambda op, x: op.Unsqueeze(x, [-1]),
    "Unsqueeze in front": lambda op, x: op.Unsqueeze(x, [0]),
    "Squeeze": lambda op, x: op.Squeeze(op.Unsqueeze(x, [0, -1]), [-1]),
    "Transpose": lambda op, x: op.Transpose(op.Expand(x, [2, 3, 3]), perm=(2, 0, 1)),
    "Reshape": lambda op, x: op.Reshape(op.Expand(x, [2, 3, 3]), [6, 3]),
    "Reshape of the last axis": lambda op, x: op.Reshape(op.Expand(x, [2, 3, 3]), [2, 9]),
    "Concat": lambda op, x: op.Concat(op.Expand(x, [3, 3]), np.full((3, 1), -INFINITE, np.float32), axis=1),
    "Concat of rows": lambda op, x: op.Concat(op.Expand(x, [3, 3]), np.full((1, 3), -INFINITE, np.float32), axis=-2),
    "Slice": lambda op, x: op.Slice(op.Expand(x, [3, 3]), [0], [2], [1]),
    "Gather": lambda op, x: op.Gather(op.Expand(x, [3, 3]), np.array([1, 1]), axis=1),
    "Clip": lambda op, x: op.Clip(x, -100.0, 100.0),
    "Clip above": lambda op, x: op.Clip(x, None, 100.0),
    "Square": lambda op, x: op.Pow(x, 2.0),
    "Halve": lambda op, x: op.Div(x, 2.0),
    "Divide by nothing": lambda op, x: op.Div(x, 0.0),
    "To float16": lambda op, x: op.Cast(x, to=DType.float16),
    "To bool": lambda op, x: op.Cast(x, to=DType.bool),
    "Softmax": lambda op, x: op.Softmax(op.Expand(x, [3, 3])),
    "Softmax of columns": lambda op, x: op.Softmax(op.Expand(x, [3, 3]), axis=0),
    "LayerNormalization": lambda op, x: op.LayerNormalization(op.Expand(x, [3, 3]), np.ones(3, np.float32)),
    "Guard": lambda op, x: guard(op, op.Softmax(op.Expand(x, [3, 3]))),
}
BINARY = ("Add", "Sub", "Mul", "Max", "Min", "MatMul", "Sum")


def guard(op: Builder, rows: Value) -> Value:
    return op.Where(op.IsNaN(rows), op.constant(0.0), rows)


def claims_of(*results: Value, graph: Graph) -> list[Places]:
    graph.outputs = {f"y{index}": value for index, value in enumerate(results)}
    known = finite_places(graph)
    with np.errstate(all="ignore"):
        arrays = Interpreter(graph).run({})
    for name, value in graph.outputs.items():
        assert holds(known[value], arrays[name]), (name, known[value], arrays[name])
    return [known[value] for value in results]


@pytest.mark.parametrize("name", UNARY)
def test_what_is_claimed_of_a_function_holds(name: str) -> None:
    graph = Graph()
    op = Builder(graph)
    claims_of(*(UNARY[name](op, op.constant(array)) for array in FLOATS), graph=graph)


@pytest.mark.parametrize("operator", BINARY)
def test_what_is_claimed_of_two_operands_holds(operator: str) -> None:
    graph = Graph()
    op = Builder(graph)
    if operator == "MatMul":
        square = [op.Expand(op.constant(array), [3, 3]) for array in FLOATS]
        pairs = [(one, other) for one in square for other in square]
    else:
        pairs = [(op.constant(one), op.constant(other)) for one in FLOATS for other in FLOATS]
    claims_of(*(op(operator, one, other) for one, other in pairs), graph=graph)


def test_what_is_claimed_of_truths_holds() -> None:
    graph = Graph()
    op = Builder(graph)
    truths, floats = [op.constant(array) for array in TRUTHS], [op.constant(array) for array in FLOATS]
    pairs = [(one, other) for one in truths for other in truths]
    made = [op(operator, one, other) for operator in ("And", "Or") for one, other in pairs]
    made += [op.Where(one, x, y) for one in (*truths, *map(op.Not, truths)) for x in floats for y in floats]
    made += [op.Cast(one, to=DType.float32) for one in truths]
    made += [op.Trilu(op.Expand(one, [3, 3]), op.constant(offset), upper=upper) for one in truths
             for offset in (-1, 0, 1) for upper in (0, 1)]  # fmt: skip
    claims_of(*made, graph=graph)


def test_masks_of_models() -> None:
    graph = Graph()
    op = Builder(graph)
    scores = graph.add_input("scores", TensorType(DType.float32, (1, 2, 3, 3)))
    mask = graph.add_input("mask", TensorType(DType.bool, (1, 1, 1, 3)))
    kept = graph.add_input("kept", TensorType(DType.int64, (1, 1, 1, 3)))
    never, least = op.constant(-INFINITE), op.constant(-MOST)
    triangle = op.constant(np.tri(3, dtype=bool))
    low = op.Mul(op.Sub(op.constant(1.0), op.Cast(kept, to=DType.float32)), least)
    opening = {
        "none": scores,
        "causal": op.Where(triangle, scores, never),
        "closed by its negation": op.Where(op.Not(triangle), never, scores),
        "causal, added": op.Add(scores, op.Where(triangle, op.constant(0.0), never)),
        "causal, made at run time": op.Where(op.Trilu(op.Expand(op.constant(np.ones((1, 1), bool)), [3, 3]), upper=0),
                                             scores, never),
        "an input, by a finite number": op.Add(scores, op.Where(mask, op.constant(0.0), least)),
        "an input and the diagonal": op.Where(op.Or(mask, op.constant(np.eye(3, dtype=bool))), scores, never),
        "no longer infinite": op.Max(op.Where(mask, scores, never), least),
    }  # fmt: skip
    closing = {
        "an input": op.Where(mask, scores, never),
        "an input, added": op.Add(scores, op.Where(mask, op.constant(0.0), never)),
        "an input and causal": op.Where(op.And(mask, triangle), scores, never),
        "an input, which may be more than one, times a finite number": op.Add(scores, low),
        "two finite numbers, whose sum is not": op.Add(op.Add(scores, least), least),
        "a triangle without its diagonal": op.Where(op.constant(np.tri(3, k=-1, dtype=bool)), scores, never),
        "an input of floats that a root is drawn of": op.Add(scores, op.Sqrt(scores)),
    }
    known = finite_places(graph)
    assert {name for name, value in opening.items() if not known[value].opens(-1)} == set()
    assert {name for name, value in closing.items() if known[value].opens(-1)} == set()
