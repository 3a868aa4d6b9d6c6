"""Layers without which the integer model is faster, as it is timed on the backend: they stay in float.

A layer may be slower in integers by itself, or because of the conversions around it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...ir.graph import Graph
from ..base import PassContext, Profiler
from ..debug_counter import DebugCounter
from ..probes import make_probes
from ..profit import named
from ..selection import Selection
from .allocation import allocate
from .rounding import Losses, Rounding
from .times import Times, element_counts

_SMALL = 200e-6
"""The seconds below which a model isn't worth timing layer by layer."""

_WORTH = 0.97
"""The share of the time with all layers in int8 that a mix must be predicted to take at most, to be timed."""

_NOISE = 1.02
"""How many times as long all layers in int8 must take as the mix; more proof isn't asked for, as less is rounded."""


def slow_layers(
    graph: Graph, context: PassContext, profile: Profiler, prepare: Callable[[Graph, PassContext], Rounding]
) -> frozenset[str]:
    """The layers to leave in float, by the names of their outputs; none where that isn't measured to be faster.

    The ranges are those of one sample, since only times count.

    Args:
        graph: the graph in float.
        context: the surroundings, whose selection says which layers may be quantized.
        profile: times graphs on the backend.
        prepare: prepares a graph for rounding.
    """
    few = make_probes(graph, context.calibration, count=1)
    barred = frozenset(value.name for node in graph.nodes if not context.selects(node) for value in node.outputs)
    surroundings = replace(
        context, calibration=few, labels=(), labelled=None, counter=DebugCounter(), selection=Selection(barred=barred)
    )
    rounding = prepare(named(graph), surroundings)
    layers = frozenset(rounding.layers)
    if len(layers) < 2:
        return frozenset()
    graphs = (rounding.graph, rounding.quantized())
    wholes = profile(graphs, by_layer=False, settled=_is_small)
    if _is_small(np.stack([it.rounds for it in wholes])):
        return frozenset()
    by_layer = profile(graphs, wholes=False)
    profiles = [replace(one, rounds=whole.rounds) for one, whole in zip(by_layer, wholes, strict=True)]
    times = Times.of(rounding, element_counts(rounding.graph, few[0]), *profiles)
    chosen = allocate(times, Losses(dict.fromkeys(layers, 0.0), {}), 1.0)
    if not chosen or times.predict(chosen) > _WORTH * times.whole:
        return frozenset()
    mix, whole = profile([rounding.quantized(chosen), graphs[1]], by_layer=False)
    return layers - chosen if np.median(whole.rounds / mix.rounds) > _NOISE else frozenset()


def _is_small(rounds: np.ndarray) -> bool:
    """Whether the second of two graphs takes so little time that no layer in it is worth weighing."""
    return float(np.median(rounds[1])) < _SMALL
