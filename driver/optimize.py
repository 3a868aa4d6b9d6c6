"""`planish opt`: graph to graph, as mlir-opt."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from ..backends import find_backend
from ..ir.errors import UsageError
from ..passes.instrument import Instrument
from ..passes.pipeline import format_pipeline, parse_pipeline
from ..passes.reproducer import Reproducer, is_reproducer, read_reproducer, reproducing
from ..passes.verification import DEFAULT, Verification
from ..targets.load import load_target
from .api import Optimized
from .backend_check import compile_again
from .cache.store import Store
from .data import ports_of, read_data
from .evaluation import labels_of
from .explanation import Explain
from .model import check_form, read_model, write_model
from .replay import replay
from .reporter import SILENT, Reporter
from .user_code import isolated_imports


def optimize_file(
    model: str,
    pipeline: str | None,
    output: Path | None,
    *,
    lower_to: str | None = None,
    target: str = "native",
    data: str | None = None,
    verify: Verification | str | None = None,
    instruments: Sequence[Instrument] = (),
    explainer: Explain | None = None,
    reporter: Reporter = SILENT,
) -> Optimized:
    """Run a pipeline over a model and write the graph.

    Args:
        model: a reference, or the folder of a reproducer, which brings what else it takes.
        pipeline: the pipeline as text; None for a reproducer's own.
        output: a `.onnx` or `.planish` file; None writes nothing.
        lower_to: a backend whose own passes run behind the pipeline, and that passes time graphs on.
        target: the target that passes build for.
        data: the data that passes calibrate on.
        verify: what is checked after each pass; None for everything, or what a reproducer was left by.
        instruments: the instruments that watch the passes.
        explainer: an instrument that watches as well, and is told of the pipeline before.
        reporter: the reporter that is told of progress.

    Raises:
        UsageError: the output's form is unknown, or the pipeline makes no sense.
    """
    if output is not None:
        check_form(output)
    with isolated_imports(Path()):
        is_known = pipeline is None and lower_to is None and is_reproducer(model)  # a reproducer, which needs no other
        if lower_to is not None and not is_reproducer(model):
            pipeline = pipeline or ""
        case = read_case(model, pipeline, data, target, reporter, verify)
        if lower_to is not None:
            steps = find_backend(lower_to).pipeline(load_target(case.target))
            pipeline = ",".join(filter(None, [case.pipeline, format_pipeline(steps)]))
            case = replace(case, pipeline=pipeline, timed=lower_to)
        if explainer is not None:
            explainer.prepare(parse_pipeline(case.pipeline))
            instruments = (*instruments, explainer)
        store = Store.of_user()
        with isolated_imports(Path(case.folder)), nullcontext() if is_known else reproducing(case, replay):
            result = replay(case, instruments, reporter, None if store is None else store.checkpoints)
            if case.backend:
                reporter.stage(f"compiling for {case.backend}")
                compile_again(case, result.graph)
                reporter.note(f"{case.backend} compiles it")
    if output is not None:
        write_model(result.graph, output)
    return result


def read_case(
    model: str,
    pipeline: str | None,
    data: str | None,
    target: str,
    reporter: Reporter,
    verify: Verification | str | None,
) -> Reproducer:
    """A model with what is to be done to it, or what a reproducer holds.

    Raises:
        UsageError: a model without a pipeline.
    """
    if is_reproducer(model):
        held = read_reproducer(Path(model))
        held = held if pipeline is None else replace(held, pipeline=pipeline)
        return held if verify is None else replace(held, verification=Verification.of(verify))
    if pipeline is None:
        raise UsageError("a model needs a pipeline: -p cleanup,fuse")
    parse_pipeline(pipeline)  # a typing error is told before a large model is read
    verification = Verification.of(verify or DEFAULT)
    reporter.stage(f"reading {model}")
    source = read_model(model)
    batches = [] if data is None else read_data(data, Path(), ports_of(source))
    calibration, labels = [batch.inputs for batch in batches], labels_of(batches)
    return Reproducer(
        source,
        pipeline,
        target,
        calibration=calibration,
        verification=verification,
        labels=labels,
        folder=str(Path.cwd()),
    )
