"""From a graph to candidates that run: compiled by each backend, held to the interpreter, compared by latency."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..backends import Backend, Executable, backend_names, find_backend
from ..backends.artifact import load, write_artifact
from ..backends.manifest import MANIFEST, read_manifest
from ..ir.errors import CheckError, PlanishError, TargetError
from ..ir.graph import Graph
from ..passes.base import Feeds
from ..passes.check import drift, flattened, is_close, rounding_of, run_graph
from ..targets import Target
from .measurement import Latency
from .model import read_model
from .reporter import Reporter, compilers_heard


@dataclass(frozen=True, slots=True)
class Candidate:
    """A compiled model.

    Attributes:
        name: to tell it apart.
        backend: that runs it.
        directory: of its artifact.
        executable: ready to run.
        size: of the model's files, in bytes.
    """

    name: str
    backend: str
    directory: Path
    executable: Executable
    size: int


def lower(graph: Graph, backend: Backend, target: Target, directory: Path) -> Candidate:
    """Compile a graph into an artifact and load it.

    Raises:
        TargetError: the backend can't run the graph, or isn't installed.
    """
    write_artifact(directory, graph, backend, target)
    return open_artifact(backend.name, directory)


def open_artifact(name: str, directory: Path, threads: int | None = None) -> Candidate:
    """Load an artifact that is already there.

    Raises:
        ModelError: it is broken.
    """
    manifest = read_manifest(directory)
    size = sum(file["size"] for file in manifest["files"].values())
    return Candidate(name, manifest["backend"], directory, load(directory, threads), size)


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


def lower_all(
    graph: Graph,
    choice: str,
    target: Target,
    probes: Sequence[Feeds],
    scratch: Path,
    reporter: Reporter,
    tuned: Path | None = None,
) -> list[Candidate]:
    """The graph compiled by the chosen backend, or for `auto` by every one that is installed and can run it.

    Args:
        graph: to compile.
        choice: of the backend.
        target: to compile for.
        probes: that what was compiled is held to the interpreter on.
        scratch: folder for artifacts.
        reporter: hears of progress.
        tuned: what `planish tune` has written.

    Raises:
        UsageError: the chosen backend isn't one that is tuned.
        TargetError: no backend can run it.
        CheckError: what was compiled computes something else than the graph.
    """
    if choice != "auto":
        reporter.stage(f"lowering to {choice}")
        backend = find_backend(choice)
        backend = backend if tuned is None else backend.tuned(tuned)
        with compilers_heard(reporter):
            return [_lower_checked(graph, backend, target, probes, scratch)]
    candidates: list[Candidate] = []
    faults: list[PlanishError] = []
    for backend in map(find_backend, backend_names()):
        if missing := backend.available():
            reporter.note(f"{backend.name} is not installed and was not tried ({missing})")
            continue
        reporter.stage(f"lowering to {backend.name}")
        if tuned is not None and backend.tunable:
            backend = backend.tuned(tuned)
        try:
            with compilers_heard(reporter):
                candidates.append(_lower_checked(graph, backend, target, probes, scratch))
        except (TargetError, CheckError) as error:
            faults.append(error)
            reporter.warn(f"{backend.name} is left out: {error}")
    if not candidates:
        raise (faults[0] if faults else TargetError("no backend is installed: pip install onnxruntime"))
    return candidates


def fastest(candidates: Sequence[Candidate], latencies: Sequence[Latency]) -> tuple[Candidate, Latency]:
    """The candidate with the lowest latency; an earlier one stays unless a later one is faster beyond noise."""
    best, *others = zip(candidates, latencies, strict=True)
    for other in others:
        if other[1].speedup_over(best[1]).lower > 1:
            best = other
    return best


def _lower_checked(graph: Graph, backend: Backend, target: Target, probes: Sequence[Feeds], scratch: Path) -> Candidate:
    candidate = lower(graph, backend, target, scratch / backend.name)
    check_lowering(candidate, graph, probes)
    return candidate


def check_lowering(candidate: Candidate, graph: Graph, probes: Sequence[Feeds]) -> None:
    """Hold a compiled model to the interpreter: within float tolerance, or quantization's rounding.

    Args:
        candidate: that was compiled from the graph.
        graph: what it should compute.
        probes: that they are compared on.

    Raises:
        CheckError: an output differs further; it is named.
    """
    outputs = run_graph(graph, probes)
    rounding = rounding_of(graph, probes, outputs)
    for number, (probe, expected) in enumerate(zip(probes, outputs, strict=True)):
        found = flattened(dict(zip(graph.outputs, candidate.executable.run(probe), strict=True)))
        for name, wanted in expected.items():
            got = found.get(name)
            if got is None:
                fault = "is missing"
            elif got.shape != wanted.shape:
                fault = f"has shape {list(got.shape)} instead of {list(wanted.shape)}"
            elif is_close(wanted, got, rounding.get(name, 0.0)):
                continue
            else:
                fault = f"is off by {drift([{name: wanted}], [{name: got}]):.3g} (relative error)"
            raise CheckError(
                f"{candidate.backend} computes something else than the graph: output {name!r} {fault} on probe {number}"
            )
