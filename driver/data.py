"""Data as users name it: an `.npz`, or a factory that yields batches; checked against the model's inputs.

A batch is a dict of arrays by input name, with `labels` if there are any, one array, a row of arrays in the model's
order, or a pair `(inputs, labels)` of these; two arrays for a model of two inputs are the inputs. All batches are held
in memory: the same ones are used before, between and after the passes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from ..backends.artifact import port_of
from ..backends.base import Port, bind
from ..ir.analysis.cost import sizes_of
from ..ir.arrays import read_arrays, restored
from ..ir.dims import evaluate
from ..ir.errors import ModelError, UsageError
from ..ir.graph import Graph
from ..ir.limits import check_drawn
from ..ir.numerics import is_float
from ..ir.suggestion import did_you_mean
from ..ir.types import DType
from ..passes.probes import first_samples, random_array
from .user_code import call, find_function, make

LABELS = "labels"
BATCH_SIZE = 32
"""Samples of an `.npz` in a batch, where the model doesn't fix it."""

HELD_OUT = 4
"""Where calibration and evaluation share one source, every fourth batch calibrates and the others evaluate."""

_TINY = 1e-6
"""Numbers below which an input looks like nothing."""
_FAR = 10.0
"""Standard deviations that means may differ by, and factors that deviations may, before data look unlike each other."""

Feeds: TypeAlias = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs by name, and labels: an array, a list of texts, or whatever the metric takes; None if there are none."""

    inputs: Feeds
    labels: Any = None


def ports_of(graph: Graph) -> list[Port]:
    """The inputs of a graph, as an executable describes them."""
    return [port_of(value.name, value) for value in graph.inputs]


def read_data(reference: str, folder: Path, ports: Sequence[Port]) -> list[Batch]:
    """The batches of an `.npz` file or a factory.

    Args:
        reference: `data.npz`, `file.py:factory` or `package.module:factory`.
        folder: the folder that files are relative to.
        ports: the model's inputs.

    Raises:
        UsageError: there is no such file, module or factory.
        ModelError: a factory fails, or arrays don't fit the model's inputs; names what was expected.
    """
    find_data(reference, folder)
    items = _read_npz(folder / reference, ports) if reference.endswith(".npz") else _call_factory(reference, folder)
    if not items:
        raise ModelError(f"{reference} holds no batches")
    return make_batches(items, ports, reference)


def find_data(reference: str, folder: Path) -> None:
    """Look whether there is a file or a factory of data, without reading it.

    Raises:
        UsageError: there is none.
        ModelError: the factory's module fails while it is imported.
    """
    path = folder / reference
    if not reference.endswith(".npz"):
        find_function(reference, folder)
    elif not path.is_file():
        neighbours = [file.name for file in path.parent.glob("*.npz")]
        raise UsageError(f"there is no data {path}{did_you_mean(path.name, neighbours)}")


def make_batches(items: Iterable[Any], ports: Sequence[Port], source: str) -> list[Batch]:
    """Batches from what a user's function yields or hands over.

    Args:
        items: the batches, in the forms that this module describes at its head.
        ports: the model's inputs.
        source: what the items come from, for messages.

    Raises:
        ModelError: arrays don't fit the model's inputs; names what was expected.
    """
    places = ((item, f"{source}, batch {number}") for number, item in enumerate(items))
    rows = _regrouped([_named(item, ports, place) for item, place in places], ports, source)
    return [_batch(row, ports, f"{source}, batch {number}") for number, row in enumerate(rows)]


def cut(item: Any, ports: Sequence[Port]) -> list[Any]:
    """A lone batch as the batches that an `.npz` of it would be read as, so that some of them can be held out.

    It stays whole if the model fixes its samples, or what it holds isn't a row of samples of one length.
    """
    arrays = {ports[0].name: item} if isinstance(item, np.ndarray) and len(ports) == 1 else item
    firsts = {(port.shape or (None,))[0] for port in ports}
    if len(firsts) > 1 or not isinstance(next(iter(firsts), None), str) or not isinstance(arrays, Mapping):
        return [item]
    rows = cast("Mapping[str, Any]", arrays)
    lengths = {len(array) if isinstance(array, np.ndarray) and array.ndim else None for array in rows.values()}
    samples = lengths.pop() if len(lengths) == 1 else None
    return [item] if not samples else _parts(rows, samples, _batch_size(samples))


def doubts(calibration: Sequence[Feeds], evaluation: Sequence[Feeds] = ()) -> list[str]:
    """Signs that calibration data hold no real samples, input by input, each with what to do about it."""
    found: list[str] = []
    for name in calibration[0] if calibration else ():
        seen, asked = _moments(name, calibration), _moments(name, evaluation)
        remedy = "passes that observe it see nothing of the model's real numbers: calibrate on real samples"
        if seen is None:
            continue
        if seen.least == seen.most and seen.count > len(calibration):  # a single number may be a setting
            found.append(f"the calibration data's input {name!r} is {seen.most:g} everywhere; {remedy}")
        elif max(abs(seen.least), abs(seen.most)) < _TINY:
            found.append(f"the calibration data's input {name!r} is nowhere above {_TINY:g}; {remedy}")
        elif asked is not None and seen.is_far_from(asked):
            found.append(
                f"the calibration data's input {name!r} is {seen} (mean ± standard deviation), but the evaluation "
                f"data's is {asked}: preprocess both alike, or quantization is calibrated to the wrong range"
            )
    return found


@dataclass(frozen=True, slots=True)
class _Moments:
    """What an input's numbers are like, over all batches."""

    count: int
    least: float
    most: float
    mean: float
    deviation: float

    def is_far_from(self, other: "_Moments") -> bool:
        spread = max(self.deviation, other.deviation)
        return abs(self.mean - other.mean) > _FAR * spread or spread > _FAR * min(self.deviation, other.deviation)

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.deviation:.3g}"


def _moments(name: str, batches: Sequence[Feeds]) -> _Moments | None:
    """The moments of a float input that is no mask; None for anything else."""
    arrays = [array for feeds in batches if getattr(array := feeds[name], "size", 1)]
    if not arrays or not all(isinstance(array, np.ndarray) and is_float(array) for array in arrays):
        return None
    if not all(np.isfinite(array).all() for array in arrays):
        return None
    count = sum(array.size for array in arrays)
    mean = sum(float(array.astype(np.float64).sum()) for array in arrays) / count
    square = sum(float(np.square(array.astype(np.float64) - mean).sum()) for array in arrays) / count
    least, most = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    return _Moments(count, least, most, mean, float(np.sqrt(square)))


def held_out(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Disjoint batches for calibration and for evaluation; a single batch has to serve as both."""
    if len(batches) == 1:
        return list(batches), list(batches)
    step = min(HELD_OUT, len(batches))
    return list(batches[::step]), [batch for number, batch in enumerate(batches) if number % step]


def single_sample(feeds: Feeds, ports: Sequence[Port]) -> Feeds:
    """The first sample of a batch's inputs, where the model leaves the batch dimension open; otherwise all of it."""
    return first_samples(feeds, {port.name: port.shape for port in ports}, 1)


def port_sizes(ports: Sequence[Port], feeds: Feeds) -> dict[str, int]:
    """The sizes that inputs give to the symbolic dimensions of ports."""
    return sizes_of({port.name: port.shape for port in ports}, feeds)


def random_sample(ports: Sequence[Port], sizes: Mapping[str, int]) -> Feeds:
    """Random inputs whose symbolic dimensions have sizes: floats of a normal distribution, integers of 0 and 1.

    Raises:
        UsageError: an input is no array of a known rank.
        ModelError: the inputs would be too large.
    """
    generator = np.random.default_rng(0)
    shapes: dict[str, list[int]] = {}
    for port in ports:
        if port.container or port.shape is None:
            raise UsageError(f"nothing can be made up for the input {port.name!r}, {port}: give data (-d)")
        shapes[port.name] = [evaluate(dim, sizes) for dim in port.shape]
    check_drawn(shapes)
    return {port.name: random_array(DType[port.dtype], shapes[port.name], generator) for port in ports}


@dataclass(frozen=True, slots=True)
class _Row:
    """What a user gave for a batch, unchecked."""

    given: Mapping[str, Any]
    labels: Any


def _named(item: Any, ports: Sequence[Port], place: str) -> _Row:
    """Arrays by input name, and labels, from any form of a batch."""
    names = [port.name for port in ports]
    labels: Any = None
    if isinstance(item, tuple | list) and len(cast("Sequence[Any]", item)) == 2 and not _is_row(item, names):
        item, labels = cast("Sequence[Any]", item)
    if isinstance(item, Mapping):
        given = dict(cast("Mapping[str, Any]", item))
    else:
        row = cast("Sequence[Any]", item if isinstance(item, tuple | list) else [item])
        if len(row) != len(names):
            raise ModelError(
                f"{place}: got {len(row)} inputs, but the model has {len(names)} ({', '.join(names)}): give a batch as "
                "a dict of arrays by name, as a tuple of arrays in this order, or as (inputs, labels) with either"
            )
        given = dict(zip(names, row, strict=True))
    if LABELS not in names:
        labels = given.pop(LABELS, labels)
    dtypes = {port.name: DType[port.dtype] for port in ports}
    return _Row({name: restored(np.asanyarray(array), dtypes.get(name)) for name, array in given.items()}, labels)


def _regrouped(rows: list[_Row], ports: Sequence[Port], source: str) -> list[_Row]:
    """The same samples in batches of the size that a model fixes; as they are where they aren't rows of samples.

    Raises:
        ModelError: the samples don't fill the last batch.
    """
    firsts = {(port.shape or (None,))[0] for port in ports}
    size = firsts.pop() if len(firsts) == 1 else None
    lengths = [_samples(row, ports) for row in rows]
    if not isinstance(size, int) or None in lengths or all(length == size for length in lengths):
        return rows
    counts = [length for length in lengths if length is not None]
    if any(count % size for count in counts):
        if sum(counts) % size or len({row.labels is None for row in rows}) > 1:
            raise ModelError(
                f"{source} holds {sum(counts)} samples, but the model takes {size} at a time: give a multiple of "
                f"{size}, or leave the dimension open where the model is read"
            )
        joined = {name: np.concatenate([row.given[name] for row in rows]) for name in rows[0].given}
        every = [label for row in rows for label in row.labels] if rows[0].labels is not None else None
        rows, counts = [_Row(joined, every)], [sum(counts)]
    return [
        _Row(
            {name: array[start : start + size] for name, array in row.given.items()},
            None if row.labels is None else row.labels[start : start + size],
        )
        for row, count in zip(rows, counts, strict=True)
        for start in range(0, count, size)
    ]


def _samples(row: _Row, ports: Sequence[Port]) -> int | None:
    """How many samples a batch has; None where arrays don't fit the other dimensions, or labels aren't one each."""
    shapes = {port.name: port.shape or () for port in ports}
    if row.given.keys() != shapes.keys():
        return None
    fits = (array.shape[1:] == shapes[name][1:] and array.ndim for name, array in row.given.items())
    if not all(fits):
        return None
    lengths = {len(array) for array in row.given.values()}
    if row.labels is not None:
        is_row = isinstance(row.labels, list | tuple) or getattr(row.labels, "ndim", 0)
        lengths.add(len(row.labels) if is_row else -1)
    length = lengths.pop()
    return None if lengths or length <= 0 else length


def _batch(row: _Row, ports: Sequence[Port], place: str) -> Batch:
    """A batch from what the user gave, its inputs checked."""
    try:
        inputs = bind(ports, (), row.given)
        is_empty = not any(getattr(array, "size", 1) for array in inputs.values())
        for name, array in inputs.items():
            _check_numbers(name, array, is_empty=is_empty)
    except ModelError as error:
        raise ModelError(f"{place}: {error}") from error
    return Batch(inputs, row.labels)


def _is_row(pair: Sequence[Any], names: Sequence[str]) -> bool:
    """Whether a pair is a model's two inputs; in a pair of inputs and labels, a dict or a row comes first there."""
    return len(names) == 2 and not isinstance(pair[0], Mapping | tuple | list)


def _check_numbers(name: str, array: Any, *, is_empty: bool) -> None:
    """Refuse an array that no statistics can be computed from.

    An array may be empty beside others that aren't, as a cache that holds no tokens yet, but not of samples.
    """
    if not isinstance(array, np.ndarray) or array.dtype == np.object_:
        return
    if is_empty or array.shape[:1] == (0,):
        raise ModelError(f"input {name!r} has no elements, its shape is {list(array.shape)}: leave the batch out")
    if not is_float(array) or np.isfinite(array).all():
        return
    numbers = array.astype(np.float64, copy=False)
    if not_numbers := int(np.isnan(numbers).sum()):
        raise ModelError(f"input {name!r} has {not_numbers} NaN of {array.size}: drop these samples, or fill them")
    is_mask = bool(np.isin(numbers, (0.0, -np.inf)).all())
    if not is_mask and (infinite := int(np.isinf(numbers).sum())):
        raise ModelError(
            f"input {name!r} has {infinite} infinities of {array.size}: drop these samples, or clip them "
            "(a mask may have them, but nothing else than 0 and -inf)"
        )


def _call_factory(reference: str, folder: Path) -> list[Any]:
    batches = make(reference, folder)
    if not hasattr(batches, "__iter__"):
        raise ModelError(f"{reference} must yield batches, not {type(batches).__name__}")
    return cast("list[Any]", call(reference, list, batches))


def _read_npz(path: Path, ports: Sequence[Port]) -> list[Any]:
    arrays = read_arrays(path)
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    samples = min(lengths.values(), default=0)
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ModelError(f"{path}: the arrays differ in their number of samples: {listed}")
    fixed = next((dim for port in ports for dim in (port.shape or ())[:1] if isinstance(dim, int)), None)
    size = fixed or _batch_size(samples)
    if fixed and samples % fixed:
        raise ModelError(
            f"{path} holds {samples} samples, but the model takes {fixed} at a time: give a multiple of {fixed}"
        )
    return _parts(arrays, samples, size)


def _batch_size(samples: int) -> int:
    return min(BATCH_SIZE, max(1, samples // HELD_OUT))


def _parts(arrays: Mapping[str, np.ndarray], samples: int, size: int) -> list[Any]:
    return [{name: array[start : start + size] for name, array in arrays.items()} for start in range(0, samples, size)]
