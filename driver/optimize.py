"""`planish opt`: graph to graph, as mlir-opt."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..backends import find_backend
from ..backends.artifact import write_artifact
from ..ir.drafts import workspace
from ..ir.errors import UsageError
from ..ir.graph import Graph
from ..passes.instrument import Instrument
from ..passes.manager import Verify
from ..passes.pipeline import parse_pipeline
from ..passes.reproducer import Reproducer, is_reproducer, read_reproducer, reproducing
from ..targets.load import load_target
from .api import Optimized, optimize
from .data import ports_of, read_data
from .explanation import Explain
from .model import check_form, read_model, write_model
from .reference import isolated_imports
from .reporter import SILENT, Reporter


def optimize_file(
    model: str,
    pipeline: str | None,
    output: Path | None,
    *,
    target: str = "native",
    data: str | None = None,
    verify: Verify = Verify.NUMERIC,
    instruments: Sequence[Instrument] = (),
    explainer: Explain | None = None,
    reporter: Reporter = SILENT,
) -> Optimized:
    """Run a pipeline over a model and write the graph.

    Args:
        model: a reference, or the folder of a reproducer, which brings what else it takes.
        pipeline: as text; None for a reproducer's own.
        output: a `.onnx` or `.planish` file; None writes nothing.
        target: that passes build for.
        data: that they calibrate on.
        verify: what is checked after each pass.
        instruments: that watch.
        explainer: watches as well, and is told of the pipeline before.
        reporter: hears of progress.

    Raises:
        UsageError: the output's form is unknown, or the pipeline makes no sense.
    """
    if output is not None:
        check_form(output)
    with isolated_imports(Path()):
        case = read_case(model, pipeline, data, target, reporter)
        if explainer is not None:
            explainer.prepare(parse_pipeline(case.pipeline))
            instruments = (*instruments, explainer)
        with reproducing(case):
            result = optimize(
                case.graph,
                case.pipeline,
                data=case.calibration,
                target=case.target,
                seed=case.seed,
                verify=verify,
                instruments=instruments,
                reporter=reporter,
            )
            if case.backend:
                _compile_again(case, result.graph, reporter)
    if output is not None:
        write_model(result.graph, output)
    return result


def _compile_again(case: Reproducer, graph: Graph, reporter: Reporter) -> None:
    """Let a compiler fail over a graph as it did before.

    Raises:
        TargetError: it fails.
    """
    reporter.stage(f"compiling for {case.backend}")
    with workspace() as folder:
        write_artifact(Path(folder, "artifact"), graph, find_backend(case.backend).strict(), load_target(case.target))
    reporter.note(f"{case.backend} compiles it")


def read_case(model: str, pipeline: str | None, data: str | None, target: str, reporter: Reporter) -> Reproducer:
    """A model with what is to be done to it, or what a reproducer holds.

    Raises:
        UsageError: a model without a pipeline.
    """
    if is_reproducer(model):
        held = read_reproducer(Path(model))
        return held if pipeline is None else replace(held, pipeline=pipeline)
    if pipeline is None:
        raise UsageError("a model needs a pipeline: -p cleanup,fuse")
    parse_pipeline(pipeline)  # a typing error is told before a large model is read
    reporter.stage(f"reading {model}")
    source = read_model(model)
    batches = [] if data is None else read_data(data, Path(), ports_of(source))
    return Reproducer(source, pipeline, target, calibration=[batch.inputs for batch in batches])
