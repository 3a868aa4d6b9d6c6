"""Instruments watch a pipeline run; the manager knows only this interface."""

from dataclasses import dataclass
from typing import ClassVar

from ..ir.graph import Graph
from .base import Effect, Pass, PassContext, PassResult


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What happened in one step of a pipeline.

    Attributes:
        text: the pass with its options, as in a pipeline.
        name: the pass's name.
        effect: the effect that the pass declares.
        result: what the pass says that it did.
        seconds: the seconds spent in the pass itself.
        nodes: how many nodes the graph has after the pass.
        drift: the relative error of the outputs after the pass against the source's; None where it wasn't checked.
    """

    text: str
    name: str
    effect: Effect
    result: PassResult
    seconds: float
    nodes: int
    drift: float | None


class Instrument:
    """Something that watches a pipeline run; every hook does nothing by default.

    Instruments that are made without arguments may have a name, by which `--instrument` knows them; one of another
    package has the name of its entry point in the group `planish.instruments`.
    """

    name: ClassVar[str] = ""

    def start(self, graph: Graph, context: PassContext) -> None:
        """Called once, with the graph as it was read, and what the passes will be given."""

    def before(self, step: Pass, graph: Graph) -> None:
        """Called before each pass."""

    def ran(self, step: Pass, graph: Graph) -> None:
        """Called after each pass, when the graph is known to be well formed, and before its numbers are checked."""

    def after(self, record: PassRecord, graph: Graph) -> None:
        """Called after each pass that was checked and found right."""

    def reached(self, number: int, graph: Graph) -> None:
        """Called after so many steps of the pipeline, each a pass or a group with all that is in it."""

    def finish(self) -> None:
        """Called at the end, also where a pass failed or was found wrong."""
