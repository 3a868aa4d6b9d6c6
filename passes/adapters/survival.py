"""How much of what an adapter does is left once it is merged and its layers are rounded."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from ...ir.errors import CheckError
from ...ir.graph import Graph
from ...ir.numerics import Outputs, is_float
from ..base import Feeds, Pass, PassContext
from ..instrument import Instrument, PassRecord
from ..probes import make_probes, run_graph
from .dora import all_adapters
from .merge_lora import LoraMerging

_BATCHES = 8
"""The most batches of the calibration data to look at."""
_ERASED = 0.5
"""The share below which an adapter counts as erased."""


class AdapterSurvival(Instrument):
    """Measures after each pass that rounds a merged model how much of the adapter's effect is left.

    The effect is what merging it changes in the outputs: e. What is left of it in other outputs y is their component
    along it, <y - y0, e> / <e, e>, where y0 are those without the adapter; what rounding moves elsewhere doesn't count.

    Args:
        tell: called with a sentence that says how much is left.
    """

    erases: ClassVar[str] = "float"  # the property of a graph that rounding passes destroy

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._context: PassContext | None = None
        self._batches: Sequence[Feeds] = ()
        self._step: Pass | None = None
        self._without: Graph | None = None
        self._plain: Sequence[Outputs] = ()
        self._effect: Sequence[Outputs] = ()

    def start(self, graph: Graph, context: PassContext) -> None:
        self._context = context

    def before(self, step: Pass, graph: Graph) -> None:
        self._step = step
        if isinstance(step, LoraMerging) and not self._effect and self._context is not None:
            held = self._context
            self._batches = held.calibration[:_BATCHES] or make_probes(held.source, (), held.seed)
            self._without = graph.clone()
            for adapter in all_adapters(self._without):
                adapter.remove(self._without)

    def after(self, record: PassRecord, graph: Graph) -> None:
        if self._step is None or not record.result.changed:
            return
        if isinstance(self._step, LoraMerging) and self._without is not None:
            self._plain, self._without = run_graph(self._without, self._batches), None
            self._effect = _difference(run_graph(graph, self._batches), self._plain)
        elif self.erases in self._step.destroys and self._effect:
            left = _along(_difference(run_graph(graph, self._batches), self._plain), self._effect)
            if left < _ERASED:
                raise CheckError(
                    f"after {record.text}, {max(left, 0):.0%} of what the adapter does is left: give its layers more "
                    "bits, leave them in float (skip=), or don't merge it"
                )
            self._tell(f"{left:.1%} of what the adapter does is left after {record.text}")


def _difference(one: Sequence[Outputs], other: Sequence[Outputs]) -> list[Outputs]:
    return [
        {name: array.astype(np.float64) - base[name] for name, array in outputs.items() if is_float(array)}
        for outputs, base in zip(one, other, strict=True)
    ]


def _along(found: Sequence[Outputs], effect: Sequence[Outputs]) -> float:
    """The component of some differences along others, relative to these; 1 where these are zero."""
    pairs = [(outputs[name], wanted[name]) for outputs, wanted in zip(found, effect, strict=True) for name in wanted]
    size = sum(float(np.vdot(wanted, wanted)) for _, wanted in pairs)
    return sum(float(np.vdot(wanted, got)) for got, wanted in pairs) / size if size else 1.0
