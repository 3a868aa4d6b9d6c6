"""The face of the package for Python: the same steps as the command line's, on graphs in memory."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends import Executable, find_backend
from ..backends.artifact import load, write_artifact
from ..backends.base import bind
from ..ir.drafts import workspace
from ..ir.graph import Graph
from ..passes.base import Feeds, PassContext
from ..passes.instrument import Instrument, PassRecord
from ..passes.manager import PassManager
from ..passes.pipeline import parse_pipeline
from ..passes.verification import Verification
from ..targets import Target
from ..targets.load import load_target
from .data import doubts, make_batches, ports_of, single_sample, sizes_in
from .evaluation import find_metric, labelled
from .model import read_model, write_model
from .profiling import profiler
from .reporter import SILENT, PassReporter, Reporter


@dataclass(frozen=True, slots=True)
class Optimized:
    """What a pipeline made of a graph.

    Attributes:
        graph: the result; the graph that was given is left as it was.
        records: of the passes, in order: what each did, how many nodes it left, how far the outputs drifted.
    """

    graph: Graph
    records: Sequence[PassRecord]


def read(path: str | Path) -> Graph:
    """The graph of a `.onnx`, `.pt2` or `.planish` file, or of a `file.py:factory`.

    Raises:
        UsageError: there is no such file.
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


def optimize(
    graph: Graph,
    pipeline: str,
    *,
    data: Iterable[Any] = (),
    target: str | Target = "native",
    backend: str | None = None,
    metric: str | None = None,
    seed: int = 0,
    verify: Verification | str = "numeric",
    probes: Sequence[Feeds] = (),
    instruments: Sequence[Instrument] = (),
    reporter: Reporter = SILENT,
) -> Optimized:
    """Run a pipeline over a copy of a graph, checking it after every pass.

    Args:
        graph: from `trace` or `read`.
        pipeline: as text, such as `"cleanup,fuse,quantize{scheme=int8}"`.
        data: calibration: batches of real inputs, each a dict of arrays by input name, one array, or a row of arrays in
            the order of the inputs.
        target: a target's name, its file, or the target itself.
        backend: that graphs are timed on, for passes that choose by time.
        metric: that passes are bounded by where the data have labels: a built-in one, or `module:function`.
        seed: for whatever is random.
        verify: what is checked after each pass: a `Verification`, or a text such as `"structure"` or
            `"numeric,rtol=0.01"`.
        probes: inputs by name that graphs are compared on; by default the first batches of the data, or random ones.
        instruments: that watch.
        reporter: hears of progress.

    Raises:
        UsageError: the pipeline or the target makes no sense, or a pass lacks data.
        ModelError: the data doesn't fit the graph's inputs.
        CheckError: a pass changed what the graph means beyond what it declares.
    """
    machine = target if isinstance(target, Target) else load_target(target)
    passes = parse_pipeline(pipeline)
    ports = ports_of(graph)
    batches = make_batches(data, ports, "data")
    feeds = [batch.inputs for batch in batches]
    for doubt in doubts(feeds):
        warnings.warn(doubt, stacklevel=2)
    sample = single_sample(feeds[0], ports) if feeds else None
    sizes = {} if sample is None else sizes_in(sample, ports)
    result = graph.clone()
    given = [bind(ports, (), probe) for probe in probes]
    timing = profiler(backend, machine, sample)
    labels = None if metric is None else labelled(find_metric(metric, Path()), batches)
    context = PassContext(
        machine, graph, feeds, seed, sizes, reporter.progress, probes=given, profile=timing, labelled=labels
    )
    records = PassManager(passes, [PassReporter(reporter), *instruments], verify).run(result, context)
    return Optimized(result, records)


def compile(
    graph: Graph, backend: str = "onnxruntime", target: str | Target = "native", *, tuned: str | Path | None = None
) -> Executable:
    """A graph as something that runs, in this process; `build` writes it to a folder.

    Args:
        graph: to compile.
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
