"""What a symbolic dimension stands for where no data tell: a text of 128 tokens, an image, a second of sound.

Models are timed at these sizes, since what is fastest for one token may be slow for a text.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

import numpy as np

from ..backends.base import Port
from ..ir.dims import symbols
from ..ir.errors import CheckError, ModelError
from ..ir.graph import Graph
from ..ir.types import DType
from ..passes.probes import make_probes, random_feeds, run_graph
from .data import Feeds, ports_of, single_sample

Sizes: TypeAlias = Mapping[str, int]
"""A size for each symbol."""

TOKENS, PIXELS, FRAMES, SOUND, ANYTHING = 128, 224, 100, 16_000, 32
"""Tokens of a text, pixels of an image's side, frames and samples of a second of sound, and what is none of these."""

_LENGTHS = (TOKENS, FRAMES, SOUND)
"""Sizes that vary from one call to the next."""

_NAMES = {
    "batch": 1,
    "height": PIXELS,
    "width": PIXELS,
    "image": PIXELS,
    "pixel": PIXELS,
    "sample": SOUND,
    "audio": SOUND,
    "wav": SOUND,
    "frame": FRAMES,
    "time": FRAMES,
    "mel": FRAMES,
    "token": TOKENS,
    "seq": TOKENS,
    "past": TOKENS,
    "embed": TOKENS,
    "hidden": TOKENS,
}
"""Parts of names of dimensions and inputs, and what they say; the first counts."""

_CHANNELS, _TRACKS = 4, 2
"""The most channels that images and sounds have."""
_FRACTIONS = (1.0, 0.5, 0.25, 0.125)
"""What is tried of the usual sizes, in turn, until a model runs: its table of positions may be short."""
_OTHER_LENGTHS = ((0.25,), (4.0, 2.0))
"""What lengths are multiplied by for further samples; of each row the first counts with which the model runs."""


def usual_sizes(ports: Sequence[Port]) -> dict[str, int]:
    """A size for each symbol of some inputs: one sample of the size that the input's name, type and rank suggest.

    A dimension's own name counts most, then inputs of whole numbers, which are tokens or a mask of them.
    """
    sizes: dict[str, int] = {}
    for port in sorted(ports, key=lambda it: DType[it.dtype].is_float):
        for axis, dim in enumerate(port.shape or ()):
            if isinstance(dim, str) and dim.isidentifier():
                sizes.setdefault(dim, _said(dim) or _size(port, axis))
    first = ports[0].shape[0] if ports and ports[0].shape else None
    is_row = len(ports) == 1 and len(ports[0].shape or ()) == 1
    if isinstance(first, str) and not is_row and _said(first) in (None, SOUND):  # the samples of a batch
        sizes[first] = 1
    every = (name for port in ports for dim in port.shape or () for name in symbols(dim))
    return {**dict.fromkeys(every, ANYTHING), **sizes}


def usual_samples(
    ports: Sequence[Port], make: Callable[[Sizes], Feeds], run: Callable[[Feeds], object]
) -> Iterator[Feeds]:
    """Yield a sample of usual sizes, and after it a shorter and a longer one where a length varies.

    Sizes at which the model doesn't run are left out; where it runs on none, nothing is yielded.

    Args:
        ports: the model's inputs.
        make: a function that makes inputs of the sizes that symbols have.
        run: a function that runs the model.
    """

    def first(sizes: Sizes, scaled: Collection[str], factors: Sequence[float]) -> tuple[Sizes, Feeds] | None:
        for factor in factors:
            tried = {name: max(1, int(size * factor)) if name in scaled else size for name, size in sizes.items()}
            with suppress(ModelError, CheckError):
                run(sample := make(tried))
                return tried, sample
        return None

    usual = usual_sizes(ports)
    found = first(usual, usual.keys(), _FRACTIONS)
    if found is None:
        return
    sizes, sample = found
    yield sample
    lengths = [name for name, size in usual.items() if size in _LENGTHS]
    for factors in _OTHER_LENGTHS if lengths else ():
        if (other := first(sizes, lengths, factors)) is not None:
            yield other[1]


def graph_samples(graph: Graph, seed: int) -> Iterator[Feeds]:
    """Yield random inputs of a graph as `usual_samples` does, or one of the sizes at which graphs are checked.

    Raises:
        ModelError: the graph runs on none of them.
    """

    def make(sizes: Sizes) -> Feeds:
        return random_feeds(graph, sizes, np.random.default_rng(seed))

    ports = ports_of(graph)
    found = usual_samples(ports, make, lambda feeds: run_graph(graph, [feeds]))
    first = next(found, None)
    yield single_sample(make_probes(graph, (), seed, 1)[0], ports) if first is None else first
    yield from found


def _said(name: str) -> int | None:
    return next((size for part, size in _NAMES.items() if part in name.lower()), None)


def _size(port: Port, axis: int) -> int:
    """The size of an axis by what kind of input it belongs to."""
    shape, dtype = list(port.shape or ()), DType[port.dtype]
    rank, is_open = len(shape), all(isinstance(dim, str) for dim in shape[-2:])
    channels = min((dim for dim in shape[rank - 3 : rank - 2] + shape[-1:] if isinstance(dim, int)), default=PIXELS)
    if (dtype.is_float or dtype is DType.uint8) and channels <= _CHANNELS and (rank == 4 or (rank == 3 and is_open)):
        return PIXELS
    if rank > 3 or (rank > 1 and not axis):
        return ANYTHING
    if not dtype.is_float:
        return TOKENS
    is_sound = rank < 3 or shape[1] in range(1, _TRACKS + 1)
    return _said(port.name) or (SOUND if is_sound else FRAMES)
