"""What a build found out: a row for each pass, the untouched model and the built one side by side, the artifact."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from html import escape
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..backends import Executable
from ..ir.analysis.cost import Cost
from ..passes.base import Effect
from ..passes.units import show_bytes, show_seconds
from .evaluation import Metric, Score, drop_interval, flips, largest_drop, mcnemar
from .measurement import Latency, Ratio
from .recipe import Budget


@dataclass(frozen=True, slots=True)
class PassRow:
    """The graph after a pass, or as it was read.

    Attributes:
        text: the pass with its options; `source` for the graph as it was read.
        effect: what the pass declares; None for the source.
        counts: how often each rewrite was applied, by its name.
        misses: why something that looked like a match wasn't taken.
        seconds: the seconds spent in the pass.
        cost: the cost of the graph.
        drift: the relative error of the outputs against the source's; None where it wasn't checked.
        metric: the metric on the evaluation data; None where it wasn't evaluated.
        preset: the preset that the pass comes from; empty where it was asked for by name.
        curve: the loss in the course of a training; empty for other passes.
    """

    text: str
    effect: Effect | None
    counts: Mapping[str, int]
    misses: Sequence[str]
    seconds: float
    cost: Cost
    drift: float | None
    metric: float | None
    preset: str = ""
    curve: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """A model as it runs.

    Attributes:
        backend: the name of the backend that runs it.
        latency: the latency of one inference on one sample; None where the machine at hand can't run it.
        size: the size of its files, in bytes.
        score: the score on the evaluation data, if there are any.
    """

    backend: str
    latency: Latency | None
    size: int
    score: Score | None

    def excesses(self, budget: Budget) -> list[str]:
        """How far the model goes beyond a budget's latency and size, a clause for each that it exceeds."""
        found: list[str] = []
        latency, most = self.latency, budget.latency
        if most is not None and latency is not None and latency.median > most:
            found.append(f"the latency is {show_seconds(latency.median)}, more than {show_seconds(most)}")
        if budget.size is not None and self.size > budget.size:
            found.append(f"the size is {show_bytes(self.size)}, more than {show_bytes(budget.size)}")
        return found


@dataclass(frozen=True, slots=True)
class AtSizes:
    """Latencies of the untouched model and the built one where symbolic dimensions have these sizes."""

    sizes: Mapping[str, int]
    untouched: Latency
    built: Latency


@dataclass(frozen=True, slots=True, repr=False)
class Artifact:
    """What `build` made, and how it compares with the untouched model in ONNX Runtime.

    Attributes:
        directory: the folder of the artifact.
        metric: the metric that was evaluated; None where there are no evaluation data.
        untouched: the model as it was read.
        built: the artifact.
        passes: the source's row, and one for each pass.
        threads: the number of threads that both ran with.
        sizes: the sizes of symbolic dimensions that latency was measured at.
        lengths: latencies at shorter and longer inputs, where there are no data and a length varies.
    """

    directory: Path
    metric: Metric | None
    untouched: Measured
    built: Measured
    passes: Sequence[PassRow]
    threads: int
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    lengths: Sequence[AtSizes] = ()

    @property
    def speedup(self) -> Ratio | None:
        built, untouched = self.built.latency, self.untouched.latency
        return None if built is None or untouched is None else built.speedup_over(untouched)

    @property
    def is_slower(self) -> bool:
        """Whether it is slower than the untouched model beyond noise: by a twentieth in three rounds of four."""
        return self.speedup is not None and self.speedup.upper < 0.95

    @property
    def shrinkage(self) -> float:
        """How many times smaller the artifact is than the untouched model."""
        return self.untouched.size / self.built.size

    @property
    def drop(self) -> float | None:
        """How much worse the metric got, on its own scale."""
        if self._scored is None:
            return None
        metric, before, after = self._scored
        return metric.drop(before.value, after.value)

    @property
    def drop_interval(self) -> tuple[float, float] | None:
        """The interval that would hold 95 % of the drops on other samples; None where that isn't known."""
        return None if self._scored is None else drop_interval(*self._scored)

    def largest_drop(self, confidence: float) -> float | None:
        """How much worse the metric got at the most, with a confidence; None where it wasn't evaluated."""
        return None if self._scored is None else largest_drop(*self._scored, confidence)

    @property
    def flips(self) -> tuple[int, int] | None:
        """How many samples only the untouched model gets right, and how many only the artifact, where that is known."""
        if self.untouched.score is None or self.built.score is None:
            return None
        return flips(self.untouched.score, self.built.score)

    def __repr__(self) -> str:
        drop = "" if self.drop is None or self.metric is None else f", {self.metric.name} drops by {self.drop:.4f}"
        speed = "" if self.speedup is None else f", {self.speedup} as fast"
        return f"<Artifact {self.directory}: {self.built.backend}, {self.shrinkage:.2f}x smaller{speed}{drop}>"

    def _repr_html_(self) -> str:
        return f"<code>{escape(repr(self))}</code>"

    def timed(self, untouched: Latency, built: Latency) -> "Artifact":
        """The same with latencies of another run."""
        before, after = replace(self.untouched, latency=untouched), replace(self.built, latency=built)
        return replace(self, untouched=before, built=after)

    def load(self, threads: int | None = None) -> Executable:
        """The artifact, ready to run."""
        from ..backends.artifact import load

        return load(self.directory, threads)

    def summary(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "metric": None if self.metric is None else self.metric.name,
            "metric_drop": self.drop,
            "metric_drop_interval": self.drop_interval,
            "flips": self.flips,
            "mcnemar": None if self.flips is None else mcnemar(self.flips),
            "speedup": plain(self.speedup),
            "size_ratio": self.shrinkage,
            "threads": self.threads,
            "sizes": plain(self.sizes),
            "lengths": [
                {
                    "sizes": plain(it.sizes),
                    "untouched_seconds": it.untouched.median,
                    "built_seconds": it.built.median,
                    "speedup": plain(it.built.speedup_over(it.untouched)),
                }
                for it in self.lengths
            ],
            "untouched": _measured(self.untouched),
            "built": _measured(self.built),
            "passes": [plain(row) for row in self.passes],
        }

    @property
    def _scored(self) -> tuple[Metric, Score, Score] | None:
        """The metric, and the scores before and after; None where nothing was evaluated."""
        before, after = self.untouched.score, self.built.score
        return None if self.metric is None or before is None or after is None else (self.metric, before, after)


def read_row(record: Mapping[str, Any]) -> PassRow:
    """A row from the plain values that `plain` makes of it."""
    typed: dict[str, Any] = {"effect": record["effect"] and Effect(record["effect"]), "cost": Cost(**record["cost"])}
    return PassRow(**{**record, **typed})


def folded(rows: Sequence[PassRow]) -> list[tuple[int, PassRow]]:
    """The rows that say something, with their numbers: a preset's become one, and passes that changed nothing go."""
    found: list[tuple[int, PassRow]] = []
    for number, row in enumerate(rows):
        is_lossy = row.effect is Effect.LOSSY
        if row.preset and not is_lossy and found and found[-1][1].preset == row.preset:
            before = found[-1][1]
            counts = {**before.counts, **{key: before.counts.get(key, 0) + count for key, count in row.counts.items()}}
            seconds = before.seconds + row.seconds
            found[-1] = number, replace(row, text=row.preset, counts=counts, seconds=seconds)
        elif row.preset and not is_lossy:
            found.append((number, replace(row, text=row.preset)))
        elif row.effect is None or is_lossy or any(row.counts.values()):
            found.append((number, row))
    return found


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses as objects, enums and paths as text, numbers that aren't finite as null."""
    if isinstance(value, Latency):
        return {"median": value.median, "rounds": value.rounds.tolist()}
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, set | frozenset):
        return sorted(map(plain, cast("set[Any]", value)), key=str)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _measured(model: Measured) -> dict[str, Any]:
    return {
        "backend": model.backend,
        "latency_seconds": None if model.latency is None else model.latency.median,
        "is_beside_other_work": model.latency is not None and model.latency.processor is not None,
        "latency_rounds": [] if model.latency is None else model.latency.rounds.tolist(),
        "size_bytes": model.size,
        "metric": None if model.score is None else model.score.value,
    }
