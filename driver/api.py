"""The face of the package for Python: the same steps as the command line's, on graphs in memory."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, overload

import numpy as np

from ..backends import Executable, find_backend
from ..backends.artifact import load, write_artifact
from ..backends.base import Port, bind
from ..ir.analysis.cost import sizes_in
from ..ir.drafts import workspace
from ..ir.errors import UsageError
from ..ir.graph import Graph
from ..passes.adapters.survival import AdapterSurvival
from ..passes.base import Feeds, Pass, PassContext, Timing
from ..passes.instrument import Instrument, PassRecord
from ..passes.manager import PassManager
from ..passes.pipeline import Step, make_pipeline
from ..passes.units import show_seconds
from ..passes.verification import Verification
from ..targets import Target
from ..targets.load import load_target
from .data import Batch, cut, doubts, make_batches, ports_of, read_data, single_sample
from .evaluation import find_metric, labelled, labels_of
from .model import read_model, write_model
from .profiling import profiler, timings
from .reporter import SILENT, Doubts, PassReporter, Reporter
from .user_code import find_function
from .usual_sizes import graph_samples


@dataclass(frozen=True, slots=True, repr=False)
class Optimized:
    """What a pipeline made of a graph.

    Attributes:
        graph: the result; the graph that was given is left as it was.
        records: a record of each pass, in order: what it did, how many nodes it left, how far the outputs drifted.
        warnings: passes that found nothing to do, or left most of the model as it was, and doubts about the data.
    """

    graph: Graph
    records: Sequence[PassRecord]
    warnings: Sequence[str] = ()

    def summary(self) -> str:
        """What the passes did, as a table of those that changed something, and the warnings."""
        rows = [("pass", "changes", "nodes", "drift", "time")]
        for it in self.records:
            if it.result.changed:
                drift = "" if it.drift is None else f"{it.drift:.2g}"
                changes = str(sum(it.result.counts.values()))
                rows.append((it.text, changes, str(it.nodes), drift, show_seconds(it.seconds)))
        width = max(len(row[0]) for row in rows)
        lines = [f"{row[0]:{width}}" + "".join(f"{cell:>9}" for cell in row[1:]) for row in rows]
        return "\n".join([repr(self.graph), *lines, *(f"warning: {text}" for text in self.warnings)])

    def __repr__(self) -> str:
        changed = sum(record.result.changed for record in self.records)
        warned = f", {len(self.warnings)} warnings" if self.warnings else ""
        return f"<Optimized {self.graph!r}: {changed} of {len(self.records)} passes changed it{warned}>"

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return f'<pre style="font-family: monospace; white-space: pre; overflow-x: auto">{escape(self.summary())}</pre>'


def read(path: str | Path) -> Graph:
    """The graph of a `.onnx`, `.pt2` or `.planish` file, or of a `file.py:factory`.

    Symbolic dimensions of a file's inputs may be given sizes, and inputs of one number values:
    `read("model.onnx{batch=1,height=48,sample_rate=16000}")`.

    Raises:
        UsageError: there is no such file, dimension or input.
        ModelError: it is broken or holds an operator that nobody knows.
    """
    return read_model(str(path))


def write(graph: Graph, path: str | Path) -> None:
    """Write a graph as a `.onnx` or `.planish` file, whole or not at all, as `planish opt -o` does.

    Weights of an ONNX model that are too many for one file (1.8 GB) go into a second one, `.data` appended to its name.

    Raises:
        UsageError: the name ends otherwise.
        TargetError: ONNX can't express an operator; it is named with its layer.
    """
    write_model(graph, Path(path))


@overload
def optimize(
    model: Graph | str | Path,
    pipeline: str | Pass | Sequence[Step],
    *,
    data: Any = (),
    target: str | Target = "native",
    backend: str | None = None,
    metric: str | None = None,
    seed: int = 0,
    verify: Verification | str = "numeric",
    probes: Sequence[Feeds] = (),
    instruments: Sequence[Instrument] = (),
    reporter: Reporter | None = None,
    checkpoints: str | Path | None = None,
) -> Optimized: ...


@overload
def optimize(
    model: Any,
    inputs: Any,
    pipeline: str | Pass | Sequence[Step],
    /,
    *,
    data: Any = (),
    target: str | Target = "native",
    backend: str | None = None,
    metric: str | None = None,
    seed: int = 0,
    verify: Verification | str = "numeric",
    probes: Sequence[Feeds] = (),
    instruments: Sequence[Instrument] = (),
    reporter: Reporter | None = None,
    checkpoints: str | Path | None = None,
) -> Optimized: ...


def optimize(
    model: Any,
    *how: Any,
    pipeline: Any = None,
    data: Any = (),
    target: str | Target = "native",
    backend: str | None = None,
    metric: str | None = None,
    seed: int = 0,
    verify: Verification | str = "numeric",
    probes: Sequence[Feeds] = (),
    instruments: Sequence[Instrument] = (),
    reporter: Reporter | None = None,
    checkpoints: str | Path | None = None,
) -> Optimized:
    """Run a pipeline over a copy of a graph, checking it after every pass.

    Args:
        model: a graph from `trace` or `read`, what `read` reads, or a module, followed by its example inputs.
        how: the pipeline; for a module, its example inputs and then the pipeline.
        pipeline: the pipeline as text, such as `"cleanup,fuse,quantize{scheme=int8}"`, or a list of texts, passes and
            `{name: {option: value}}`.
        data: the calibration data: batches of real inputs, each a dict of arrays by input name, one array, or a row of
            arrays in the order of the inputs; one such dict or array alone, which is cut into batches; or the name of a
            file or a factory, as in a recipe.
        target: a target's name, its file, or the target itself.
        backend: the backend that graphs are timed on, for passes that decide by latency.
        metric: the metric that bounds passes where the data have labels: a built-in one, or `module:function`.
        seed: the seed of all random numbers.
        verify: what is checked after each pass: a `Verification`, or a text such as `"structure"` or
            `"numeric,rtol=0.01"`.
        probes: inputs by name that graphs are compared on; by default the first batches of the data, or random ones.
        instruments: the instruments that watch the passes.
        reporter: the reporter that is told of progress and doubts; without one, doubts are Python's warnings.
        checkpoints: a folder for checkpoints, from which a training whose process was killed goes on if the same is
            asked for again. Nothing in it is erased.

    Raises:
        UsageError: the pipeline or the target makes no sense, or a pass lacks data.
        ModelError: the model can't be traced, or the data doesn't fit its inputs.
        CheckError: a pass changed what the graph means beyond what it declares.
    """
    graph, steps = _source(model, how if pipeline is None else (*how, pipeline))
    machine = target if isinstance(target, Target) else load_target(target)
    passes = make_pipeline(steps)
    ports = ports_of(graph)
    batches = _batches(data, ports)
    feeds = [batch.inputs for batch in batches]
    hearing = Doubts(reporter or SILENT)
    for doubt in doubts(feeds):
        hearing.warn(doubt)
    sample = single_sample(feeds[0], ports) if feeds else None
    sizes = {} if sample is None else sizes_in(graph, sample)
    result = graph.clone()
    given = [bind(ports, (), probe) for probe in probes]
    labels = None if metric is None else labelled(find_metric(metric, Path()), batches)
    clocks = graph_timings(backend, machine, sample, graph, seed)
    context = PassContext(
        machine,
        graph,
        feeds,
        seed,
        sizes,
        hearing.progress,
        probes=given,
        profile=profiler(backend, machine, sample),
        profile_decides=backend != "auto",
        timing=clocks[0] if clocks else None,
        rivals=clocks[1:],
        backend=backend if backend not in (None, "auto") else "",
        labels=labels_of(batches),
        labelled=labels,
        read_model=read_model,
        find_function=find_function,
        checkpoints=None if checkpoints is None else Path(checkpoints),
    )
    watching = [PassReporter(hearing, passes), AdapterSurvival(hearing.note), *instruments]
    records = PassManager(passes, watching, verify).run(result, context)
    for text in hearing.texts if reporter is None else ():
        warnings.warn(text, stacklevel=2)
    return Optimized(result, records, tuple(hearing.texts))


def graph_timings(
    backend: str | None, target: Target, sample: Feeds | None, graph: Graph, seed: int
) -> tuple[Timing, ...]:
    """What times graphs on each backend that may be chosen, on random inputs where there are no data."""
    if backend is None:
        return ()
    shown = next(graph_samples(graph, seed)) if sample is None else sample
    return timings(backend, target, shown, sizes_in(graph, shown))


def _source(model: Any, how: Sequence[Any]) -> tuple[Graph, Any]:
    """The graph and the pipeline that `optimize` was given.

    Raises:
        UsageError: one is missing, or there is more.
    """
    is_graph = isinstance(model, Graph | str | Path)
    if len(how) != (1 if is_graph else 2):
        raise UsageError(
            "optimize takes (graph or file, pipeline) or (module, example inputs, pipeline), "
            f"not ({', '.join(type(it).__name__ for it in (model, *how))})"
        )
    if is_graph:
        return model if isinstance(model, Graph) else read(model), how[0]
    from ..frontends.torch import trace

    return trace(model, how[0]), how[1]


def _batches(data: Any, ports: Sequence[Port]) -> Sequence[Batch]:
    if isinstance(data, str | Path):
        return read_data(str(data), Path(), ports)
    items = cut(data, ports) if isinstance(data, Mapping | np.ndarray) else data
    return make_batches(items, ports, "data")


def compile(
    graph: Graph, backend: str = "onnxruntime", target: str | Target = "native", *, tuned: str | Path | None = None
) -> Executable:
    """Compile a graph into an executable, in this process; `build` writes an artifact to a folder.

    Args:
        graph: the graph to compile.
        backend: the runtime.
        target: a target's name, its file, or the target itself.
        tuned: what `planish tune` has written, for the TVM backend.

    Raises:
        UsageError: there is no such backend, target or file, or the backend isn't one that is tuned.
        ModelError: the file is broken.
        TargetError: the backend isn't installed, or can't run an operator; it is named with its layer.
    """
    machine = target if isinstance(target, Target) else load_target(target)
    found = find_backend(backend) if tuned is None else find_backend(backend).tuned(Path(tuned))
    with workspace() as folder:
        directory = Path(folder) / "artifact"
        write_artifact(directory, graph, found, machine)
        return load(directory)
