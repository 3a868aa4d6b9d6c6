"""What a pass is: a frozen dataclass whose fields are its options and whose class attributes are its contract."""

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Protocol, final

import numpy as np

from ..ir.errors import UsageError
from ..ir.graph import Graph, Node, nested, nested_nodes
from ..targets import Target
from .debug_counter import DebugCounter
from .options import check_options
from .selection import Selection

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
        notes: what was measured, one sentence each.
        curve: the loss in the course of a training, at most 100 numbers; empty for passes that don't train.
    """

    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    misses: Sequence[str] = ()
    notes: Sequence[str] = ()
    curve: Sequence[float] = ()

    @property
    def changed(self) -> bool:
        """Whether the pass rewrote anything."""
        return any(self.counts.values())

    @classmethod
    def sum(cls, results: Sequence["PassResult"]) -> "PassResult":
        """Add up what was counted, and list what was said; curves are left out, since each belongs to one training."""
        counts: Counter[str] = Counter()
        for result in results:
            counts.update(result.counts)
        misses = [miss for result in results for miss in result.misses]
        return cls(counts, misses, [note for result in results for note in result.notes])


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the time of a model goes, on the backend that it is built for.

    Attributes:
        rounds: seconds of one inference of the whole model, float[rounds]; graphs that are profiled together run in
            turn, so that their rounds are comparable one by one; none where whole models weren't timed.
        modules: seconds of the operators, by the module path that their nodes have; empty where they weren't timed.
        conversions: the part of these that QuantizeLinear and DequantizeLinear take where they run by themselves.
    """

    rounds: np.ndarray
    modules: Mapping[str, float]
    conversions: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """The median of one inference."""
        return float(np.median(self.rounds))


def _unread(reference: str) -> Graph:
    raise UsageError(f"the model {reference} can't be read here: only `optimize`, `opt` and builds read models")


def _unfound(reference: str) -> Callable[..., Any]:
    raise UsageError(f"the function {reference} can't be found here: only `optimize`, `opt` and builds call functions")


Arrays = Sequence[np.ndarray]
"""What passes remember."""


def _compute(compute: Callable[[], Arrays]) -> Arrays:
    return compute()


def _compute_shared(about: str, compute: Callable[[], Arrays]) -> Arrays:
    return compute()


class Profiler(Protocol):
    """What lowers graphs to the chosen backend and times them, in turn."""

    def __call__(
        self,
        graphs: Sequence[Graph],
        *,
        wholes: bool = True,
        by_layer: bool = True,
        settled: Callable[[np.ndarray], bool] | None = None,
    ) -> Sequence[Profile]:
        """Time graphs as wholes, and the operators of each layer; either takes about as long as the other.

        Args:
            graphs: the graphs to time.
            wholes: whether graphs are timed as wholes.
            by_layer: whether operators are timed.
            settled: tells whether the rounds so far, in seconds, float[graphs, rounds], are enough; None to run all.
        """
        ...


class Timing(Protocol):
    """Times graphs for passes that are asked for a speed-up, on the backend that a model is built for."""

    def layers(self, graphs: Iterable[Graph]) -> Sequence[Mapping[str, float]]:
        """The seconds that each graph's nodes take, by the name of a node's first output; known ones come from a table.

        The time of fused nodes counts for one of them. All times are on the scale of the first graph's.

        Raises:
            TargetError: the backend can't run a graph.
        """
        ...

    def rounds(self, graphs: Sequence[Graph]) -> Sequence[np.ndarray]:
        """The seconds of one inference of each graph, float[rounds]; the graphs run in turn.

        Raises:
            TargetError: the backend can't run a graph.
        """
        ...


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labels of the calibration data, and the metric that is computed with them.

    Attributes:
        labels: the labels of each batch.
        metric: computes a number from a model's outputs on some batches, a list of arrays each, and their labels.
        lower_is_better: whether a smaller number is better, as of errors.
    """

    labels: Sequence[Any]
    metric: Callable[[Sequence[Sequence[np.ndarray]], Sequence[Any]], float]
    lower_is_better: bool = False


@dataclass(frozen=True, slots=True)
class PassContext:
    """What a pass may ask about its surroundings.

    Attributes:
        target: the machine that the graph is built for.
        source: the graph as it was read, before any pass: the teacher of `distill`. Nobody edits it.
        calibration: batches of real inputs, without labels; empty where the user gave none.
        seed: the seed of all that is random.
        sizes: the sizes of symbolic dimensions, by which costs are counted; a dimension without one counts as 1.
        progress: reports long work; it is called with a description, the steps done and the steps in all.
        selection: the nodes that may be touched.
        counter: counts the rewrites so far; it may end them at a number, to find the one at fault.
        probes: inputs that graphs are compared on; where there are none, batches of the calibration data or random
            ones.
        profile: times graphs on the chosen backend; None where none is chosen, or it can't be timed here or compiles
            slowly.
        profile_decides: whether the model is built for that backend alone, so that what is slower there is not worth
            having.
        timing: times graphs on that backend, however slowly it compiles, for passes that are asked for a speed-up; None
            where no backend is chosen, or it can't be timed here.
        rivals: what times graphs on the other backends that the model may be lowered to instead.
        backend: the name of the backend that the model is built for; empty where none is chosen yet.
        labels: the labels of the calibration batches; empty where the user gave none.
        labelled: the labels with the metric that is computed with them; None where the user gave no labels, or no
            metric.
        read_model: reads a model that an option names as recipes name models, relative to the recipe's folder.
        find_function: finds a function of the user's that an option names, `module:function` or `file.py:function`.
        folder: the folder that the names of files in options are relative to.
        checkpoints: the folder for what a long pass goes on from after its process was killed; None to keep nothing.
        remember: computes arrays, or takes them from a run of the same step that was killed. Arrays are known by those
            that were asked for before, so that they may depend only on these and on the pass's input.
        share: computes arrays, or takes them from a run of the same pass with other options, too. They may depend only
            on the pass's input and on what the text says, such as some of the options and `selection`.
    """

    target: Target
    source: Graph
    calibration: Sequence[Feeds] = ()
    seed: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    progress: Callable[[str, int, int], None] = lambda description, done, total: None
    selection: Selection = field(default_factory=Selection)
    counter: DebugCounter = field(default_factory=DebugCounter)
    probes: Sequence[Feeds] = ()
    profile: Profiler | None = None
    profile_decides: bool = True
    timing: Timing | None = None
    rivals: Sequence[Timing] = ()
    backend: str = ""
    labels: Sequence[Any] = ()
    labelled: Labelled | None = None
    read_model: Callable[[str], Graph] = _unread
    find_function: Callable[[str], Callable[..., Any]] = _unfound
    folder: Path = Path()
    checkpoints: Path | None = None
    remember: Callable[[Callable[[], Arrays]], Arrays] = _compute
    share: Callable[[str, Callable[[], Arrays]], Arrays] = _compute_shared

    def narrowed(self, only: Sequence[str], skip: Sequence[str]) -> "PassContext":
        """The same surroundings for a step that may touch only part of the graph."""
        return replace(self, selection=self.selection.narrowed(only, skip)) if only or skip else self

    def selects(self, node: Node) -> bool:
        """Whether a pass may touch a node."""
        return node in self.selection

    def applies(self, rewrite: str, *nodes: Node) -> bool:
        """Whether a pass may rewrite some nodes, asked right before it does; a yes is counted for the first of them."""
        is_selected = all(node in self.selection for node in nodes)
        return is_selected and self.counter.should_execute(rewrite, nodes[0])


@contextmanager
def _differentiable() -> Generator[None]:
    """Let passes compute gradients, in a process that has switched them off, too."""
    torch = sys.modules.get("torch")  # where torch isn't imported yet, nobody has switched gradients off
    if torch is None:
        yield
        return
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """A transformation of a graph, in place.

    Subclasses are frozen dataclasses. Their fields are options with defaults: int, float, bool, str, a `Literal` of
    texts or a tuple of str, so that a pass round-trips through pipeline text. Ranges and units are annotations in the
    sense of `annotated_types`, as in `ratio: Annotated[float, Interval(gt=0, lt=1)] = 0.5`, and hold from the start.

    Attributes:
        only: globs on layers' module paths, operators or names of values; the pass touches only what one of them
            matches, or all where there are none.
        skip: globs on what the pass leaves as it is.
        required: whether it is an error if the pass changes nothing.
    """

    name: ClassVar[str]
    """The name in pipelines: a verb in kebab-case."""
    effect: ClassVar[Effect]
    """How far the pass may move the outputs."""
    after: ClassVar[tuple[str, ...]] = ()
    """Passes that must not come later in the same pipeline."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Properties that the graph must have before it; see `order`."""
    establishes: ClassVar[frozenset[str]] = frozenset()
    """Properties that the graph has after it."""
    destroys: ClassVar[frozenset[str]] = frozenset()
    """Properties that the graph no longer has after it."""
    max_drift: ClassVar[float] = 1.0
    """For a LOSSY pass: the relative error of the outputs (L2, before against after) beyond which it went wrong."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    required: bool = False

    def __post_init__(self) -> None:
        check_options(self)

    def require(self, context: PassContext) -> None:  # noqa: B027 -- most take what they are given
        """Refuse surroundings in which the pass can't work; asked before any pass of a pipeline runs.

        Raises:
            UsageError: something is missing, such as calibration data.
        """

    def foresee(self, graph: Graph, context: PassContext) -> PassResult | None:
        """What `run` would rewrite at most, found without data and without changing the graph; None where data decide.

        Asked of LOSSY passes, whose work takes long.
        """
        return None

    @final
    def apply(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite the graph in place, where `only` and `skip` let it; the way to call a pass without the manager."""
        if not context.counter.should_start():
            return PassResult()
        narrowed = context.narrowed(self.only, self.skip)
        doubts = self.doubts(graph, narrowed)
        with _differentiable():
            found = self.run(graph, narrowed)
        return replace(found, notes=(*doubts, *found.notes)) if doubts else found

    def doubts(self, graph: Graph, context: PassContext) -> list[str]:
        """A sentence for each glob that selects what a LOSSY pass takes or spares, but matches nothing."""
        if self.effect is not Effect.LOSSY:  # presets hand globs on to passes that come too early or too late for them
            return []
        return [
            f"no layer is called {glob}, which only= or skip= names; `planish inspect` lists what there is"
            for glob in context.selection.unmatched(nested_nodes(graph))
        ]

    @abstractmethod
    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite the graph as far as `context` lets it: `context.applies(rewrite, node)` is asked before each rewrite.

        Raises:
            UsageError: options make no sense together, or for this graph.
        """


@dataclass(frozen=True, kw_only=True)
class GraphwisePass(Pass):
    """A pass that looks at one graph at a time: the model's, and then each branch and body inside its nodes."""

    @final
    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Call `run_on` on a graph and on all graphs inside its nodes, and add up the results."""
        return PassResult.sum([self.run_on(part, context) for part in tuple(nested(graph))])

    @abstractmethod
    def run_on(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite one graph; the graphs inside its nodes have their own turn."""
