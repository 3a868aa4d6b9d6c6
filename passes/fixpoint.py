"""Passes that are repeated while they find something."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from ..ir.errors import UsageError
from .base import Effect, Pass
from .group import Group


@dataclass(frozen=True)
class Fixpoint(Group):
    """Run passes one after the other, again and again until a round changes nothing: `fixpoint(cse,dce)`.

    Attributes:
        most: the number of rounds after which it is an error if something still changes.
    """

    name: ClassVar[str] = "fixpoint"
    effect: ClassVar[Effect] = Effect.EXACT
    most: Annotated[int, Ge(1)] = 20

    def schedule(self, run: Callable[[Pass], bool]) -> None:
        """Hand the passes in order to `run`, round after round.

        Raises:
            UsageError: the passes don't come to an end.
        """
        for _ in range(self.most):
            changed = [run(step) for step in self.steps]
            if not any(changed):
                return
        names = ", ".join(step.name for step in self.steps)
        raise UsageError(
            f"{self.name}: after {self.most} rounds of {names} something still changes; do they undo each other?"
        )
