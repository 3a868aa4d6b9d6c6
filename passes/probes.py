"""Probes: inputs that graphs are compared on, and what graphs give for them."""

from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from ..ir.dims import Dim, evaluate, symbols
from ..ir.errors import CheckError, ModelError
from ..ir.graph import Graph, Value
from ..ir.limits import check_drawn
from ..ir.numerics import Outputs, flattened, is_float
from ..ir.types import DType
from .base import Feeds
from .categories import of_categories

ProbeSizes = tuple[tuple[int, int], tuple[int, int]]
"""Sizes in two random probes: of the dimension that the first input begins with, and of all others that are open."""

PROBE_SIZES: Sequence[ProbeSizes] = (
    ((2, 2), (3, 3)),
    ((16, 16), (17, 17)),
    ((2, 32), (3, 64)),  # detectors halve images five times, and join what they have made larger again
    ((1, 64), (1, 96)),
    ((64, 64), (65, 65)),
    ((224, 224), (225, 225)),
)
_LIGHT = 4
"""How many of these, the first ones, are tried for one at which types hold; the others take large models minutes."""

_SAMPLES = 2
"""How many samples of a batch are a probe: another one costs a run after every pass, and tells little more."""

_EDGES = (0.0, -0.0, 1.0, -1.0)
_FAR_EDGES = (1e-6, -1e-6, 32.0, -32.0)
"""Numbers where functions are all but linear, and where they saturate, for elements of more than 16 bits."""


def run_graph(graph: Graph, probes: Sequence[Feeds], *, held_to_types: bool = False) -> list[Outputs]:
    """The graph's outputs on each probe, from the interpreter.

    Args:
        graph: the graph to run.
        probes: the inputs to run it on.
        held_to_types: whether every tensor must have the shape that its type declares.

    Raises:
        ModelError: a node fails; the layer is named.
        CheckError: a tensor has another shape.
    """
    from ..ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    interpreter = Interpreter(graph)
    if not held_to_types:
        return [flattened(interpreter.run(probe)) for probe in probes]
    own = {*graph.inputs, *(value for node in graph.nodes for value in node.outputs)}  # not those inside nodes
    return [flattened(interpreter.run(probe, _Shapes(own))) for probe in probes]


class _Shapes:
    """Holds some of the tensors of one run to the shapes of their types, with each symbol standing for one size."""

    def __init__(self, own: Container[Value]) -> None:
        self._own = own
        self._sizes: dict[str, int] = {}

    def __call__(self, value: Value, tensor: Any) -> None:
        shape = tuple(tensor.shape)
        if value.type.dims == shape or value not in self._own or value.type.dims is None:
            return
        if len(shape) != len(value.type.dims) or not all(map(self._fits, value.type.dims, shape)):
            where = "" if value.producer is None else f" of {value.producer.location}"
            raise CheckError(f"{value!r}{where} came out with the shape {list(shape)}: its type is wrong")

    def _fits(self, dim: Dim, size: int) -> bool:
        """Whether a dimension may have a size; a symbol that is met for the first time may have any."""
        if isinstance(dim, str) and symbols(dim) == frozenset((dim,)):
            return self._sizes.setdefault(dim, size) == size
        if not self._sizes.keys() >= symbols(dim):
            return True
        return evaluate(dim, self._sizes) == size


def make_probes(
    graph: Graph,
    calibration: Sequence[Feeds],
    seed: int = 0,
    count: int = 2,
    *,
    held_to_types: bool = False,
    sizes: Sequence[ProbeSizes] = PROBE_SIZES,
) -> list[Feeds]:
    """Inputs for the numeric check: real ones where there is calibration data, random ones otherwise.

    Args:
        graph: the graph that runs on the probes.
        calibration: batches of real inputs, of which the first samples are taken; empty where there are none.
        seed: the seed of random inputs.
        count: how many batches of real inputs are taken.
        held_to_types: whether random inputs must have sizes at which every tensor has the shape that its type declares;
            such sizes are preferred in any case.
        sizes: the sizes of random inputs that are tried in turn.

    Raises:
        ModelError: the graph runs on none of the sizes tried for its symbolic dimensions.
    """
    if calibration:
        shapes = {value.name: value.type.dims for value in graph.inputs}
        return [first_samples(batch, shapes, _SAMPLES) for batch in calibration[:count]]
    reason = ""
    preferred = [(tried, True) for tried in sizes[:_LIGHT]]
    for tried, is_held in dict.fromkeys([*preferred, *((tried, held_to_types) for tried in sizes)]):
        try:
            return _random_probes(graph, tried, np.random.default_rng(seed), held_to_types=is_held)
        except (ModelError, CheckError) as error:
            reason = str(error)
    raise ModelError(f"the model runs on no random input ({reason}); give calibration data to check it on")


def _random_probes(
    graph: Graph, sizes: ProbeSizes, generator: np.random.Generator, *, held_to_types: bool
) -> list[Feeds]:
    """Random inputs of some sizes.

    Raises:
        ModelError: the graph doesn't run on them.
        CheckError: a tensor has another shape than its type declares.
    """
    first = next((dim for value in graph.inputs for dim in (value.type.dims or ())[:1]), None)
    probes: list[Feeds] = []
    for leading, size in sizes:
        probes.append(random_feeds(graph, {first: leading} if isinstance(first, str) else {}, generator, size))
    run_graph(graph, probes, held_to_types=held_to_types)
    return probes


def random_feeds(graph: Graph, sizes: Mapping[str, int], generator: np.random.Generator, others: int = 1) -> Feeds:
    """Random inputs of a graph.

    Args:
        graph: the graph.
        sizes: the sizes of symbolic dimensions.
        generator: the source of randomness.
        others: the size of those that `sizes` lacks.

    Raises:
        ModelError: an input is no tensor of a known rank, or would take too much memory.
    """
    shapes = {value: _shape(value, sizes, others) for value in graph.inputs}
    check_drawn({value.name: shape for value, shape in shapes.items()})
    probe = {
        value.name: random_array(value.dtype, shape, generator, _table_rows(value)) for value, shape in shapes.items()
    }
    return of_categories(graph, probe, generator)


def first_samples(feeds: Feeds, shapes: Mapping[str, Sequence[Dim] | None], count: int) -> Feeds:
    """The first samples of a batch, where the model leaves the batch dimension open; otherwise all of it.

    Args:
        feeds: the batch.
        shapes: the shapes of the model's inputs by name, the first of which begins with the batch dimension; None where
            the rank is unknown.
        count: the number of samples.
    """
    first = next(iter(shapes.values()), None)
    batch = first[0] if first else None
    dims = {dim for shape in shapes.values() for dim in shape or () if isinstance(dim, str)}
    if batch not in dims or any(dim != batch and batch in symbols(dim) for dim in dims):
        return feeds
    return {
        name: array[(*(slice(count if dim == batch else None) for dim in shapes.get(name) or ()), ...)]
        if isinstance(array, np.ndarray)
        else array
        for name, array in feeds.items()
    }


def run_edges(graph: Graph, probe: Feeds) -> tuple[list[Feeds], list[Outputs]]:
    """A probe with edge values in it, and a graph's outputs on that; nothing where the graph doesn't run on it.

    Half of the floats, or all where they are few, become zeros and ones of both signs, and numbers so small or large
    that functions are linear or saturate; the rest stay the probe's. Whole numbers become zeros, or stay the probe's
    where the model doesn't take zeros.
    """
    generator = np.random.default_rng(0)
    arrays = {
        name: array for name, array in probe.items() if isinstance(array, np.ndarray)
    }  # not what a sequence holds
    floats = {name: _at_edges(array, generator) for name, array in arrays.items() if is_float(array)}
    zeros = {name: np.zeros_like(array) for name, array in arrays.items() if array.dtype.kind in "biu"}
    for edges in ({**probe, **zeros, **floats}, {**probe, **floats}):
        with suppress(ModelError):
            return [edges], run_graph(graph, [edges])
    return [], []


def _at_edges(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    edges = _EDGES if DType.of(array.dtype).bits <= 16 else _EDGES + _FAR_EDGES
    places = generator.permutation(array.size)[: max(len(edges), array.size // 2)]
    flat = array.flatten()
    flat[places] = np.resize(edges, len(places))
    return flat.reshape(array.shape)


def _shape(value: Value, own: Mapping[str, int], size: int) -> list[int]:
    """The shape of a random array for an input, some of whose symbolic dimensions have sizes of their own.

    Raises:
        ModelError: the input is no tensor of a known rank.
    """
    sizes = {**dict.fromkeys(value.type.symbols, size), **own}
    return [evaluate(dim, sizes) for dim in value.shape]


def _table_rows(value: Value) -> int:
    """The rows of the smallest constant table in which an input's numbers are looked up; 2 where there is none."""
    lookups = (use.node for use in value.uses if use.node.operator == "Gather" and use.index == 1)
    tables = ((node.constant(0), int(node.attributes.get("axis", 0))) for node in lookups)
    return max(1, min((table.shape[axis] for table, axis in tables if table is not None), default=2))


def random_array(dtype: DType, shape: Sequence[int], generator: np.random.Generator, below: int = 2) -> np.ndarray:
    """A random array for an input: normal floats, or whole numbers from 0, or their digits.

    Args:
        dtype: the type of its elements.
        shape: its shape.
        generator: the source of randomness.
        below: the number that all whole numbers are below; 0s and 1s are valid as indices and masks.
    """
    if dtype is DType.string:
        return generator.integers(0, 2, shape).astype(str).astype(object)
    if not dtype.is_float:
        return generator.integers(0, below, shape).astype(dtype.numpy)
    numbers = generator.standard_normal(shape)
    return (np.abs(numbers) if dtype is DType.float8_e8m0fnu else numbers).astype(dtype.numpy)  # powers have no sign
