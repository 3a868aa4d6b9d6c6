"""`planish opt`: graph to graph, as mlir-opt."""

from collections.abc import Sequence
from pathlib import Path

from ..passes.instrument import Instrument
from ..passes.manager import Verify
from ..passes.pipeline import parse_pipeline
from .api import Optimized, optimize
from .data import ports_of, read_data
from .model import check_form, read_model, write_model
from .reference import isolated_imports
from .reporter import SILENT, Reporter


def optimize_file(
    model: str,
    pipeline: str,
    output: Path | None,
    *,
    target: str = "native",
    data: str | None = None,
    verify: Verify = Verify.NUMERIC,
    instruments: Sequence[Instrument] = (),
    reporter: Reporter = SILENT,
) -> Optimized:
    """Run a pipeline over a model and write the graph.

    Args:
        model: a reference.
        pipeline: as text.
        output: a `.onnx` or `.planish` file; None writes nothing.
        target: that passes build for.
        data: that they calibrate on.
        verify: what is checked after each pass.
        instruments: that watch.
        reporter: hears of progress.

    Raises:
        UsageError: the output's form is unknown, or the pipeline makes no sense.
    """
    if output is not None:
        check_form(output)
    with isolated_imports(Path()):
        parse_pipeline(pipeline)  # a typing error is told before a large model is read
        reporter.stage(f"reading {model}")
        source = read_model(model)
        batches = [] if data is None else read_data(data, Path(), ports_of(source))
        feeds = [batch.inputs for batch in batches]
        result = optimize(
            source,
            pipeline,
            data=feeds,
            target=target,
            verify=verify,
            instruments=instruments,
            reporter=reporter,
        )
    if output is not None:
        write_model(result.graph, output)
    return result
