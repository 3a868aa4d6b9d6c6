"""From a graph to candidates that run: compiled by each backend, held to the interpreter, compared by latency."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backends import Backend, Executable, backend_names, find_backend
from ..backends.artifact import load, write_artifact
from ..backends.legal import legalized
from ..backends.manifest import MANIFEST, read_manifest, size_of
from ..ir.errors import CheckError, PlanishError, TargetError
from ..ir.graph import Graph
from ..passes.base import Effect, Feeds, Pass, PassContext
from ..passes.group import run_each
from ..passes.instrument import Instrument
from ..passes.manager import PassManager, other_packages
from ..passes.order import flattened
from ..passes.pipeline import format_pipeline
from ..passes.reproducer import Reproducer, reproducing
from ..passes.units import show_bytes
from ..passes.verification import Verification
from ..targets import Target
from .backend_check import BackendCheck
from .measurement import BESIDE_OTHER_WORK, Latency
from .model import read_model
from .recipe import Budget
from .reporter import PassReporter, Reporter, compilers_heard

_SURE = 1.1
"""How many times as fast a model must be beside other work, which slows the processor itself by some percent."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A compiled model.

    Attributes:
        name: a name to tell it apart.
        backend: the name of the backend that runs it.
        directory: the folder of its artifact.
        executable: the model, ready to run.
        size: the size of the model's files, in bytes.
    """

    name: str
    backend: str
    directory: Path
    executable: Executable
    size: int


def chosen(choice: str) -> list[Backend]:
    """The backends that a choice stands for: all for `auto`, else the one of that name.

    Raises:
        UsageError: there is none of that name.
    """
    return [find_backend(name) for name in (backend_names() if choice == "auto" else [choice])]


def lower(graph: Graph, backend: Backend, target: Target, directory: Path) -> Candidate:
    """Compile a graph into an artifact and load it.

    Raises:
        TargetError: the backend can't run the graph, or isn't installed.
        CheckError: one of the backend's own passes left a malformed graph; it leaves a reproducer.
    """
    legal = _legal(graph, backend.pipeline(target), target, Verification("structure"))
    write_artifact(directory, graph, backend, target, legal=legal)
    return open_artifact(backend.name, directory)


def open_artifact(name: str, directory: Path, threads: int | None = None) -> Candidate:
    """Load an artifact that is already there.

    Raises:
        ModelError: it is broken.
    """
    manifest = read_manifest(directory)
    return Candidate(name, manifest["backend"], directory, load(directory, threads), size_of(manifest))


def open_subject(reference: str, target: Target, scratch: Path, threads: int | None = None) -> Candidate:
    """An artifact's folder, or a model, compiled by ONNX Runtime as it is.

    Raises:
        UsageError: there is no such artifact or model.
        ModelError: it is broken.
    """
    if (Path(reference) / MANIFEST).is_file():
        return open_artifact(reference, Path(reference), threads)
    write_artifact(scratch, read_model(reference), find_backend("onnxruntime"), target)
    return open_artifact(reference, scratch, threads)


def refuse_early(source: Graph, passes: Sequence[Pass], context: PassContext, backend: Backend) -> None:
    """Refuse a model that a backend can't run before passes take their time, if it is sure that no pass changes that.

    Passes that keep what the model computes are run on a copy, unchecked, and the backend is asked once more. Lossy
    passes change the widths and weights of layers, which backends don't object to. What other packages' passes change
    isn't known.

    Raises:
        TargetError: the backend can't run the model; the layer is named, as when it is compiled.
    """
    try:
        if _refusal(backend, source, context.target) is None or any(map(other_packages, flattened(passes))):
            return
        graph = source.clone()
        run_each(passes, context, lambda step, narrowed: not _is_lossy(step) and step.apply(graph, narrowed).changed)
        refusal = _refusal(backend, graph, context.target)
    except Exception:  # it is told, with a reproducer, where passes and the backend's own are checked
        return
    if refusal is not None:
        raise refusal


def _refusal(backend: Backend, graph: Graph, target: Target) -> TargetError | None:
    try:
        refuse(backend, graph, target)
    except TargetError as error:
        return error
    return None


def refuse(backend: Backend, graph: Graph, target: Target) -> None:
    backend.refuse(legalized(graph, target, backend), graph, target)


def _is_lossy(step: Pass) -> bool:
    return step.effect is Effect.LOSSY


@dataclass(frozen=True, slots=True)
class Lowering:
    """How graphs are compiled and checked.

    Attributes:
        target: the target to compile for.
        probes: the inputs on which compiled models are held to the interpreter.
        verification: how strictly that is checked.
        scratch: a folder for artifacts.
        reporter: the reporter that is told of progress.
        tuned: what `planish tune` has written.
        instruments: the instruments that watch the backends' own passes.
    """

    target: Target
    probes: Sequence[Feeds]
    verification: Verification
    scratch: Path
    reporter: Reporter
    tuned: Path | None = None
    instruments: Sequence[Instrument] = ()

    def candidates(self, graph: Graph, choice: str) -> list[Candidate]:
        """A graph compiled by the chosen backend, or for `auto` by every one that is installed and can run it.

        Raises:
            UsageError: the chosen backend isn't one that is tuned.
            TargetError: no backend can run it.
            CheckError: what was compiled computes something else than the graph.
        """
        if choice != "auto":
            backend = find_backend(choice)
            return [self._candidate(graph, backend if self.tuned is None else backend.tuned(self.tuned))]
        found: list[Candidate] = []
        faults: list[PlanishError] = []
        for backend in chosen(choice):
            if missing := backend.available():
                self.reporter.note(f"{backend.name} is not installed and was not tried ({missing})")
                continue
            if self.tuned is not None and backend.tunable:
                backend = backend.tuned(self.tuned)
            try:
                found.append(self._candidate(graph, backend))
            except (TargetError, CheckError) as error:
                faults.append(error)
                self.reporter.warn(f"{backend.name} is left out: {error}")
        if not found:
            raise (faults[0] if faults else TargetError("no backend is installed: pip install 'planish[onnxruntime]'"))
        return found

    def _candidate(self, graph: Graph, backend: Backend) -> Candidate:
        directory = self.scratch / backend.name
        self.write(graph, backend, directory)
        candidate = open_artifact(backend.name, directory)
        if self.verification.level == "numeric":
            check = BackendCheck(backend, self.target, self.verification.tolerance)
            check.hold(candidate.executable, graph, self.probes, self.scratch)
        return candidate

    def write(self, graph: Graph, backend: Backend, directory: Path) -> None:
        """Run the backend's own passes over a graph, checked as all others are, and compile what they make of it.

        Raises:
            TargetError: the backend can't run the graph, or isn't installed.
            CheckError: one of the passes changed what the graph means; it leaves a reproducer.
        """
        self.reporter.stage(f"lowering to {backend.name}")
        if advice := backend.advice(graph):
            self.reporter.note(advice)
        passes = backend.pipeline(self.target)
        watching = [PassReporter(self.reporter, passes, implied=passes), *self.instruments]
        legal = _legal(graph, passes, self.target, self.verification, self.probes, watching)
        with compilers_heard(self.reporter):
            write_artifact(directory, graph, backend, self.target, legal=legal)


def _legal(
    graph: Graph,
    passes: Sequence[Pass],
    target: Target,
    verification: Verification,
    probes: Sequence[Feeds] = (),
    watching: Sequence[Instrument] = (),
) -> Graph:
    """What the passes of a backend make of a graph.

    Raises:
        TargetError: the backend can't run it.
        CheckError: one of them failed a check; it leaves a reproducer.
    """
    legal = graph.clone()
    case = Reproducer(graph, format_pipeline(passes), machine=target, verification=verification, probes=probes)
    with reproducing(case):
        PassManager(passes, watching, verification).run(legal, PassContext(target, source=graph, probes=probes))
    return legal


_NO_BUDGET = Budget()


@dataclass(frozen=True, slots=True)
class Contest:
    """The choice between candidates.

    Attributes:
        candidates: the candidates.
        latencies: the latency of each.
        budget: what the artifact may cost.
        goal: what is to be best within the budget, `latency` or `size`.
    """

    candidates: Sequence[Candidate]
    latencies: Sequence[Latency]
    budget: Budget = _NO_BUDGET
    goal: str = "latency"

    @property
    def winner(self) -> tuple[Candidate, Latency]:
        """The fastest candidate within the budget, or the smallest one if that is the goal.

        An earlier one stays unless a later one is faster beyond noise. Where all exceed the size, it is the smallest.
        """
        best, *others = self._kept
        for other in others:
            if other[1].speedup_over(best[1]).lower > (1 if other[1].processor is None else _SURE):
                best = other
        return best

    @property
    def verdict(self) -> str:
        """Which candidate is taken, and why."""
        best, taken = self.winner
        kept = [candidate for candidate, _ in self._kept]
        reasons: list[str] = []
        for other, latency in zip(self.candidates, self.latencies, strict=True):
            ratio = taken.speedup_over(latency)
            if other is best:
                continue
            if other not in kept and other.size > best.size:
                reasons.append(f"{other.backend} has {show_bytes(other.size)} instead of {show_bytes(best.size)}")
            elif other not in kept:
                reasons.append(f"{other.backend} takes longer than the budget")
            elif ratio.median < 1:
                reasons.append(f"{other.backend} is faster by less than the noise, {ratio.inverse}")
            else:
                is_clear = ratio.lower > 1
                reasons.append(
                    f"{other.backend} takes {ratio} as long" if is_clear else f"{other.backend} is not faster"
                )
        doubt = "" if taken.processor is None else f"; {BESIDE_OTHER_WORK}, so the processor's time decided"
        return f"took {best.backend}: {'; '.join(reasons)}{doubt}"

    @property
    def _kept(self) -> list[tuple[Candidate, Latency]]:
        """The candidates that may be taken."""
        size, latency = self.budget.size, self.budget.latency
        pairs = list(zip(self.candidates, self.latencies, strict=True))
        small = [pair for pair in pairs if size is None or pair[0].size <= size]
        small = small or [min(pairs, key=lambda pair: pair[0].size)]
        kept = [pair for pair in small if latency is None or pair[1].median <= latency] or small
        return [min(kept, key=lambda pair: pair[0].size)] if self.goal == "size" else kept
