"""`--drift`: which value of the graph each pass moves first, and how far."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TextIO

import numpy as np

from ...ir.errors import ModelError
from ...ir.graph import Graph, Location, Value
from ...ir.numerics import drift
from ..base import Feeds, Pass, PassContext
from ..instrument import Instrument
from ..pipeline import format_pass
from ..probes import make_probes

_NOISE = 1e-6
"""The relative error up to which a value hasn't moved: what another order of a sum makes of float32."""


class Drift(Instrument):
    """Compares the floats that the graph computes with those of the source, on the first probe, after every pass.

    A value's counterpart in the source is the one that is returned under the same name, or that has its name and comes
    from the same layer, or, for the last that a layer computes, the last that it computes there. Where shapes differ,
    or there is none, a value isn't compared; how many are is printed. The errors are relative (L2).

    It holds all that the source computes on one probe in memory.

    Args:
        stream: the stream to print to; stderr where none is given.
    """

    name: ClassVar[str] = "drift"

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._probe: Feeds = {}
        self._source = Graph()
        self._wanted: dict[Value, np.ndarray] = {}
        self._errors: dict[Value, float] = {}

    def start(self, graph: Graph, context: PassContext) -> None:
        self._source = context.source
        self._probe = make_probes(context.source, context.calibration, context.seed)[0]
        self._wanted = {}
        _run(context.source, self._probe, self._wanted.__setitem__)

    def ran(self, step: Pass, graph: Graph) -> None:
        print(f"drift after {format_pass(step)}: {self._told(graph)}", file=self._stream or sys.stderr)

    def _told(self, graph: Graph) -> str:
        counterparts = _counterparts(graph, self._source)
        errors: dict[Value, float] = {}
        first, furthest, most = "", "", _NOISE

        def compare(value: Value, found: np.ndarray) -> None:
            nonlocal first, furthest, most
            source = counterparts.get(value)
            wanted = None if source is None else self._wanted.get(source)
            if source is None or wanted is None or wanted.shape != found.shape:
                return
            error = errors[source] = drift([{"": wanted}], [{"": found}])
            if not first and error > self._errors.get(source, 0.0) + _NOISE:
                first = f"{_name(value)} moves first, to {error:.3g}"
            if error > most:
                furthest, most = f"; furthest from the source is {_name(value)}, {error:.3g}", error

        try:
            _run(graph, self._probe, compare)
        except ModelError as error:
            return f"it doesn't run: {error}"
        self._errors |= errors
        return f"{first or 'nothing moves'}{furthest} ({len(errors)} of {len(_placed(graph))} values compared)"


def _run(graph: Graph, probe: Feeds, take: Callable[[Value, np.ndarray], None]) -> None:
    """Run a graph and hand over the floats that its nodes compute, in order; not those of graphs inside nodes."""
    from ...ir.interpreter import Interpreter  # brings torch, as does the next
    from ...ir.ops.dtypes import to_numpy

    own = {value for _, value in _placed(graph)}

    def observe(value: Value, tensor: Any) -> None:
        if value in own:
            take(value, to_numpy(tensor))

    Interpreter(graph).run(probe, observe)


def _counterparts(graph: Graph, source: Graph) -> Mapping[Value, Value]:
    named = {(value.name, place): value for place, value in _placed(source)}
    last, own_last = dict(_placed(source)), dict(_placed(graph))
    found: dict[Value, Value] = {}
    for place, value in _placed(graph):
        twin = named.get((value.name, place))
        if twin is None and own_last[place] is value and place != Location():
            twin = last.get(place)
        if twin is not None:
            found[value] = twin
    return found | {value: source.outputs[name] for name, value in graph.outputs.items() if name in source.outputs}


def _placed(graph: Graph) -> Sequence[tuple[Location, Value]]:
    """The floats that nodes compute, with the layers that they come from, in order."""
    return [(node.location, value) for node in graph.nodes for value in node.outputs if value.dtype.is_float]


def _name(value: Value) -> str:
    assert value.producer is not None
    return f"%{value.name} of {value.producer.location}"
