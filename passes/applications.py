"""The rewrites that passes apply, one by one: they are counted, and can be ended at a number to find the one at fault."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..ir.graph import Node

if TYPE_CHECKING:
    from .base import Pass


@dataclass(frozen=True, slots=True)
class Application:
    """The start of a pass, or a rewrite in it.

    Attributes:
        step: the pass.
        position: how many passes had been started, this one included.
        rewrite: its name; empty for the start of a pass.
        node: that is rewritten, as it was before: operator, name of its first output, and layer.
    """

    step: "Pass"
    position: int
    rewrite: str = ""
    node: str = ""


@dataclass(slots=True)
class Applications:
    """What has been applied so far.

    Attributes:
        limit: how many are granted; None for all.
        made: those that were granted, in order.
    """

    limit: int | None = None
    made: list[Application] = field(default_factory=list[Application])

    def begin(self, step: "Pass") -> bool:
        """Let a pass start, unless the limit is reached."""
        if self.is_over:
            return False
        self.made.append(Application(step, 1 + (self.made[-1].position if self.made else 0)))
        return True

    def take(self, rewrite: str, node: Node) -> bool:
        """Grant a rewrite of the pass that started last, unless the limit is reached."""
        if self.is_over:
            return False
        if self.made:  # or somebody calls a pass's `run` by itself
            name = node.outputs[0].name if node.outputs else ""
            what = f"{node.operator} %{name} of {node.location}"
            self.made.append(Application(self.made[-1].step, self.made[-1].position, rewrite, what))
        return True

    @property
    def is_over(self) -> bool:
        return self.limit is not None and len(self.made) >= self.limit
