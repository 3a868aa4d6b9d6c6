"""Graphs after steps of a pipeline, kept while it runs, so that the next run begins after the steps that are unchanged.

A graph is its text and its weights, each an object of the store: weights that a pass leaves alone are kept once. Steps
that take no time aren't worth keeping; the graph before the last step always is, since people try settings of the last.
"""

import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.blocks import blocks
from ...ir.errors import ModelError
from ...ir.graph import Graph
from ...ir.text import print_graph, read_graph, weights
from ...ir.tokens import ParseError
from ...ir.types import TensorType
from ...passes.adapters.merge_lora import LoraMerging
from ...passes.base import Effect, Pass, PassContext
from ...passes.instrument import Instrument
from ...passes.manager import Resumption
from ...passes.order import flattened
from ..page.history import History
from ..results import PassRow, plain, read_row
from ..timings import Timings, Told
from .store import Store

_KIND = "steps"
_WORTH = 0.1
"""The least seconds of work that are worth keeping."""
_SHARE = 5
"""The least work that is worth keeping, in multiples of what keeping took the last time."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a pipeline can begin.

    Attributes:
        graph: the graph after the steps that are done.
        resumption: what the pass manager has to know of these steps.
        rows: the rows of the source and of the passes in these steps.
        history: the history of the graph up to there, as `History.plain` returns it.
        told: the times that the passes in these steps were told.
    """

    graph: Graph
    resumption: Resumption
    rows: Sequence[PassRow]
    history: Any
    told: Told


Parcel = tuple[Any, dict[str, bytes]]
"""A record and the objects that it is made of, as they travel from one store to another."""


def packed(store: Store, key: str) -> Parcel | None:
    """The kept graph after a step; None if it isn't kept, or not whole."""
    record = store.read(_KIND, key)
    if record is None:
        return None
    objects = {digest: store.get(digest) for digest in _digests(record)}
    if any(array is None for array in objects.values()):
        return None
    return record, {digest: array.tobytes() for digest, array in objects.items() if array is not None}


def unpack(store: Store, key: str, parcel: Parcel) -> None:
    """Keep the graph after a step that another store has.

    Raises:
        UsageError: the disk is full, or nothing may be written there.
    """
    record, objects = parcel
    for content in objects.values():
        store.put([content])
    store.write(_KIND, key, record)


def _digests(record: Any) -> list[str]:
    graphs = [graph for graph in (record["graph"], record["reference"]) if graph is not None]
    return [record["history"], *(it for graph in graphs for it in (graph["text"], *graph["weights"].values()))]


class KeptSteps(Instrument):
    """Keeps graphs while a pipeline runs, and finds those of earlier runs.

    Args:
        store: the store that they are kept in.
        keys: the key of the graph after each step.
        passes: the steps.
        rows: a function that returns the rows of the passes so far.
        history: the history of the graph.
        timings: the times that passes are told.
        if_possible: a function that returns the context that keeping is tried in.
        is_fresh: whether graphs of earlier runs are left alone.
    """

    def __init__(
        self,
        store: Store,
        keys: Sequence[str],
        passes: Sequence[Pass],
        rows: Callable[[], Sequence[PassRow]],
        history: History,
        timings: Timings,
        if_possible: Callable[[], AbstractContextManager[None]],
        *,
        is_fresh: bool,
    ) -> None:
        self._store = store
        self._keys = keys
        self._passes = passes
        self._rows = rows
        self._history = history
        self._timings = timings
        self._if_possible = if_possible
        self._is_fresh = is_fresh
        self._digests: dict[int, tuple[weakref.ref[np.ndarray], str]] = {}
        self._reference: dict[str, Any] | None = None  # the graph after the last lossy step, as `_kept` has it
        self._worked_since = time.monotonic()
        self._worth = _WORTH
        merging = (place for place, it in enumerate(passes) if any(map(_is_merging, flattened([it]))))
        # the steps before a merge of adapters, whose effect is measured together with the steps behind it
        self._unmeasured = next(merging, len(passes))

    def find(self) -> Found | None:
        """The graph after the latest step that is kept whole; None if there is none."""
        for done in range(0 if self._is_fresh else len(self._keys), 0, -1):
            if self._unmeasured < done < len(self._keys):
                continue
            record = self._store.read(_KIND, self._keys[done - 1])
            if record is None:
                continue
            graph = self._graph(record["graph"])
            reference = None if record["reference"] is None else self._graph(record["reference"])
            history = self._store.get_json(record["history"])
            if None in (graph, history) or (reference is None and record["reference"] is not None):
                continue
            assert graph is not None
            self._reference = record["reference"]
            rows = [read_row(row) for row in record["rows"]]
            drift = rows[-1].drift
            return Found(graph, Resumption(done, reference, drift), rows, history, record["told"])
        return None

    def start(self, graph: Graph, context: PassContext) -> None:
        self._worked_since = time.monotonic()

    def reached(self, number: int, graph: Graph) -> None:
        is_lossy = any(step.effect is Effect.LOSSY for step in flattened([self._passes[number - 1]]))
        is_worth_it = time.monotonic() - self._worked_since > self._worth or number >= len(self._passes) - 1
        if is_lossy or is_worth_it:
            with self._if_possible():
                self._keep(number, graph, is_lossy=is_lossy, is_worth_it=is_worth_it)

    def _keep(self, number: int, graph: Graph, *, is_lossy: bool, is_worth_it: bool) -> None:
        start = time.monotonic()
        kept = self._kept(graph)
        if is_lossy:
            self._reference = kept
        if is_worth_it:
            rows = plain(list(self._rows()))
            history = self._store.put_json(self._history.plain())
            record = {"graph": kept, "reference": self._reference, "rows": rows, "history": history}
            record["told"] = self._timings.told
            self._store.write(_KIND, self._keys[number - 1], record)
            self._worked_since = time.monotonic()
            self._worth = max(_WORTH, _SHARE * (self._worked_since - start))

    def _kept(self, graph: Graph) -> dict[str, Any]:
        text = self._store.put([print_graph(graph).encode()])
        return {"text": text, "weights": {name: self._put(array) for name, array in weights(graph).items()}}

    def _put(self, array: np.ndarray) -> str:
        known = self._digests.get(id(array))
        if known is None or known[0]() is not array:
            known = weakref.ref(array), self._store.put(blocks(array))
            self._digests[id(array)] = known
        return known[1]

    def _graph(self, kept: dict[str, Any]) -> Graph | None:
        """A graph that is kept; None where something of it is missing."""
        text = self._store.get(kept["text"])
        arrays = {name: self._store.get(digest) for name, digest in kept["weights"].items()}
        if text is None or any(array is None for array in arrays.values()):
            return None

        def fetch(name: str, type: TensorType) -> np.ndarray:
            array = arrays[name]
            assert array is not None
            return array.view(type.dtype.numpy).reshape(type.static_shape)

        try:
            return read_graph(text.tobytes().decode(), fetch)
        except (ParseError, ModelError, ValueError):
            return None


def _is_merging(step: Pass) -> bool:
    return isinstance(step, LoraMerging)
