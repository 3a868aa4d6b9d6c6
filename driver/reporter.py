"""What a build tells while it runs; this one keeps silent, `report.Console` speaks."""

from collections.abc import Sequence

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
