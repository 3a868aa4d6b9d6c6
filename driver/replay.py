"""Running what a reproducer holds, or what becomes one where it fails, with all that commands give to passes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..ir.analysis.cost import sizes_in
from ..passes.adapters.survival import AdapterSurvival
from ..passes.base import PassContext
from ..passes.instrument import Instrument
from ..passes.manager import PassManager
from ..passes.pipeline import parse_pipeline
from ..passes.reproducer import Reproducer
from .api import Optimized, graph_timings
from .data import Batch, doubts, ports_of, single_sample
from .evaluation import find_metric, labelled
from .model import read_model
from .profiling import profiler
from .reporter import SILENT, Doubts, PassReporter, Reporter
from .user_code import find_function


def replay(
    case: Reproducer,
    instruments: Sequence[Instrument] = (),
    reporter: Reporter = SILENT,
    checkpoints: Path | None = None,
) -> Optimized:
    """What the pipeline makes of the graph, checked as it was.

    Raises:
        PlanishError: it fails.
    """
    graph, passes, hearing = case.graph.clone(), parse_pipeline(case.pipeline), Doubts(reporter)
    for doubt in doubts(case.calibration):
        hearing.warn(doubt)
    context = replace(surroundings(case), progress=hearing.progress, checkpoints=checkpoints)
    watching = [PassReporter(hearing, passes), AdapterSurvival(hearing.note), *instruments]
    records = PassManager(passes, watching, case.verification).run(graph, context)
    return Optimized(graph, records, tuple(hearing.texts))


def surroundings(case: Reproducer) -> PassContext:
    """What the passes run in, as a build or `opt` gives it to them."""
    context, folder, ports = case.context, Path(case.folder), ports_of(case.graph)
    sample = single_sample(case.calibration[0], ports) if case.calibration else None
    batches = [Batch(*pair) for pair in zip(case.calibration, case.labels, strict=True)] if case.labels else []
    clocks = graph_timings(case.timed or None, context.target, sample, case.graph, case.seed)
    return replace(
        context,
        sizes={} if sample is None else sizes_in(case.graph, sample),
        profile=profiler(case.timed or None, context.target, sample),
        profile_decides=case.timed != "auto",
        timing=clocks[0] if clocks else None,
        rivals=clocks[1:],
        backend="" if case.timed == "auto" else case.timed,
        labelled=labelled(find_metric(case.metric, folder), batches) if case.metric else None,
        read_model=partial(read_model, folder=folder),
        find_function=partial(find_function, folder=folder),
        folder=folder,
    )
