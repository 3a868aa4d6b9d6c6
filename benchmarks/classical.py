"""How many classical models planish builds as their converters write them, held to ONNX Runtime on the source file.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/classical.py [--only 'RandomForest*'] [--path onnxruntime] [--json RESULTS.json]

The models are those of `classical_models.py`: estimators and pipelines of scikit-learn, LightGBM and XGBoost, fitted
here. Each goes through `cleanup` and is built for ONNX Runtime and for TVM, and run on rows that it was not fitted to.
Labels must be those of the source, and scores within a relative tolerance of 1e-4. A model is on each path

    equal     the outputs are the source's, maps as maps
    refused   planish said that it can't run it, naming the operator and its layer, or the input
    wrong     other outputs, or a refusal that names neither
    crash     anything else: another exception, a dead process, no answer in time
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import typer
from rich.console import Console
from rich.table import Column, Table
from workers import CLASSES, Outcome, Unequal, check_all

PATHS = ("interpreter", "onnxruntime", "tvm")
SECONDS = 300.0
"""The time after which a model counts as hung."""

RTOL = 1e-4
"""How far scores may be off: relative to the number, and to the largest one of the output."""


# -- one model, in a process of its own


def check(name: str, paths: Sequence[str]) -> dict[str, Outcome]:
    """The outcome of a model on each path."""
    import classical_models
    import onnxruntime

    import planish
    from planish.ir.graph import Graph

    onnxruntime.set_default_logger_severity(4)
    model, feeds = classical_models.build(name)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        file = Path(folder) / "model.onnx"
        onnx.save(model, file)
        try:
            graph: Graph = planish.optimize(planish.read(file), "cleanup").graph
        except Exception as error:  # all of them are findings
            return dict.fromkeys(paths, _classed(error, set()))
    named = {value.name for value in graph.inputs} | {node.operator for node in graph.nodes}
    outcomes: dict[str, Outcome] = {}
    for path in paths:
        start = time.perf_counter()
        try:
            _compare(run(graph, path, feeds), expected)
            outcomes[path] = ("equal", f"{time.perf_counter() - start:.1f} s")
        except Exception as error:  # all of them are findings
            outcomes[path] = _classed(error, named)
    return outcomes


def run(graph: Any, path: str, feeds: Any) -> list[Any]:
    """The outputs of a graph in the interpreter, or as a backend has compiled it."""
    from planish.backends import find_backend
    from planish.backends.artifact import load, write_artifact
    from planish.ir.interpreter import Interpreter
    from planish.targets.load import load_target

    if path == "interpreter":
        return list(Interpreter(graph).run(feeds).values())
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        write_artifact(Path(folder) / path, graph, find_backend(path), load_target("native"))
        return load(Path(folder) / path, threads=1).run(feeds)


def _compare(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Hold outputs to the source's.

    Raises:
        Unequal: naming the output.
    """
    for number, (got, wanted) in enumerate(zip(found, expected, strict=True)):
        if isinstance(wanted, list):
            if [list(row) for row in got] != [list(row) for row in wanted]:
                raise Unequal(f"output {number} has maps of other keys")
            got, wanted = (np.array([list(row.values()) for row in rows]) for rows in (got, wanted))
        if (got.dtype, got.shape) != (wanted.dtype, wanted.shape):
            raise Unequal(f"output {number} is {got.dtype}{got.shape} instead of {wanted.dtype}{wanted.shape}")
        if wanted.dtype.kind != "f":
            if (share := (got != wanted).mean()) > 0:
                raise Unequal(f"output {number} differs in {share:.0%} of its labels")
        elif not np.allclose(got, wanted, RTOL, RTOL * np.abs(wanted).max(), equal_nan=True):
            raise Unequal(f"output {number} is off by {np.abs(got - wanted).max():.1e}")


def _classed(error: Exception, named: set[str]) -> Outcome:
    from planish.ir.errors import PlanishError

    text = " ".join(str(error).split())[:600]
    if isinstance(error, PlanishError):
        return ("refused" if any(name in text for name in named) else "wrong"), text
    return ("wrong" if isinstance(error, Unequal) else "crash"), f"{type(error).__name__}: {text}"


# -- all models


def main(
    results: Annotated[Path | None, typer.Option("--json", help="The JSON file to write every outcome to.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A glob of the names of models; may be repeated.")] = None,
    path: Annotated[list[str] | None, typer.Option(help="A path to run on: interpreter, onnxruntime, tvm.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes side by side.")] = 2,
    seconds: Annotated[float, typer.Option(help="Seconds after which a model counts as hung.")] = SECONDS,
) -> None:
    """Count the classical models that planish builds, on every path."""
    import classical_models

    names = [name for name in classical_models.CASES if any(fnmatchcase(name, glob) for glob in only or ["*"])]
    paths = tuple(path or PATHS)
    outcomes = check_all(check, names, paths, jobs, seconds)
    _report(names, outcomes, paths)
    if results is not None:
        results.write_text(json.dumps(outcomes, indent=1) + "\n")


def _report(names: Sequence[str], outcomes: dict[str, dict[str, Outcome]], paths: Sequence[str]) -> None:
    console = Console()
    table = Table(Column("model", no_wrap=True), *paths, title=f"{len(names)} models")
    for name in names:
        table.add_row(name, *(outcomes[name][path][0] for path in paths))
    table.add_section()
    for kind in CLASSES:
        counts = Counter(path for name in names for path in paths if outcomes[name][path][0] == kind)
        table.add_row(kind, *(str(counts[path]) for path in paths))
    console.print(table)
    for name in names:
        for path, (kind, detail) in outcomes[name].items():
            if kind != "equal":
                console.print(f"{kind} {path} {name}: {detail}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
