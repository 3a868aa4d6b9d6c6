"""What passes are told of times: kept beside an artifact, so that another build may decide by the same times."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..backends.artifact import damaged_files
from ..backends.manifest import TIMINGS, read_manifest, read_measurements
from ..ir.errors import ModelError
from ..ir.graph import Graph
from ..passes.base import Arrays, Pass, PassContext, Profile, Profiler, Timing
from ..passes.instrument import Instrument
from ..passes.pipeline import format_pass

Told = Sequence[tuple[str, Any]]
"""The times that passes were told, in order, as JSON has them, each with the text of the pass."""

_T = TypeVar("_T")


class Timings(Instrument):
    """Notes what passes are told of times, or tells them what an earlier build has noted.

    Args:
        given: what the passes of the earlier build were told; a pass that isn't among them is timed.
    """

    def __init__(self, given: Told = ()) -> None:
        self.told: list[tuple[str, Any]] = []
        self.missed: list[str] = []  # passes that were timed although something was given
        self._is_given = bool(given)
        self._left = list(given)
        self._pass = ""
        self._remember: Callable[[Callable[[], Arrays]], Arrays] = lambda compute: compute()

    def before(self, step: Pass, graph: Graph) -> None:
        self._pass = format_pass(step)

    def resume(self, told: Told) -> None:
        """Go on behind passes that have run before, by what these were told."""
        self.told += told

    def noting(self, context: PassContext) -> PassContext:
        """The same surroundings, in which times are noted, or given."""
        self._remember = context.remember
        profile = None if context.profile is None else partial(self._profiles, context.profile)
        timing = None if context.timing is None else _NotedTiming(context.timing, self._tell)
        rivals = tuple(_NotedTiming(it, self._tell) for it in context.rivals)
        return replace(context, profile=profile, timing=timing, rivals=rivals)

    def _profiles(self, profile: Profiler, graphs: Sequence[Graph], **asked: Any) -> Sequence[Profile]:
        def measure() -> Any:
            return [
                [_short(it.rounds), _short_values(it.modules), _short_values(it.conversions)]
                for it in profile(graphs, **asked)
            ]

        def read(times: Any) -> list[Profile]:
            return [Profile(np.array(rounds, float), *held) for _, (rounds, *held) in _pairs(graphs, times)]

        return self._tell(measure, read)

    def _tell(self, measure: Callable[[], Any], read: Callable[[Any], _T]) -> _T:
        """What is measured, or was given for the same pass.

        Raises:
            ModelError: what was given isn't what was asked for.
        """
        places = (place for place, (text, _) in enumerate(self._left) if text == self._pass)
        place = next(places, None)
        if place is None:
            if self._is_given:
                self.missed.append(self._pass)
            (text,) = self._remember(lambda: [np.frombuffer(json.dumps(measure()).encode(), np.uint8)])
            times = json.loads(text.tobytes())
        else:
            _, times = self._left[place]
            del self._left[: place + 1]
        self.told.append((self._pass, times))
        try:
            return read(times)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the times given for {self._pass} aren't of what it asks for: {error}") from error


@dataclass(frozen=True, slots=True)
class _NotedTiming:
    """A timing whose times are noted, or given; see `Timings`."""

    inner: Timing
    tell: Callable[[Callable[[], Any], Callable[[Any], Any]], Any]

    def layers(self, graphs: Iterable[Graph]) -> Sequence[Mapping[str, float]]:
        def measure() -> Any:
            rows = self.inner.layers(graphs)
            names = list(dict.fromkeys(name for row in rows for name in row))
            return [names, [[_four_digits(row[name]) if name in row else None for name in names] for row in rows]]

        def read(times: Any) -> list[Mapping[str, float]]:
            names, rows = times
            return [
                {name: float(seconds) for name, seconds in _pairs(names, row) if seconds is not None} for row in rows
            ]

        return self.tell(measure, read)

    def rounds(self, graphs: Sequence[Graph]) -> Sequence[np.ndarray]:
        def read(times: Any) -> list[np.ndarray]:
            return [np.array(rounds, float) for _, rounds in _pairs(graphs, times)]

        return self.tell(lambda: [_short(rounds) for rounds in self.inner.rounds(graphs)], read)


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier build went by, so that another one of the same inputs makes the same.

    Attributes:
        told: the times that its passes were told.
        backend: the backend that it took, for recipes that leave the choice; empty where there was no earlier build.
    """

    told: Told = ()
    backend: str = ""

    @classmethod
    def read(cls, directory: Path) -> "Earlier":
        """What an artifact's build went by.

        Raises:
            ModelError: it is no artifact, or its times can't be read or have changed.
        """
        backend, files = read_manifest(directory)["backend"], read_measurements(directory).get("files", {})
        if TIMINGS not in files:
            return cls((), backend)
        path = directory / TIMINGS
        for fault in damaged_files(directory, {TIMINGS: files[TIMINGS]}):
            raise ModelError(fault)
        try:
            return cls([(str(text), times) for text, times in json.loads(path.read_text(encoding="utf-8"))], backend)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ModelError(f"{path} can't be read: {error}") from error


NO_EARLIER = Earlier()
"""What a build goes by that is given nothing."""


def _pairs(one: Sequence[Any], other: Sequence[Any]) -> "zip[tuple[Any, Any]]":
    return zip(one, other, strict=True)


def _four_digits(seconds: float) -> float:
    """Seconds as they are noted, so that those who go by them at once go by the same."""
    return float(f"{seconds:.4g}")


def _short(rounds: np.ndarray) -> list[float]:
    return [_four_digits(seconds) for seconds in rounds.tolist()]


def _short_values(times: Mapping[str, float]) -> dict[str, float]:
    return {name: _four_digits(seconds) for name, seconds in times.items()}
