"""The rewrites that passes apply, one by one: they are counted, and can be ended at a number to find the one at fault."""

from dataclasses import dataclass, field

from ..ir.graph import Location, Node


@dataclass(frozen=True, slots=True)
class Application:
    """A rewrite of a node.

    Attributes:
        rewrite: its name.
        operator: of the node.
        location: of the node.
        output: the name of the node's first output.
    """

    rewrite: str
    operator: str
    location: Location
    output: str

    def __str__(self) -> str:
        return f"{self.rewrite} at {self.location} ({self.operator} %{self.output})"


@dataclass(slots=True)
class Applications:
    """What has been applied so far.

    Attributes:
        limit: how many are granted; None for all.
        made: those that were granted, in order.
    """

    limit: int | None = None
    made: list[Application] = field(default_factory=list[Application])

    def take(self, rewrite: str, node: Node) -> bool:
        """Grant a rewrite, unless the limit is reached."""
        if self.limit is not None and len(self.made) >= self.limit:
            return False
        self.made.append(
            Application(rewrite, node.operator, node.location, node.outputs[0].name if node.outputs else "")
        )
        return True
