"""Types where sizes depend on data: whatever the data, they are what the interpreter gives."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from planish.ir.builder import Builder
from planish.ir.contents import contents
from planish.ir.dims import Dim, evaluate
from planish.ir.errors import ModelError
from planish.ir.graph import Constant, Graph, Value
from planish.ir.infer import infer
from planish.ir.interpreter import Interpreter
from planish.ir.reinfer import reinfer
from planish.ir.types import DType, TensorType
from planish.ir.unknown import is_from_data

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]
Applied: TypeAlias = tuple[str, Sequence[np.ndarray | None], dict[str, Any], int]
"""An operator, its inputs, its attributes and the number of its outputs."""
FAR = 2**63 - 1


def array(draw: Draw, *shape: int) -> np.ndarray:
    count = int(np.prod(shape))
    numbers = draw(st.lists(st.integers(-2, 2), min_size=count, max_size=count))
    return np.array(numbers, np.float32).reshape(shape)


def tensor(draw: Draw, rank: int = 0, low: int = 0) -> np.ndarray:
    """An array of a rank, or of any."""
    return array(draw, *(draw(st.integers(low, 4)) for _ in range(rank or draw(st.integers(1, 3)))))


def ints(values: Any) -> np.ndarray:
    return np.asarray(values, np.int64)


def some_axes(draw: Draw, rank: int, least: int = 0) -> list[int]:
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=least, max_size=rank, unique=True))
    return [axis - rank if draw(st.booleans()) else axis for axis in axes]


def sliced(draw: Draw) -> Applied:
    x = tensor(draw)
    axes = some_axes(draw, x.ndim, 1)
    bounds = [ints([draw(st.integers(-5, 5)) for _ in axes]) for _ in range(2)]
    steps = ints([draw(st.sampled_from([-2, -1, 1, 2])) for _ in axes])
    return "Slice", [x, *bounds, ints(axes), steps], {}, 1


def reshaped(draw: Draw) -> Applied:
    x = tensor(draw, low=1)
    shape = draw(st.sampled_from([[-1], [0, -1], [-1, 1], [1, -1, 1], [x.size], [x.shape[0], -1, 1], [1, x.size]]))
    return "Reshape", [x, ints(shape)], {}, 1


def expanded(draw: Draw) -> Applied:
    x = tensor(draw)
    shape = [draw(st.sampled_from([1, size if size != 1 else draw(st.integers(0, 4))])) for size in x.shape]
    return "Expand", [x, ints([*draw(st.sampled_from([[], [2], [1, 3]])), *shape])], {}, 1


def split(draw: Draw) -> Applied:
    sizes = draw(st.lists(st.integers(0, 3), min_size=2, max_size=3))
    return "Split", [array(draw, 2, sum(sizes)), ints(sizes)], {"axis": 1}, len(sizes)


def padded(draw: Draw) -> Applied:
    x = tensor(draw, low=1)
    axes = some_axes(draw, x.ndim, 1)
    return (
        "Pad",
        [x, ints([draw(st.integers(-1, 2)) for _ in axes] + [draw(st.integers(0, 2)) for _ in axes]), None, ints(axes)],
        {},
        1,
    )


def squeezed(draw: Draw) -> Applied:
    x = array(draw, *draw(st.permutations([1, draw(st.integers(1, 3)), draw(st.integers(0, 3))])))
    units = [axis for axis, size in enumerate(x.shape) if size == 1]
    return "Squeeze", [x, ints(draw(st.lists(st.sampled_from(units), max_size=len(units), unique=True)))], {}, 1


def reduced(draw: Draw) -> Applied:
    x = tensor(draw, low=1)
    keepdims, empty = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    return "ReduceMax", [x, ints(some_axes(draw, x.ndim))], {"keepdims": keepdims, "noop_with_empty_axes": empty}, 1


def unique(draw: Draw) -> Applied:
    x = tensor(draw, low=1)
    axis = draw(st.sampled_from([None, *range(-x.ndim, x.ndim)]))
    return "Unique", [x], {} if axis is None else {"axis": axis}, draw(st.integers(1, 4))


def folded(draw: Draw) -> Applied:
    height, width, *taps = (
        draw(st.integers(2, 4)),
        draw(st.integers(2, 4)),
        draw(st.integers(1, 2)),
        draw(st.integers(1, 2)),
    )
    windows = (height - taps[0] + 1) * (width - taps[1] + 1)
    return "Col2Im", [array(draw, 1, 2 * taps[0] * taps[1], windows), ints([height, width]), ints(taps)], {}, 1


def transformed(draw: Draw) -> Applied:
    x = array(draw, *(draw(st.integers(2, 4)) for _ in range(2)), 1)
    length = draw(st.sampled_from([None, ints(3)]))
    return "DFT", [x, length, ints(draw(st.sampled_from([0, 1, -2])))], {"onesided": draw(st.integers(0, 1))}, 1


def frames(draw: Draw) -> Applied:
    window = draw(st.sampled_from([None, np.ones(4, np.float32)]))
    return "STFT", [array(draw, 2, 9, 1), ints(draw(st.integers(1, 3))), window, ints(4)], {}, 1


def resized(draw: Draw) -> Applied:
    x = tensor(draw, 4, low=1)
    if draw(st.booleans()):
        return "Resize", [x, None, None, ints([*x.shape[:2], 3, draw(st.integers(1, 5))])], {}, 1
    return "Resize", [x, None, np.array([1, 1, draw(st.sampled_from([0.5, 2.0])), 1.5], np.float32)], {}, 1


HOST: dict[str, Callable[[Draw], Applied]] = {
    "Slice": sliced,
    "Reshape": reshaped,
    "Expand": expanded,
    "Split": split,
    "Pad": padded,
    "Squeeze": squeezed,
    "ReduceMax": reduced,
    "Unique": unique,
    "Col2Im": folded,
    "DFT": transformed,
    "STFT": frames,
    "Resize": resized,
    "Unsqueeze": lambda draw: ("Unsqueeze", [tensor(draw, 2), ints(draw(st.sampled_from([[0], [1, 3], [-1, 0]])))],
                               {}, 1),
    "Tile": lambda draw: ("Tile", [tensor(draw, 2), ints([draw(st.integers(0, 2)) for _ in range(2)])], {}, 1),
    "TopK": lambda draw: ("TopK", [array(draw, 3, 4), ints([draw(st.integers(0, 3))])],
                          {"axis": draw(st.integers(-2, 1))}, 2),
    "OneHot": lambda draw: ("OneHot", [ints([0, 1]), ints(draw(st.integers(1, 4))), ints([0, 1])],
                            {"axis": draw(st.integers(-2, 1))}, 1),
    "Range": lambda draw: ("Range", [ints(draw(st.integers(-3, 3))) for _ in range(2)]
                           + [ints(draw(st.sampled_from([-2, 1, 2])))], {}, 1),
    "ConstantOfShape": lambda draw: ("ConstantOfShape", [ints(draw(st.lists(st.integers(0, 3), max_size=3)))], {}, 1),
    "CumSum": lambda draw: ("CumSum", [tensor(draw, 2), ints(draw(st.integers(-2, 1)))], {}, 1),
    "Trilu": lambda draw: ("Trilu", [tensor(draw, 2), ints(draw(st.integers(-2, 2)))], {}, 1),
    "CenterCropPad": lambda draw: ("CenterCropPad", [tensor(draw, 2), ints([draw(st.integers(0, 5))])],
                                   {"axes": (1,)}, 1),
    "HannWindow": lambda draw: ("HannWindow", [ints(draw(st.integers(2, 5)))], {}, 1),
    "AffineGrid": lambda draw: ("AffineGrid", [array(draw, 2, 2, 3), ints([2, 1, draw(st.integers(1, 3)), 2])], {}, 1),
    "MelWeightMatrix": lambda draw: ("MelWeightMatrix",
                                     [ints(draw(st.integers(1, 4))), ints(draw(st.integers(2, 9))), ints(8000),
                                      np.array(0, np.float32), np.array(4000, np.float32)], {}, 1),
    "NonZero": lambda draw: ("NonZero", [tensor(draw)], {}, 1),
    "Compress": lambda draw: ("Compress", [array(draw, 3, 2),
                                           np.array(draw(st.lists(st.booleans(), min_size=3, max_size=3)))],
                              {"axis": 0}, 1),
}  # fmt: skip
"""Operators that are told sizes, or whose results' sizes follow from data."""

SIZED: dict[str, Callable[[Draw], Applied]] = {
    "Add": lambda draw: ("Add", [array(draw, *((n := draw(st.integers(0, 3))), draw(st.sampled_from([1, 3])))),
                                  array(draw, draw(st.sampled_from([1, n])), 3)], {}, 1),
    "Concat": lambda draw: ("Concat", [array(draw, draw(st.integers(0, 3)), 2) for _ in range(2)], {"axis": 0}, 1),
    "Flatten": lambda draw: ("Flatten", [tensor(draw, 3)], {"axis": draw(st.integers(0, 2))}, 1),
    "Gather": lambda draw: ("Gather", [tensor(draw, 2, low=1), ints(draw(st.lists(st.just(0), max_size=3)))], {}, 1),
    "MatMul": lambda draw: ("MatMul", [array(draw, draw(st.integers(0, 3)), (k := draw(st.integers(0, 3)))),
                                        array(draw, k, 2)], {}, 1),
    "MaxPool": lambda draw: ("MaxPool", [array(draw, 1, 1, draw(st.integers(3, 9)))],
                             {"kernel_shape": (3,), "strides": (2,)}, 1),
    "Squeeze": lambda draw: ("Squeeze", [array(draw, 2, draw(st.sampled_from([1, 3])))], {}, 1),
    "Transpose": lambda draw: ("Transpose", [tensor(draw, 2)], {}, 1),
    "GatherND": lambda draw: ("GatherND", [array(draw, 2, 2), ints([[0, 1]] * draw(st.integers(0, 3)))], {}, 1),
}  # fmt: skip
"""Operators that compute with what has such sizes."""


def check(draw: Draw, applied: Applied, *, is_computed: bool) -> None:
    """Infer with some sizes, and the host inputs' content, left open; hold the type against what the operator gives."""
    operator, arrays, attributes, outputs = applied
    sizes: dict[str, int] = {}

    def dim(size: int) -> Dim:
        name = f"some__{size:010x}_0"  # equal sizes meet, as those of one source do
        if draw(st.booleans()):
            return size
        assert is_from_data(name)
        return name if sizes.setdefault(name, size) == size else size

    graph = Graph()
    inputs: list[Value | None] = []
    feeds: dict[str, np.ndarray] = {}
    for index, held in enumerate(arrays):
        if held is None:
            inputs.append(None)
        elif held.dtype.kind == "i" and not is_computed:
            inputs.append(graph.add_constant(held))
        else:
            shape = tuple(map(dim, held.shape)) if held.dtype.kind == "f" else held.shape
            inputs.append(graph.add_input(f"input.{index}", TensorType(DType.of(held.dtype), shape)))
            feeds[f"input.{index}"] = held
    try:
        types = infer(operator, inputs, attributes, outputs)
    except ModelError as error:
        assert "depends on data" in str(error) or "can't be applied" in str(error)
        return
    node = graph.add_node(operator, inputs, types, attributes)
    graph.outputs.update({str(index): value for index, value in enumerate(node.outputs)})
    for type, result in zip(types, Interpreter(graph).run(feeds).values(), strict=True):
        assert type.dtype is DType.of(result.dtype)
        for known, size in zip(type.dims, result.shape, strict=True) if type.is_ranked else ():
            if isinstance(known, str) and known.isidentifier():
                assert sizes.setdefault(known, size) == size
            else:
                assert evaluate(known, sizes) == size


@pytest.mark.parametrize("operator", HOST)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_type_is_right_whatever_the_data(operator: str, data: DataObject) -> None:
    check(data.draw, HOST[operator](data.draw), is_computed=data.draw(st.booleans()))


@pytest.mark.parametrize("operator", SIZED)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_type_is_right_whatever_sizes_the_data_gave(operator: str, data: DataObject) -> None:
    check(data.draw, SIZED[operator](data.draw), is_computed=True)


# -- what is known all the same


def given_as(name: str, *shape: Dim, dtype: DType = DType.float32) -> Value:
    return Value(name, TensorType(dtype, shape))


def computed(count: int, name: str = "row") -> Value:
    return given_as(name, count, dtype=DType.int64)


IMAGE = given_as("x", 2, 8, 5)
KNOWN: dict[str, tuple[str, list[Value | None], dict[str, Any], str]] = {
    "axes that aren't sliced": ("Slice", [IMAGE, computed(1), computed(1), Constant("axes", np.array([1]))], {},
                                "2 ? 5"),
    "the rest of a split": ("Expand", [IMAGE, computed(3)], {}, "2 8 5"),
    "sizes other than 1": ("Expand", [given_as("x", 4, 1), computed(3)], {}, "? 4 ?"),
    "what is left of the ones": ("Squeeze", [given_as("x", 1, 3, 1), computed(2)], {}, "3"),
    "what counts leave": ("Reshape", [IMAGE, computed(1)], {}, "80"),
    "a size of 1 that is reduced": ("ReduceSum", [given_as("x", 1, "n"), computed(1)], {}, "1 ?"),
    "a triangle": ("Trilu", [given_as("x", "n", "n"), computed(1)], {}, "n n"),
    "a window's length": ("STFT", [given_as("x", 1, "n", 1), computed(1), given_as("w", 16), computed(1)], {},
                          "1 ? 9 2"),
    "axes that aren't resized": ("Resize", [IMAGE, None, None, computed(1)], {"axes": (2,)}, "2 8 ?"),
}  # fmt: skip


@pytest.mark.parametrize("case", KNOWN)
def test_what_the_data_cannot_change_is_known(case: str) -> None:
    operator, inputs, attributes, shape = KNOWN[case]
    (type,) = infer(operator, inputs, attributes)
    assert " ".join("?" if isinstance(dim, str) and is_from_data(dim) else str(dim) for dim in type.shape) == shape


def test_a_row_is_known_by_its_elements() -> None:
    op = Builder(Graph())
    x = op.graph.add_input("x", TensorType(DType.float32, ("n", 12, 5)))
    count = op.graph.add_input("count", TensorType(DType.int64, (1,)))
    size = op.Shape(x, end=1)
    n, heads, rest = op.Reshape(x, op.Concat(size, count, [-1], axis=0)).shape
    assert (n, is_from_data(str(heads)), is_from_data(str(rest))) == ("n", True, True)
    assert op.Reshape(x, op.Concat(size, count, [4, 5], axis=0)).shape == ("n", 3, 4, 5)
    assert op.Resize(x, None, None, op.Concat(size, [12], count, axis=0)).shape[:2] == ("n", 12)
    assert op.Slice(x, op.Concat([0], count, axis=0), [6, 3], [1, 2]).shape[:2] == ("n", 6)
    assert [piece.shape[1] for piece in op.Split(x, op.Concat([7], count, axis=0), axis=1, outputs=2)] == [7, 5]
    assert contents(op.Concat(size, count, axis=0)) is None


# -- the symbols


def test_an_equal_node_gets_the_same_symbols_and_another_one_others() -> None:
    x, y, k = given_as("x", "n", 9), given_as("y", 3, 9), computed(1, "/top k")
    (_, size), (_, again) = (type.shape for type in infer("TopK", [x, k], {}, 2))
    assert size == again == infer("TopK", [y, k], {})[0].shape[1] == "top_k__6940441813_0"
    assert infer("ConstantOfShape", [k], {})[0].shape == (size,)
    assert infer("TopK", [x, computed(1, "/top.k")], {})[0].shape[1] != size
    starts, ends = computed(1, "starts"), computed(1, "ends")
    rows = [infer("Slice", [x, starts, ends, Constant("axes", np.array([axis]))], {})[0].shape for axis in (0, 0, 1)]
    assert rows[0] == rows[1]
    assert len({*rows[0], *rows[2]}) == 4
    assert infer("Slice", [y, starts, ends], {})[0].shape[0] != rows[0][0]
    pieces = [piece.shape[0] for piece in infer("Split", [x, computed(2)], {}, 2)]
    assert len(set(pieces)) == 2


def test_results_of_one_selection_have_one_size() -> None:
    values, first, inverse, counts = infer("Unique", [given_as("x", 3, 4)], {"axis": -1}, 4)
    assert (values.shape, inverse.shape) == ((3, *first.shape), (4,))
    assert first == counts
    assert is_from_data(str(first.shape[0]))


def test_sizes_that_meet_get_a_new_one() -> None:
    """One of them may be 1."""
    op = Builder(Graph())
    x = op.graph.add_input("x", TensorType(DType.float32, (6,)))
    a, b = (op.Gather(x, op.Squeeze(op.NonZero(value), [0])) for value in (x, op.Neg(x)))
    (left,), (right,) = a.shape, b.shape
    (size,) = op.Add(a, b).shape
    assert size not in (left, right)
    assert op.Add(a, op.Relu(a)).shape == (left,)
    assert op.Add(a, x).shape == (6,)
    assert op.Slice(a, [0], [3]).shape not in ((3,), (left,))
    assert op.Slice(a, [0], [FAR]).shape == (left,)
    assert op.Concat(a, b, x, axis=0).type.symbols == {left, right}
    assert op.MatMul(a, op.graph.add_input("w", TensorType(DType.float32, (4, 2)))).shape == (2,)


def test_the_rest_beside_a_size_that_a_type_tells_may_be_any_number() -> None:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, (10, 27)))
    shape = graph.add_input("shape", TensorType(DType.int64, (2,)))
    ten = op.Shape(x, end=1)
    first, rest = op.Reshape(op.Reshape(x, shape), op.Concat(ten, op.constant([-1]), axis=0)).shape
    assert first == 10
    assert is_from_data(rest)


def test_what_is_made_of_such_sizes_may_be_any_number() -> None:
    op = Builder(Graph())
    x = op.graph.add_input("x", TensorType(DType.float32, (48,)))
    counts = op.graph.add_input("counts", TensorType(DType.int64, (3,)))
    pieces: tuple[Value, ...] = op.Split(x, counts, outputs=3)
    whole = op.Concat(*(op.Concat(piece, piece, axis=0) for piece in pieces), axis=0)
    assert op.Add(whole, op.Concat(x, x, axis=0)).shape == (96,)
    again = op.Split(op.Relu(x), op.Concat(*(op.Shape(piece) for piece in pieces), axis=0), outputs=3)
    assert [piece.shape for piece in again] == [piece.shape for piece in pieces]


def test_of_many_sizes_that_meet_each_gets_one() -> None:
    op = Builder(Graph())
    x = op.graph.add_input("x", TensorType(DType.float32, (3, 2, 2)))
    axes = op.graph.add_input("axes", TensorType(DType.int64, (1,)))
    low, high = op.ReduceMin(x, axes), op.ReduceMax(x, axes)
    assert len({*low.shape, *high.shape, *op.Sub(high, low).shape}) == 9


def test_a_rank_that_depends_on_data_is_unknown() -> None:
    some = given_as("some", "k", dtype=DType.int64)
    for operator, inputs in (("Reshape", [IMAGE, some]), ("Squeeze", [IMAGE, some]), ("Unsqueeze", [IMAGE, some])):
        assert infer(operator, inputs, {}) == [TensorType(DType.float32, None)]
    assert infer("ReduceSum", [IMAGE, some], {"keepdims": 0}) == [TensorType(DType.float32, None)]
    assert len(infer("ReduceSum", [IMAGE, some], {})[0].shape) == 3


# -- through the rest of the graph


def selection() -> Graph:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("n", 4)))
    kept = op.Compress(x, op.Greater(op.ReduceSum(x, [1], keepdims=0), 0.0), axis=0)
    rows = op.Shape(kept, end=1)
    graph.outputs["y"] = op.Expand(op.constant(np.ones((1, 4), np.float32)), op.Concat(rows, [4], axis=0))
    graph.outputs["rows"] = rows
    return graph


def test_shapes_of_what_was_selected_speak_of_its_symbol() -> None:
    graph = selection()
    (size, _), before = graph.outputs["y"].shape, {value.name: value.type for value in graph.values()}
    assert is_from_data(str(size))
    assert contents(graph.outputs["rows"]) == (size,)
    reinfer(graph)
    assert {value.name: value.type for value in graph.values()} == before


def test_nothing_is_made_constant_that_some_sizes_would_change() -> None:
    graph = selection()
    op = Builder(graph)
    is_one = op.Cast(op.Equal(graph.outputs["rows"], [1]), to=DType.int64)
    assert contents(is_one) is None
    assert contents(op.Max(graph.outputs["rows"], [1])) is None
