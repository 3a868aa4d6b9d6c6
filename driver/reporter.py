"""What long work tells while it runs; this reporter keeps silent, `report.ConsoleReporter` speaks."""

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..backends.base import CompilerWarning
from ..ir.graph import Graph
from ..passes.base import Effect, Pass, PassContext
from ..passes.instrument import Instrument, PassRecord
from ..passes.order import flattened
from ..passes.pipeline import PRESETS, preset_passes
from .results import Artifact, PassRow

if TYPE_CHECKING:
    from .plans import Found


class Reporter:
    """Hears what happens; every hook does nothing by default."""

    def stage(self, text: str) -> None:
        """A new stage of the work begins."""

    def running(self, name: str, number: int, total: int) -> None:
        """A pass of a pipeline begins."""

    def note(self, text: str) -> None:
        """Something the user should know, though nothing is wrong."""

    def warn(self, text: str) -> None:
        """Something is probably not as the user meant it."""

    def progress(self, description: str, done: int, total: int) -> None:
        """Long work inside a stage moves on."""

    def passes(self, rows: Sequence[PassRow]) -> None:
        """The passes have run, or as many as did before an error."""

    def searched(self, found: "Found") -> None:
        """A search has chosen the passes of a build."""

    def built(self, artifact: Artifact) -> None:
        """The result, before its budget is checked."""


SILENT = Reporter()


class Doubts(Reporter):
    """Passes on to a reporter what a pipeline tells, and keeps what it is warned of.

    Args:
        reporter: the reporter.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.texts: list[str] = []
        self.stage, self.running = reporter.stage, reporter.running
        self.note, self.progress = reporter.note, reporter.progress

    def warn(self, text: str) -> None:
        self.texts.append(text)
        self._reporter.warn(text)


@contextmanager
def compilers_heard(reporter: Reporter) -> Generator[None]:
    """Tell a reporter, instead of Python's warnings, what a backend's compiler failed over while this lasts."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CompilerWarning)
        show = warnings.showwarning

        def tell(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if issubclass(category, CompilerWarning):
                reporter.warn(str(message))
            else:
                show(message, category, *where)

        warnings.showwarning = tell
        yield


def presets_of_passes() -> dict[int, str]:
    """The presets that passes come from, by the passes' identities; of nested presets, the inner."""
    found: dict[int, str] = {}
    for preset in PRESETS:
        for step in flattened(preset_passes(preset)):
            found.setdefault(id(step), preset)
    return found


class PassReporter(Instrument):
    """Tells a reporter which pass runs, and in the end which passes asked for by name found nothing to do.

    Args:
        reporter: the reporter.
        passes: the passes of the pipeline.
        implied: the passes that nobody has asked for by name, beside those of presets.
    """

    def __init__(self, reporter: Reporter, passes: Sequence[Pass], implied: Sequence[Pass] = ()) -> None:
        self._reporter = reporter
        self._implied = {*presets_of_passes(), *map(id, implied)}
        self._number, self._total = 0, sum(1 for _ in flattened(passes))
        self._running = 0  # the identity of a pass
        self._warnings: dict[int, str] = {}  # by pass; none where it changed something, be it in one round of many

    def start(self, graph: Graph, context: PassContext) -> None:
        self._reporter.stage(f"running {self._total} passes" if self._total > 1 else "running a pass")

    def before(self, step: Pass, graph: Graph) -> None:
        self._number += 1
        self._reporter.running(step.name, self._number, self._total)
        self._running = id(step)

    def after(self, record: PassRecord, graph: Graph) -> None:
        for note in record.result.notes:
            self._reporter.note(f"{record.name}: {note}")
        reasons = "; ".join(record.result.misses[:3])
        warning = f"{record.text} changed nothing{f': {reasons}' if reasons else ''}"
        changes = sum(record.result.counts.values())
        if record.effect is Effect.LOSSY and 0 < changes < len(record.result.misses):
            left = len(record.result.misses)
            self._warnings[self._running] = (
                f"{record.text} left {left} places as they were, more than it changed; the first are: {reasons}"
            )
        elif record.result.changed:
            self._warnings[self._running] = ""
        elif self._running not in self._implied:
            self._warnings.setdefault(self._running, warning)

    def finish(self) -> None:
        for warning in filter(None, self._warnings.values()):
            self._reporter.warn(warning)
