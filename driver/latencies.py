"""How long operators take, by their kind and shapes: measured once, and kept in a table.

A table belongs to a backend of one version, on one target. It is a file of JSON in the folder of planish's caches that
may be copied to another machine of the same kind: each row has an operator's types and attributes, and a digest of what
is around it, which decides what is fused; and the seconds that it took in a model.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import Backend
from ..ir.cache_folder import cache_folder
from ..ir.dims import evaluate
from ..ir.drafts import replacing
from ..ir.errors import UsageError
from ..ir.graph import Graph, Node, Value
from ..ir.operators import has_trait
from ..ir.traits import Trait
from ..ir.types import TensorType
from ..passes.base import Profile, Profiler
from ..passes.profit import named
from ..targets import Target
from .measurement import FEWEST_ROUNDS
from .provenance import versions
from .results import plain

_AT_ONCE = 4
"""How many graphs are timed in turn with the first one."""
_MOST_ROWS = 100_000
_SURE = 0.005
"""The standard error of a ratio of times, relative to it, that is small enough."""
_ERROR_OF_MEDIAN = 0.93
"""The standard error of a median of normal values, times the root of their number, over the distance of quartiles."""


class LatencyTable:
    """The seconds that operators take, by `signatures`.

    Args:
        find: a function that gives the path of the file, which needn't be there, once a row is asked for; it returns
            None for a table that isn't kept.
    """

    def __init__(self, find: Callable[[], Path | None]) -> None:
        self._find = find
        self._rows: dict[str, float] | None = None

    @classmethod
    def of_user(cls, backend: Backend, target: Target) -> "LatencyTable":
        """The table of a backend on a target."""

        def find() -> Path | None:
            with suppress(UsageError):  # a folder that can't be made
                own = _digest(versions(backend.name), plain(target))
                return cache_folder("latencies") / f"{backend.name}-{own}.json"
            return None

        return cls(find)

    @cached_property
    def _path(self) -> Path | None:
        return self._find()

    @property
    def rows(self) -> dict[str, float]:
        """What is known."""
        if self._rows is None:
            self._rows = _read(self._path)
        return self._rows

    def add(self, rows: Mapping[str, float]) -> None:
        """Add rows, and those that other processes have written meanwhile; what was measured first stays."""
        self._rows = {**rows, **self.rows, **_read(self._path)}
        if self._path is None or len(self._rows) > _MOST_ROWS:
            return
        with suppress(UsageError), replacing(self._path) as draft:  # a disk that is full
            draft.write_text(json.dumps(self._rows, indent=0, sort_keys=True), encoding="utf-8")


def _read(path: Path | None) -> dict[str, float]:
    """The rows of a file; none where there is no whole one."""
    try:
        found = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(seconds) for name, seconds in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def signatures(graph: Graph, sizes: Mapping[str, int]) -> dict[str, str]:
    """What decides how long each node takes, by the name of its first output.

    That is its operator, types and attributes, and, as a digest, what is around it and may be fused: the nodes before
    it, back to the last that contracts, and the operators behind it.

    Args:
        graph: the graph with the nodes.
        sizes: the sizes of symbolic dimensions.
    """
    found: dict[str, str] = {}
    chains: dict[Value, str] = {}  # what each value was computed by, as far back as may be fused
    for node in graph.nodes:
        own = _text(node, sizes)
        before = [chains.get(value, "") if value.use_count == 1 else "" for value in node.inputs if value is not None]
        behind = sorted(use.node.operator for value in node.outputs for use in value.uses)
        found[node.outputs[0].name] = f"{own} @{_digest(before, behind)}"
        is_contraction = has_trait(node.operator, Trait.CONTRACTING | Trait.RECURRENT)
        chains |= dict.fromkeys(node.outputs, own if is_contraction else _digest(own, before))
    return found


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _text(node: Node, sizes: Mapping[str, int]) -> str:
    attributes = "".join(f", {name}={value}" for name, value in sorted(node.attributes.items()))
    inputs = ", ".join("" if value is None else _type(value.type, sizes) + _stored(value) for value in node.inputs)
    outputs = ", ".join(_type(value.type, sizes) for value in node.outputs)
    return f"{node.operator}({inputs}{attributes}) -> {outputs}"


def _stored(value: Value) -> str:
    """The type that a value is widened from, by which a backend takes another kernel; empty if it isn't widened."""
    source = value
    while (node := source.producer) is not None and (
        node.operator in ("Cast", "DequantizeLinear") or has_trait(node.operator, Trait.MOVING)
    ):
        source = node.operand(0)
    return f" of {source.dtype}" if source.dtype is not value.dtype else ""


def _type(type: TensorType, sizes: Mapping[str, int]) -> str:
    if not type.is_ranked:
        return str(type)
    dims = [_size(dim, sizes) for dim in type.shape]
    return f"{type.dtype}[{','.join(map(str, dims))}]"


def _size(dim: int | str, sizes: Mapping[str, int]) -> int | str:
    try:
        return evaluate(dim, sizes)
    except KeyError:
        return dim


@dataclass(frozen=True, slots=True)
class TableTiming:
    """Times graphs by a table, and measures what it lacks.

    Attributes:
        profile: the profiler that times graphs.
        table: the table of known times.
        sizes: the sizes of symbolic dimensions.
    """

    profile: Profiler
    table: LatencyTable
    sizes: Mapping[str, int]

    def layers(self, graphs: Iterable[Graph]) -> list[Mapping[str, float]]:
        """See `Timing`; few graphs are held at a time."""
        rest = iter(graphs)
        first = next(rest)
        texts: list[Mapping[str, str]] = [signatures(first, self.sizes)]
        whole, waiting = [(first, texts[0])], list[tuple[Graph, Mapping[str, str]]]()
        if not self._knows(texts[0]):
            self._measure(whole)
        for graph in rest:
            texts.append(signatures(graph, self.sizes))
            if not self._knows(texts[-1]):
                waiting.append((graph, texts[-1]))
            if len(waiting) == _AT_ONCE:
                self._measure([*whole, *waiting], texts[0])
                waiting.clear()
        if waiting:
            self._measure([*whole, *waiting], texts[0])
        return [{name: self.table.rows[text] for name, text in held.items()} for held in texts]

    def _knows(self, texts: Mapping[str, str]) -> bool:
        return self.table.rows.keys() >= set(texts.values())

    def rounds(self, graphs: Sequence[Graph]) -> list[np.ndarray]:
        """See `Timing`."""
        return [profile.rounds for profile in self.profile(graphs, by_layer=False, settled=_is_steady)]

    def _measure(
        self, graphs: Sequence[tuple[Graph, Mapping[str, str]]], whole: Mapping[str, str] | None = None
    ) -> None:
        """Add rows for graphs; where those of the first graph are known, the others' are brought to their scale."""
        profiles = self.profile([named(graph) for graph, _ in graphs], wholes=False)
        scale = 1.0
        if whole is not None:
            known = sum(self.table.rows[text] for text in whole.values())
            scale = known / (_total(profiles[0], whole) or 1.0) or 1.0
        rows: dict[str, list[float]] = {}
        for profile, (_, held) in zip(profiles, graphs, strict=True):
            for name, text in held.items():
                rows.setdefault(text, []).append(scale * profile.modules.get(name, 0.0))
        self.table.add({text: float(np.mean(seconds)) for text, seconds in rows.items()})


def _is_steady(rounds: np.ndarray) -> bool:
    """Whether the quartiles over rounds show well enough how many times as fast the other graphs are as the first."""
    count = rounds.shape[1]
    lower, middle, upper = np.quantile(rounds[1:] / rounds[:1], (0.25, 0.5, 0.75), axis=1)
    return count >= FEWEST_ROUNDS and bool((_ERROR_OF_MEDIAN * (upper - lower) <= _SURE * middle * count**0.5).all())


def _total(profile: Profile, names: Mapping[str, str]) -> float:
    return sum(profile.modules.get(name, 0.0) for name in names)
