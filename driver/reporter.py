"""What long work tells while it runs; this reporter keeps silent, `report.ConsoleReporter` speaks."""

from collections.abc import Sequence

from ..ir.graph import Graph
from ..passes.base import Pass
from ..passes.instrument import Instrument, PassRecord
from ..passes.order import flattened
from ..passes.pipeline import PRESETS, parse_pipeline
from .results import Artifact, PassRow


class Reporter:
    """Hears what happens; every hook does nothing by default."""

    def stage(self, text: str) -> None:
        """A new stage of the work begins."""

    def note(self, text: str) -> None:
        """Something the user should know, though nothing is wrong."""

    def warn(self, text: str) -> None:
        """Something is probably not as the user meant it."""

    def progress(self, description: str, done: int, total: int) -> None:
        """Long work inside a stage moves on."""

    def passes(self, rows: Sequence[PassRow]) -> None:
        """The passes have run, or as many as did before an error."""

    def built(self, artifact: Artifact) -> None:
        """The result, before its budget is checked."""


SILENT = Reporter()


class PassReporter(Instrument):
    """Tells a reporter which pass runs, and which one that the user asked for by name found nothing to do."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._of_presets = {step.name for preset in PRESETS.values() for step in flattened(parse_pipeline(preset))}

    def before(self, step: Pass, graph: Graph) -> None:
        self._reporter.stage(f"running {step.name}")

    def after(self, record: PassRecord, graph: Graph) -> None:
        if not record.result.changed and record.name not in self._of_presets:
            reasons = "; ".join(record.result.misses[:3])
            self._reporter.warn(f"{record.text} changed nothing{f': {reasons}' if reasons else ''}")
