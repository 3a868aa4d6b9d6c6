"""Hypothesis strategies for arrays and graphs; fixtures, so that any test below this folder can draw from them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from planish.ir.graph import Attribute, Graph, Location
from planish.ir.types import Container, DType, TensorType

settings.register_profile("ir", deadline=None)  # no test fails for the machine being busy
settings.load_profile("ir")

TEXT = st.text(max_size=6)
NAMES = st.sampled_from(["conv1.weight", "/layer.0/Conv_output_0", "12", "none", "a//b", "x y", ""]) | TEXT
DIMS = st.integers(0, 9) | st.sampled_from(["batch", "(height - 1)//2 + 1", "Max(1, Min(a, b))", "s0*12", "größe"])
SIZES = st.none() | st.lists(DIMS, max_size=3).map(tuple)
TYPES = st.builds(TensorType, st.sampled_from(DType), SIZES, st.sampled_from(Container))
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
LOCATIONS = st.builds(Location, TEXT, TEXT)
OPERATORS = st.sampled_from(["test::Conv", "com.test::Add.Tensor", "odd-domain::Op with spaces"])


def _finite_or_bits(draw: DrawFn, dtype: np.dtype, count: int) -> np.ndarray:
    """Bits at random reach every NaN and subnormal, floats at random the numbers that people write."""
    if draw(st.booleans()):
        size = count * dtype.itemsize
        return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype)
    special = st.sampled_from([0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan")])
    numbers = st.integers(0, 100) if dtype.kind in "iu" else st.floats(-100, 100) | special
    return np.array(draw(st.lists(numbers, min_size=count, max_size=count))).astype(dtype)


@st.composite
def _arrays(draw: DrawFn) -> np.ndarray:
    dtype, shape = draw(st.sampled_from(DType)), draw(SHAPES)
    count = int(np.prod(shape, dtype=int))
    if dtype is DType.string:
        flat = np.array(draw(st.lists(TEXT, min_size=count, max_size=count)), dtype=object)
    elif dtype is DType.bool or dtype.bits < 8:  # not every byte is an element
        codes = st.integers(0, 1 if dtype is DType.bool else 2**dtype.bits - 1)
        flat = np.array(draw(st.lists(codes, min_size=count, max_size=count)), np.uint8).view(dtype.numpy)
    else:
        flat = _finite_or_bits(draw, dtype.numpy, count)
    return flat.reshape(shape)


def _attributes(nested: SearchStrategy[Graph] | None) -> SearchStrategy[dict[str, Attribute]]:
    scalars: list[SearchStrategy[Any]] = [st.integers(-(2**63), 2**63 - 1), st.floats(), TEXT]
    tuples = [st.lists(scalar, max_size=3).map(tuple) for scalar in scalars]
    kinds = [*scalars, *tuples, _arrays(), TYPES]
    return st.dictionaries(TEXT, st.one_of(kinds if nested is None else [*kinds, nested]), max_size=3)


@st.composite
def _graphs(draw: DrawFn, outer: Graph | None = None) -> Graph:
    """A graph; nodes of the outermost may hold graphs, which read values of their own and of the outermost."""
    graph = Graph(draw(NAMES), outer)
    around = [] if outer is None else list(outer.values())
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        graph.add_input(graph.unique_name(name), draw(TYPES))
    for name in draw(st.lists(NAMES, max_size=3)):
        graph.add_constant(draw(_arrays()), name)
    for _ in range(draw(st.integers(0, 4))):
        known = [*graph.values(), *around]
        graph.add_node(
            draw(OPERATORS),
            draw(st.lists(st.none() | st.sampled_from(known), max_size=3) if known else st.just([])),
            draw(st.lists(TYPES, min_size=1, max_size=3)),
            draw(_attributes(_graphs(graph) if outer is None else None)),
            names=draw(st.lists(NAMES, max_size=3)),
            location=draw(LOCATIONS),
        )
    known = list(graph.values())
    if known:
        graph.outputs.update(draw(st.dictionaries(NAMES, st.sampled_from(known), max_size=3)))
    return graph


@pytest.fixture(scope="session")
def arrays() -> SearchStrategy[np.ndarray]:
    """Arrays of every element type, with any bits."""
    return _arrays()


@pytest.fixture(scope="session")
def graphs() -> SearchStrategy[Graph]:
    """Well-formed graphs of operators that have no schema, with odd names and every kind of attribute."""
    return _graphs()
