"""How many detectors planish builds from torch to an artifact, in floats and in int8, held to their source all the way.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/detectors.py [--only '*/ssd*'] [--kind int8] [--backend tvm] [--json RESULTS.json]

The models are all of torchvision's, at images of about 100 pixels, and one in the shape of YOLO (`yolo.py`); with
random weights that `zoo/settle.py` brings into a state like that of a trained network. Each is traced with two images,
goes through `cleanup,fuse`, or that and `quantize` on eight images, with every check there is, and is built for ONNX
Runtime and for TVM. The artifact is held to the interpreter, as `planish build` does it: with the same decisions on
which boxes are taken, all numbers must be the same. A model is on each path

    equal     all checks hold; how far int8 moves the outputs is said
    refused   planish said that the backend can't run it, and what
    wrong     a check failed, after a pass or in the artifact
    crash     anything else: another exception, a dead process, no answer in time
"""

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer
from rich.console import Console
from rich.table import Column, Table
from workers import CLASSES, Outcome, check_all

PIPELINES = {"float": "cleanup,fuse", "int8": "cleanup,fuse,quantize"}
BACKENDS = ("onnxruntime", "tvm")
SECONDS = 3600.0
"""The time after which a model counts as hung."""
BATCHES = 4
"""The number of batches, of two images each, to calibrate on."""


def names() -> list[str]:
    from torchvision import models

    return ["yolo", *(f"torchvision/detection/{name}" for name in models.list_models(module=models.detection))]


# -- one model, in a process of its own


def check(name: str, paths: Sequence[str], folder: Path) -> dict[str, Outcome]:
    """The outcome of a model on each path: a pipeline and a backend.

    Args:
        name: the model's name.
        paths: the paths to try.
        folder: the folder for graphs before and after passes; those that are there already are taken from it.
    """
    place = folder / name.replace("/", "-")
    place.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    for kind in PIPELINES:
        wanted = [path for path in paths if path.startswith(kind)]
        try:
            graph, drift, batches = _optimized(name, kind, place) if wanted else (None, 0.0, [])
        except Exception as error:  # all of them are findings
            outcomes |= dict.fromkeys(wanted, _classed(error))
            continue
        for path in wanted:
            found, detail = _built(graph, path.partition(" ")[2], batches)
            outcomes[path] = found, f"drift {drift:.1e}, {detail}" if found == "equal" else detail
    return outcomes


def _optimized(name: str, kind: str, place: Path) -> tuple[Any, float, list[dict[str, Any]]]:
    """What passes make of a model, how far they move its outputs, and batches of its inputs."""
    import numpy as np

    import planish
    from planish.ir.storage import load, save

    source, made, noted = place / "source.planish", place / f"{kind}.planish", place / f"{kind}.json"
    if not source.exists():
        graph, rows = _traced(name)
        np.savez(
            place / "batches.npz", **{f"{row}/{key}": it for row, feeds in enumerate(rows) for key, it in feeds.items()}
        )
        save(graph, source)
    held = np.load(place / "batches.npz")
    ports = [value.name for value in load(source).inputs]
    batches = [{port: held[f"{row}/{port}"] for port in ports} for row in range(BATCHES)]
    if not noted.exists():
        result = planish.optimize(source, PIPELINES[kind], data=batches)
        save(result.graph, made)
        noted.write_text(json.dumps(result.records[-1].drift))
    return load(made), json.loads(noted.read_text()), batches


def _traced(name: str) -> tuple[Any, list[dict[str, Any]]]:
    """A model as a graph, and batches of its inputs."""
    import yolo
    import zoo

    import planish

    subject = yolo.build() if name == "yolo" else zoo.build(name)
    positional, named = subject.inputs(0, subject.sizes[0])
    graph = planish.trace(subject.module, positional, named)
    ports = [value.name for value in graph.inputs]
    given = (zoo.tensors(subject.inputs(seed, subject.sizes[0])) for seed in range(1, BATCHES + 1))
    return graph, [{port: tensor.numpy() for port, tensor in zip(ports, row, strict=True)} for row in given]


def _built(graph: Any, backend: str, batches: Sequence[dict[str, Any]]) -> Outcome:
    """The outcome of a graph in a backend."""
    from planish.backends import find_backend
    from planish.backends.artifact import load, write_artifact
    from planish.driver.backend_check import BackendCheck
    from planish.targets.load import load_target

    start, target, found = time.perf_counter(), load_target("native"), find_backend(backend)
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        try:
            write_artifact(Path(folder) / "artifact", graph, found, target)
            BackendCheck(found, target).hold(load(Path(folder) / "artifact"), graph, batches[:2], Path(folder))
        except Exception as error:  # as above
            return _classed(error)
    return "equal", f"{time.perf_counter() - start:.0f} s"


def _classed(error: Exception) -> Outcome:
    from planish.ir.errors import CheckError, PlanishError

    kind = "wrong" if isinstance(error, CheckError) else "refused" if isinstance(error, PlanishError) else "crash"
    return kind, f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"


# -- all models


def main(
    results: Annotated[Path | None, typer.Option("--json", help="The JSON file to write every outcome to.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A glob of the names of models; may be repeated.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="What to build: float, int8.")] = None,
    backend: Annotated[list[str] | None, typer.Option(help="What to build for: onnxruntime, tvm.")] = None,
    keep: Annotated[Path | None, typer.Option(help="A folder for graphs that a later run goes on from.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes side by side.")] = 1,
    seconds: Annotated[float, typer.Option(help="Seconds after which a model counts as hung.")] = SECONDS,
) -> None:
    """Count the detectors that planish builds, on every path."""
    chosen = [name for name in names() if any(fnmatchcase(name, pattern) for pattern in only or ["*"])]
    paths = tuple(map(" ".join, product(kind or PIPELINES, backend or BACKENDS)))
    with tempfile.TemporaryDirectory(prefix="planish-") as scratch:
        outcomes = check_all(partial(check, folder=keep or Path(scratch)), chosen, paths, jobs, seconds)
    console, table = Console(), Table(Column("path", no_wrap=True), *CLASSES, title=f"{len(outcomes)} detectors")
    for path in paths:
        counts = Counter(row[path][0] for row in outcomes.values())
        table.add_row(path, *(str(counts[kind]) for kind in CLASSES))
    console.print(table)
    for name, row in sorted(outcomes.items()):
        for path, (outcome, detail) in row.items():
            console.print(f"{outcome} {path} {name}: {detail}", markup=False, soft_wrap=True)
    if results is not None:
        results.write_text(json.dumps(outcomes, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
