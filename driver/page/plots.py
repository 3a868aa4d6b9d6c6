"""Places of marks on the page's plots, in per cent of an axis."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...passes.units import show_seconds

_MOST_PARTS = 5
"""The most parts that the marks on an axis divide it into."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis.

    Attributes:
        low: the number at its beginning.
        high: the number at its end.
    """

    low: float
    high: float

    def at(self, value: float) -> float:
        """The place of a number, in per cent."""
        return round(100 * (value - self.low) / (self.high - self.low or 1), 3)

    def ticks(self) -> list[float]:
        """Round numbers on the axis."""
        width = (self.high - self.low) / _MOST_PARTS
        if not width > 0 or not math.isfinite(width):
            return [self.low]
        power = 10.0 ** math.floor(math.log10(width))
        step = next(it * power for it in (1, 2, 5, 10) if it * power >= width * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def strips(measurements: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rounds of both models on one axis from 0; None where the built one was not measured."""
    models = [measurements["untouched"], measurements["built"]]
    if not all(model.get("latency_rounds") for model in models):
        return None
    axis = Axis(0.0, 1.04 * max(max(model["latency_rounds"]) for model in models))
    rows = [
        {
            "name": name,
            "points": [axis.at(value) for value in model["latency_rounds"]],
            "median": axis.at(model["latency_seconds"]),
        }
        for name, model in zip(("untouched", "built"), models, strict=True)
    ]
    return {"rows": rows, "ticks": [(axis.at(tick), show_seconds(tick) if tick else "0") for tick in axis.ticks()]}


def scatter(measurements: Mapping[str, Any]) -> dict[str, Any] | None:
    """Latency and metric of both models, with quartiles and the drop's interval; None where one isn't known."""
    before, after = measurements["untouched"], measurements["built"]
    if None in (before["metric"], after["metric"]) or not (before.get("latency_rounds") and after["latency_rounds"]):
        return None
    drop, interval = measurements["metric_drop"], measurements["metric_drop_interval"]
    sign = -1.0 if drop and (after["metric"] - before["metric"]) * drop > 0 else 1.0  # of a metric, higher is better
    span = None if interval is None else sorted(before["metric"] - sign * bound for bound in interval)
    metrics = [before["metric"], after["metric"], *(span or [])]
    room = 0.15 * (max(metrics) - min(metrics)) or 0.01 * abs(metrics[0]) or 0.01
    across = Axis(0.0, 1.1 * max(before["latency_seconds"], after["latency_seconds"]))
    up = Axis(min(metrics) - room, max(metrics) + room)
    points = [
        {
            "name": name,
            "x": across.at(model["latency_seconds"]),
            "y": 100 - up.at(model["metric"]),
            "quartiles": [across.at(it) for it in _quartiles(model["latency_rounds"])],
            "interval": None if span is None or name == "untouched" else [100 - up.at(bound) for bound in span],
        }
        for name, model in (("untouched", before), ("built", after))
    ]
    return {
        "points": points,
        "across": [(across.at(tick), show_seconds(tick) if tick else "0") for tick in across.ticks()],
        "up": [(100 - up.at(tick), f"{tick:.4g}") for tick in up.ticks()],
    }


def waterfall(values: Sequence[float]) -> list[dict[str, float]]:
    """A bar for each number of a sequence: where it ends, and the width and sign of its change from the one before."""
    axis = Axis(0.0, max([*values, 1]))
    places = [axis.at(value) for value in values]
    befores = places[:1] + places[:-1]
    return [
        {"end": min(before, now), "width": round(abs(now - before), 3), "change": float(np.sign(now - before))}
        for before, now in zip(befores, places, strict=True)
    ]


def _quartiles(rounds: Sequence[float]) -> list[float]:
    return np.quantile(rounds, (0.25, 0.75)).tolist()
