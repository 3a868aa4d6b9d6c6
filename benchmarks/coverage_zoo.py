"""How much of the field's zoo planish takes: models with random weights, held to eager PyTorch.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/coverage_zoo.py [--only 'torchvision/*'] [--dynamic] [--passes cleanup,fuse] [--path tvm]
                                      [--json RESULTS.json]

Each model is built without downloading anything, traced with one set of inputs and run with another, in the interpreter
and in ONNX Runtime, or on the paths that --path names. With --passes, it goes through these first. What comes out is
held to what the module itself gives: float outputs within a relative error (L2) of 1e-3, others to the element. A model
is on each path

    equal     every output is that of the module
    refused   planish said that it can't, and why
    wrong     other outputs
    crash     anything else: another exception, a dead process, no answer in time
    unbuilt   there is no model: no small configuration of the architecture runs, or it needs what isn't installed

Random initialisations make dull networks, whose outputs hardly depend on the inputs, so that nothing would be proved:
batch norms that don't know their inputs, branches scaled by 1e-6, heads of zeros, embeddings of 0.02. `zoo/settle.py`
brings them into a state like that of a trained network before anything is compared, and the table counts those that
stay dull all the same.

With --dynamic, one graph with a symbolic batch (and sequence, for texts) is held to the module at several sizes.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import typer
import zoo
from rich.console import Console
from rich.table import Column, Table
from torch.utils import _pytree as pytree
from workers import CLASSES, Outcome, Unequal, check_all, distance

PATHS = ("interpreter", "onnxruntime")
SECONDS = 120.0
"""The time after which a model counts as hung."""

UNBUILT = "unbuilt"

TOLERANCE = 1e-3
"""The relative error (L2) that a float output may have."""

SEEDS = range(1, 9)
"""Seeds of the inputs that a model is run with."""

NUDGE = 1 + 1e-6
"""What inputs are scaled by to see whether a rounding changes the outputs."""

DULL = 1e-2
"""The relative difference that a dull model's outputs stay below where its inputs differ."""


# -- one model, in a process of its own


def check(name: str, paths: Sequence[str], *, dynamic: bool, passes: str) -> dict[str, Outcome]:
    """The outcome of a model on each path, at the sizes it was traced with, or with symbolic ones at several."""
    import planish

    try:
        subject = zoo.build(name)
    except zoo.Unbuilt as error:
        return dict.fromkeys(paths, (UNBUILT, _line(error)))
    sizes, shapes = (subject.sizes, subject.dynamic_shapes) if dynamic else (subject.sizes[:1], None)
    example = subject.inputs(0, sizes[0])
    feeds = [_steady(subject, size) for size in sizes]
    expected = [[tensor.numpy() for tensor in subject.run(inputs)] for inputs in feeds]
    signal = _signal([tensor.numpy() for tensor in subject.run(example)], expected[0])
    try:
        graph = planish.trace(subject.module, *example, dynamic_shapes=shapes)
        graph = planish.optimize(graph, passes, verify="structure").graph
    except Exception as error:
        return dict.fromkeys(paths, _classed(error))
    del subject
    outcomes: dict[str, Outcome] = {}
    for path in paths:
        try:
            run = _prepared(graph, path)
        except Exception as error:
            outcomes[path] = _classed(error)
            continue
        try:
            errors = [
                _compare(run(zoo.tensors(inputs)), wanted) for inputs, wanted in zip(feeds, expected, strict=True)
            ]
            outcomes[path] = ("equal", f"error {max(errors):.1e}, signal {signal:.1e}")
        except Unequal as error:
            outcomes[path] = ("wrong", _line(error))
        except Exception as error:  # what was compiled has to run
            outcomes[path] = ("crash", _line(error))
    return outcomes


def _steady(subject: zoo.Subject, size: int) -> zoo.Inputs:
    """The first inputs at which the module itself keeps the tolerance: rounding makes it select no other boxes."""
    for seed in SEEDS:
        inputs = subject.inputs(seed, size)
        nudged = pytree.tree_map_only(torch.Tensor, lambda x: x * NUDGE if x.is_floating_point() else x, inputs)
        try:
            _compare(*([tensor.numpy() for tensor in subject.run(each)] for each in (nudged, inputs)))
        except Unequal:
            continue
        return inputs
    return subject.inputs(SEEDS[0], size)


def _prepared(graph: Any, path: str) -> Callable[[Sequence[Any]], list[np.ndarray]]:
    from planish.backends import find_backend
    from planish.backends.artifact import load, write_artifact
    from planish.ir.interpreter import Interpreter
    from planish.targets.load import load_target

    names = [value.name for value in graph.inputs]
    if path == "interpreter":
        interpreter = Interpreter(graph)
        run = lambda feeds: list(interpreter.run(feeds).values())  # noqa: E731 -- the other is a method
    else:
        with tempfile.TemporaryDirectory(prefix="planish-") as folder:
            write_artifact(Path(folder), graph, find_backend(path), load_target("native"))
            run = load(folder, threads=1).run
    return lambda inputs: run({name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})


def _compare(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """The largest relative error.

    Raises:
        Unequal: naming the output.
    """
    if len(found) != len(expected):
        raise Unequal(f"{len(found)} outputs instead of {len(expected)}")
    worst = 0.0
    for number, (got, wanted) in enumerate(zip(found, expected, strict=True)):
        if (got.dtype, got.shape) != (wanted.dtype, wanted.shape):
            raise Unequal(f"output {number} is {got.dtype}{got.shape} instead of {wanted.dtype}{wanted.shape}")
        error = distance(got, wanted)
        if error > (TOLERANCE if wanted.dtype.kind == "f" else 0):
            raise Unequal(f"output {number} {wanted.dtype}{wanted.shape} is off by {error:.1e}")
        worst = max(worst, error)
    return worst


def _signal(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """The relative difference of float outputs: the least among those that differ."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a.dtype.kind == "f" and a.shape == b.shape]
    return min((move for a, b in pairs if (move := distance(a, b)) > 0), default=0.0 if pairs else 1.0)


def _classed(error: Exception) -> Outcome:
    from planish.ir.errors import PlanishError

    if isinstance(error, PlanishError):
        return "refused", _line(error)
    return "crash", f"{type(error).__name__}: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:600]


# -- all models


def main(
    results: Annotated[Path | None, typer.Option("--json", help="The JSON file to write every outcome to.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="A glob of the names of models; may be repeated.")] = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Use symbolic sizes, where a model has some.")] = False,
    passes: Annotated[str, typer.Option(help="A pipeline that models go through first.")] = "",
    path: Annotated[list[str] | None, typer.Option(help="A path to run on: interpreter, onnxruntime, tvm.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes side by side.")] = 2,
    seconds: Annotated[float, typer.Option(help="Seconds after which a model counts as hung.")] = SECONDS,
) -> None:
    """Count the models of the zoo that planish gets right, on every path."""
    names = [name for name in zoo.names(dynamic) if any(fnmatchcase(name, pattern) for pattern in only or ["*"])]
    paths = tuple(path or PATHS)
    outcomes = check_all(partial(check, dynamic=dynamic, passes=passes), names, paths, jobs, seconds)
    _report(outcomes, paths)
    if results is not None:
        results.write_text(json.dumps({name: outcomes[name] for name in sorted(outcomes)}, indent=1) + "\n")


def _report(outcomes: dict[str, dict[str, Outcome]], paths: Sequence[str]) -> None:
    console = Console()
    table = Table(
        Column("part", no_wrap=True), "path", *CLASSES, UNBUILT, "dull", "equal %", title=f"{len(outcomes)} models"
    )
    for part in sorted({_part(name) for name in outcomes}):
        for path in paths:
            found = [outcome[path] for name, outcome in outcomes.items() if _part(name) == part]
            counts = Counter(kind for kind, _ in found)
            dull = sum(kind == "equal" and float(detail.split()[-1]) < DULL for kind, detail in found)
            share = f"{100 * counts['equal'] / max(sum(counts[kind] for kind in CLASSES), 1):.1f}"
            table.add_row(part, path, *(str(counts[kind]) for kind in (*CLASSES, UNBUILT)), str(dull), share)
    console.print(table)
    for name, outcome in sorted(outcomes.items()):
        for path, (kind, detail) in outcome.items():
            if kind != "equal":
                console.print(f"{kind} {path} {name}: {detail}", markup=False, soft_wrap=True)


def _part(name: str) -> str:
    return name.rpartition("/")[0]


if __name__ == "__main__":
    typer.run(main)
