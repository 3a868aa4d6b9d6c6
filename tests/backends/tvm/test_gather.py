import numpy as np
import pytest

import planish
from planish.ir.errors import ModelError
from planish.ir.text import parse_graph

X = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
REDUCTIONS = ("none", "add", "mul", "max", "min")


def test_elements_are_read_at_computed_places(agree) -> None:
    def build(op, x, places, rows, nested):
        along = [op.GatherElements(x, places, axis=axis) for axis in (0, -1)]
        return [*along, op.GatherND(x, rows), op.GatherND(x, nested, batch_dims=1)]

    places = np.array([[[0, -1], [2, 1]]])  # fewer than there are elements
    rows, nested = np.array([[[0, -1], [-3, 2]]]), np.array([[[1, -1]], [[-4, 0]], [[3, 2]]], np.int64)
    dims = [("a", 4, 5), (1, 2, 2), ("rows", 2, 2), ("a", "g", 2)]
    agree(build, X, places, rows, nested, dims=dims)


def test_rows_of_a_symbolic_axis(agree) -> None:
    """One by its number, from the front or the end, or several; the number may be computed."""

    def build(op, x, place, places):
        known = [op.Gather(x, number, axis=1) for number in (op.constant(0), op.constant(-1), np.array([[-2, 1]]))]
        return [*known, op.Gather(x, place, axis=-1), op.Gather(x, places)]

    dims = [("n", "length", "width"), (), ("places",)]
    agree(
        build,
        X,
        np.array(-2, np.int32),
        np.array([0, -1, 0]),
        dims=dims,
        again=[[X[:1, :2], np.array(1, np.int32), np.array([0])]],
    )


@pytest.mark.parametrize("least", [0.0, 9.0])
def test_no_places_are_read_where_there_may_be_no_elements(agree, least: float) -> None:
    """A detector without a box above its threshold reads none of the none that are left."""

    def build(op, x):
        found = op.Gather(x, op.Reshape(op.NonZero(op.Greater(x, least)), [-1]))
        places = op.Reshape(op.NonZero(op.Greater(found, 1.0)), [-1])
        rows = op.GatherND(found, op.Unsqueeze(places, [1]))
        return [op.Gather(found, places), op.GatherElements(found, places), rows]

    agree(build, X.reshape(-1))


def test_places_without_any_element_are_refused(target) -> None:
    graph = parse_graph(
        """graph "g"(%x: float32[n], %places: int64[m]) {
  %y: float32[m] = Gather(%x, %places)
  return y = %y
}"""
    )
    executable = planish.compile(graph, backend="tvm", target=target)
    nothing, empty = np.zeros(0, np.int64), np.zeros(0, np.float32)
    assert executable(empty, nothing)[0].shape == (0,)
    with pytest.raises(ModelError, match="Gather gets an empty tensor"):
        executable(empty, np.zeros(2, np.int64))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_elements_are_written_at_computed_places(agree, dtype: type) -> None:
    """Some twice, counted from the end, and with NaN among them; updates are fewer than the elements."""
    x = (X * 9).astype(dtype)
    if dtype is np.float32:
        x[0, 1, 2], x[0, 0, 0] = np.nan, np.inf

    def build(op, x, places, updates, rows, slices):
        elements = [op.ScatterElements(x, places, updates, axis=1, reduction=how) for how in REDUCTIONS[1:]]
        blocks = [op.ScatterND(x, rows, slices, reduction=how) for how in REDUCTIONS[1:]]
        distinct = op.ScatterElements(x, np.array([[[1], [-1]]]), np.ones((1, 2, 1), x.dtype.numpy), axis=2)
        return [*elements, *blocks, distinct, op.ScatterND(x, np.array([[-1], [0]]), slices)]

    places, updates = np.array([[[0, 1, -1], [0, 1, 2]]]), np.array([[[5, -6, 7], [8, 9, -1]]], dtype)
    rows, slices = np.array([[1], [-2]]), np.arange(40, dtype=dtype).reshape(2, 4, 5)
    dims = [("a", "b", 5), (1, 2, 3), (1, 2, 3), ("rows", 1), ("rows", "b", 5)]
    agree(build, x, places, updates, rows, slices, dims=dims)


@pytest.mark.wide
def test_running_sums_and_products(agree) -> None:
    def build(op, x, axis):
        ways = [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}]
        known = [op(name, x, np.array(-2), **way) for name, way in zip(("CumSum", "CumProd") * 2, ways, strict=True)]
        return [*known, op.CumSum(x, axis)]

    agree(build, X, np.array(2), dims=[("a", "b", "c"), ()], again=[[X[:1], np.array(-3)]])


def test_bits_are_read_as_another_type(agree) -> None:
    x = np.array([1.5, -0.0, np.inf], np.float32)
    agree(lambda op, x: [(y := op.BitCast(x, to=6)), op.BitCast(y, to=1)], x, dims=[("n",)])
