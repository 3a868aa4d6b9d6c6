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
        name: of the pass.
        effect: that it declares.
        result: its own account.
        seconds: spent in the pass itself.
        nodes: of the graph after it.
        drift: relative error of the outputs against the source's after it; None where it wasn't checked.
    """

    text: str
    name: str
    effect: Effect
    result: PassResult
    seconds: float
    nodes: int
    drift: float | None


class Instrument:
    """Something that watches; every hook does nothing by default.

    Those that are made without arguments may have a name, by which `--instrument` knows them; one of another package
    has the name of its entry point in the group `planish.instruments`.
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
