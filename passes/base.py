"""What a pass is: a frozen dataclass whose fields are its options and whose class attributes are its contract."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import numpy as np

from ..ir.graph import Graph
from ..targets import Target

Feeds = Mapping[str, np.ndarray]
"""One batch: an array for each input of the graph, by name."""


class Effect(Enum):
    """How far a pass may move the model's outputs; the manager holds it to that."""

    EXACT = "exact"
    ROUNDING = "rounding"
    LOSSY = "lossy"


@dataclass(frozen=True, slots=True)
class PassResult:
    """What a pass did.

    Attributes:
        counts: how often each rewrite was applied, by its name; all zero or empty where nothing changed.
        misses: why something that looked like a match wasn't taken, one sentence each, naming the layer.
    """

    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    misses: Sequence[str] = ()

    @property
    def changed(self) -> bool:
        return any(self.counts.values())


@dataclass(frozen=True, slots=True)
class PassContext:
    """What a pass may ask about its surroundings.

    Attributes:
        target: the machine that the graph is built for.
        source: the graph as it was read, before any pass: the teacher of `distill`. Nobody edits it.
        calibration: batches of real inputs, without labels; empty where the user gave none.
        seed: for whatever is random.
        sizes: of the symbolic dimensions, when costs are counted; those not given count as 1.
        progress: called with a description, the steps done and the steps in all, for long work.
    """

    target: Target
    source: Graph
    calibration: Sequence[Feeds] = ()
    seed: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    progress: Callable[[str, int, int], None] = lambda description, done, total: None


class Pass(ABC):
    """A transformation of a graph, in place.

    Subclasses are frozen dataclasses. Their fields are options with defaults, typed int, float, bool, str or a tuple of
    str, so that a pass round-trips through pipeline text.
    """

    name: ClassVar[str]
    """In pipelines: a verb in kebab-case."""
    effect: ClassVar[Effect]
    """How far it may move the outputs."""
    after: ClassVar[tuple[str, ...]] = ()
    """Passes that must not come later in the same pipeline."""
    max_drift: ClassVar[float] = 1.0
    """For a LOSSY pass: the relative error of the outputs (L2, before against after) beyond which it went wrong."""

    @abstractmethod
    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite the graph in place.

        Raises:
            UsageError: an option's value makes no sense, or needed calibration data is missing.
        """
