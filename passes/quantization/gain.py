"""Which layers are worth rounding, as they and the whole model are timed on the backends that may run the model."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ...ir.errors import TargetError
from ...ir.graph import Graph
from ..base import Timing
from ..units import show_seconds
from .rounding import name_of
from .times import leads_of

Draft: TypeAlias = Callable[[AbstractSet[str]], tuple[Graph, Mapping[str, str]]]
"""Rounds a copy of a graph but for some layers, by the names of outputs; also returns what was rounded, in words."""

_WORTH = 0.97
"""The share of its time that a layer may take at the most: rounding that hardly pays isn't worth its error."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What rounding gains on a backend.

    Attributes:
        before: the seconds of one inference before.
        after: the seconds afterwards; the same where nothing is worth rounding.
        left: why layers stay as they are, by the names of their outputs.
        reason: why nothing is worth rounding; empty where something is.
    """

    before: float
    after: float
    left: Mapping[str, str]
    reason: str = ""


def gain(timings: Sequence[Timing], graph: Graph, draft: Draft) -> Gain:
    """What rounding gains where the fastest of several backends runs the model, before as well as afterwards."""
    found = [_gain(timing, graph, draft) for timing in timings]
    before, best = min(it.before for it in found), min(found, key=lambda it: it.after)
    if best.reason or best.after < before:
        return best
    return Gain(before, before, {}, _no_gain(before, best.after))


def _gain(timing: Timing, graph: Graph, draft: Draft) -> Gain:
    """What rounding gains on a backend, without layers that are slower by themselves, unless all of them seem to be."""
    whole, layers = draft(frozenset())
    try:
        slower = _slower(timing, graph, whole, layers)
        left = slower if len(slower) < len(layers) else {}
        old, new = timing.rounds([graph, draft(left.keys())[0] if left else whole])
    except TargetError as error:
        return Gain(np.inf, np.inf, {}, f"what it gains can't be measured: {error}")
    before, after = float(np.median(old)), float(np.median(new))
    if np.quantile(old / new, 0.25) > 1:
        return Gain(before, after, left)
    return Gain(before, before, slower, _no_gain(before, after))


def _no_gain(before: float, after: float) -> str:
    times = f"{show_seconds(after)} instead of {show_seconds(before)}"
    return f"one sample would take {times}, so the model was left as it was"


def _slower(timing: Timing, before: Graph, after: Graph, layers: Mapping[str, str]) -> dict[str, str]:
    """The layers that aren't faster in the second graph, with the nodes that go with them, and what they take."""
    old, new = (
        _by_layer(graph, taken, layers.keys())
        for graph, taken in zip((before, after), timing.layers([before, after]), strict=True)
    )
    return {
        name: f"{text} takes {show_seconds(new[name])} instead of {show_seconds(old[name])}"
        for name, text in layers.items()
        if name in old and new[name] > _WORTH * old[name]
    }


def _by_layer(graph: Graph, taken: Mapping[str, float], layers: AbstractSet[str]) -> dict[str, float]:
    """The seconds of layers, with those of the nodes behind them that are no layers."""
    sums: dict[str, float] = {}
    leads = leads_of(graph, layers)
    for node in graph.nodes:
        if (lead := leads.get(name_of(node))) is not None:
            sums[lead] = sums.get(lead, 0.0) + taken.get(name_of(node), 0.0)
    return sums
