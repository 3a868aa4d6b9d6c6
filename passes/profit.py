"""Whether what a pass has done pays: graphs are timed in turn on the backend that they are built for."""

from collections.abc import Mapping
from math import comb

import numpy as np

from ..ir.graph import Graph, Location
from .base import Profiler
from .units import show_seconds

_NOISE, _LEAST, _LEAST_OF_A_LAYER = 1.02, 50e-6, 5e-6
"""How many times as long a graph has to take, in three rounds of four, to count as slower, and by how many seconds."""

_CHANCE = 0.004
"""How likely a graph that is slower in three rounds of four looks faster after some rounds; 1.3 % after any of 25."""


def named(graph: Graph) -> Graph:
    """A copy in which each node's module is the name of its first output, so that times are told apart by node."""
    copy = graph.clone()
    for node in copy.nodes:
        node.location = Location(node.outputs[0].name)
    return copy


def slower(profile: Profiler, before: Graph, after: Graph) -> str:
    """Why a graph is not worth having in place of another one: how much slower it is; empty where it isn't slower."""
    old, new = profile([before, after], by_layer=False, settled=_is_faster)
    low, middle = np.quantile(new.rounds / old.rounds, (0.25, 0.5)).tolist()
    if low <= _NOISE or new.seconds - old.seconds <= _LEAST:
        return ""
    times = f"{show_seconds(new.seconds)} instead of {show_seconds(old.seconds)}"
    return f"one sample would take {times}, {middle:.2f} times as long, so the model was left as it was"


def _is_faster(rounds: np.ndarray) -> bool:
    """Whether the second of two graphs takes less time so often that it won't count as slower."""
    count, faster = rounds.shape[1], int(np.count_nonzero(rounds[1] < rounds[0]))
    return sum(comb(count, more) * 3 ** (count - more) for more in range(faster, count + 1)) / 4**count < _CHANCE


def slower_layers(profile: Profiler, before: Graph, after: Graph) -> Mapping[str, str]:
    """The layers that take longer in a graph than in the one before, and how long, by the modules of their nodes."""
    old, new = profile([before, after], wholes=False)
    return {
        name: f"{show_seconds(new.modules[name])} instead of {show_seconds(seconds)}"
        for name, seconds in old.modules.items()
        if new.modules.get(name, 0.0) > seconds + _LEAST_OF_A_LAYER
    }
