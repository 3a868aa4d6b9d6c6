import numpy as np
import pytest

from planish.backends.legal import legalized
from planish.ir.builder import Builder
from planish.ir.errors import TargetError
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, np.bool_])
def test_places_of_what_is_not_zero(agree, dtype: type) -> None:
    """Some, all and none of them; what follows has their number as a size."""
    some = RNG.integers(0, 2, (3, 5)).astype(dtype)

    def build(op, x):
        places = op.NonZero(x)
        return places, op.Mul(op.Transpose(places, perm=[1, 0]), np.array(3))

    agree(build, some, dims=[("n", 5)], again=[[np.ones((2, 5), dtype)], [np.zeros((4, 5), dtype)], [some[:0]]])


@pytest.mark.parametrize("axis", [None, 0, -1])
def test_what_a_condition_chooses(agree, axis: int | None) -> None:
    """A condition may be shorter than the axis, and choose nothing."""
    attributes = {} if axis is None else {"axis": axis}
    x, condition = RNG.standard_normal((4, 5)).astype(np.float32), np.array([True, False, True])
    nothing, sizes = [x[:3], condition & False], [("n", 5), (3,)]
    agree(lambda op, x, it: op.Compress(x, it, **attributes), x, condition, dims=sizes, again=[nothing])


def test_what_nothing_is_written_to(agree) -> None:
    """Rows are written where a tensor isn't 0, which may be nowhere, as of boxes on a level of a pyramid."""

    def build(op, x, rows):
        places = op.Reshape(op.NonZero(x), np.array([-1, 1]))
        first = op.Gather(rows, op.Reshape(places, np.array([-1])))
        return op.ScatterND(op.Mul(rows, np.float32(2)), places, first)

    x, rows = np.float32([0, 1, 0, 2]), RNG.standard_normal((4, 3)).astype(np.float32)
    agree(build, x, rows, dims=[("n",), ("n", 3)], again=[[x * 0, rows]])


def test_the_first_of_what_data_tells(agree) -> None:
    """All are taken where there are fewer than wanted: the bounds are known, but the size isn't."""

    def build(op, x):
        places = op.Reshape(op.NonZero(x), np.array([-1]))
        first = op.Slice(places, np.array([0]), np.array([3]), np.array([0]))
        return first, op.Gather(x, first), op.Slice(places, np.array([1]), np.array([99]), np.array([0]))

    many, one = np.float32([1, 0, 2, 3, 0, 4]), np.float32([0, 0, 5])
    agree(build, many, dims=[("n",)], again=[[one], [one * 0]])


@pytest.mark.parametrize("is_last", [0, 1])
@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
def test_places_of_extremes(agree, operator: str, is_last: int) -> None:
    x = RNG.integers(-2, 3, (3, 4, 5)).astype(np.float32)
    x[0, 1, 2], x[1, :, 0], x[2, 0, 1] = np.nan, np.inf, -np.inf

    def build(op, x):
        return [op(operator, x, axis=axis, keepdims=axis % 2, select_last_index=is_last) for axis in (0, 1, -1)]

    agree(build, x, dims=[("a", "b", 5)])
    agree(build, x.astype(np.float64))
    agree(build, np.nan_to_num(x, posinf=9, neginf=-9).astype(np.int32))


@pytest.mark.parametrize("largest", [0, 1])
def test_numbers_that_are_none_are_sorted_too(agree, largest: int) -> None:
    x = RNG.integers(-2, 3, (3, 9)).astype(np.float32)
    x[0, 3:5], x[1, 2], x[2, 1:3] = np.nan, -np.inf, (-0.0, np.inf)
    agree(lambda op, x: op.TopK(x, [4], largest=largest, outputs=2), x, dims=[("n", 9)])
    agree(lambda op, x: op.TopK(x, [9], axis=1, largest=largest, outputs=2), x.astype(np.float64))
    agree(lambda op, x, k: op.TopK(x, k, largest=largest, outputs=2), x, np.array([5]))


def test_what_calls_numpy_is_refused_by_name(target) -> None:
    graph = Graph("unique")
    x = graph.add_input("x", TensorType(DType.float32, (6,)))
    graph.outputs["y"] = Builder(graph).Unique(x)
    with pytest.raises(TargetError, match="tvm can't run Unique: there is no kernel for it"):
        legalized(graph, target, "tvm")
