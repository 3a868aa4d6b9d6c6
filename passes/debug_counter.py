"""The rewrites that passes apply: they are counted, and can be ended at a number to find the one at fault."""

from dataclasses import dataclass
from typing import NamedTuple

from ..ir.graph import Location, Node


class Execution(NamedTuple):
    """The start of a pass, or a rewrite in it.

    Attributes:
        position: how many passes had been started, this one included.
        rewrite: the name of the rewrite; empty for the start of a pass.
        operator: the operator of the node that is rewritten, as it was before.
        output: the name of that node's first output.
        location: the location of that node's layer.
    """

    position: int
    rewrite: str = ""
    operator: str = ""
    output: str = ""
    location: Location = Location()

    @property
    def node(self) -> str:
        """The node that is rewritten, in words."""
        return f"{self.operator} %{self.output} of {self.location}" if self.operator else ""


@dataclass(slots=True)
class DebugCounter:
    """Counts the starts of passes and the rewrites that are granted, up to a limit.

    Attributes:
        limit: how many starts and rewrites are granted; None for all.
        count: how many were granted so far.
        last: the one that was granted last; None before the first.
    """

    limit: int | None = None
    count: int = 0
    last: Execution | None = None

    def should_start(self) -> bool:
        """Let a pass start, unless the limit is reached."""
        if self.is_over:
            return False
        self.last = Execution(1 if self.last is None else self.last.position + 1)
        self.count += 1
        return True

    def should_execute(self, rewrite: str, node: Node) -> bool:
        """Grant a rewrite of the pass that started last, unless the limit is reached."""
        if self.is_over:
            return False
        last = self.last
        if last is not None:  # or somebody calls a pass's `run` by itself
            name = node.outputs[0].name if node.outputs else ""
            self.last = Execution(last.position, rewrite, node.operator, name, node.location)
            self.count += 1
        return True

    @property
    def is_over(self) -> bool:
        return self.limit is not None and self.count >= self.limit
