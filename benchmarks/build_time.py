"""What it costs that TVM compiles in a process of its own: the same builds there and in planish's process, in turns.

    pip install planish[build,tvm,benchmarks,examples]
    python benchmarks/build_time.py [--only "resnet*"] [--parts build,compile] [--pipelines 3] [--rounds 3]
                                    [--json RESULTS.json]

The models and pipelines are those of `tvm_speed.py`. A build is what `planish build` does as a command, from the start
of Python to its end: reading the model, passes with their checks, compiling, checking kernels, and measuring the
artifact. "compile" is the part of it that a process of its own can slow down: making the graph legal, handing it over,
compiling, checking kernels that are new, and writing the files, all in a process that goes on from model to model.
Either is done with an empty cache of kernels, and then with the full one as often as there are rounds, of which the
median counts; what goes first changes from turn to turn. Ratios are seconds there over seconds here, so that 1.1 means
that it takes a tenth longer there; the last row has those of the sums.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import build_here
import numpy as np
import torch
import typer
from cleanup import chosen, random_inputs
from fusion import session_of
from rich.console import Console
from rich.table import Table
from tvm_speed import BATCHES, CNNS, DYNAMIC, STATIC, TRANSFORMERS, exported, inputs_like

import planish
from planish.backends.artifact import write_artifact
from planish.backends.tvm.backend import Tvm
from planish.ir.graph import Graph
from planish.targets import Target
from planish.targets.load import load_target

DATA = '''"""The batches beside this file."""

from pathlib import Path

import numpy as np


def batches():
    arrays = np.load(Path(__file__).with_name("data.npz"))
    found = {}
    for key in arrays.files:
        index, name = key.split("/", 1)
        found.setdefault(int(index), {})[name] = arrays[key]
    return [found[index] for index in sorted(found)]
'''
COMMANDS = {
    "here": [sys.executable, str(Path(build_here.__file__))],
    "there": [sys.executable, "-c", "from planish.driver.cli import main; main()"],
}
BACKENDS = {"here": build_here.Here(), "there": Tvm()}


@dataclass(frozen=True, slots=True)
class Case:
    """A model and a pipeline.

    Attributes:
        source: the model's file.
        pipeline: the pipeline behind `cleanup,fuse`.
        data: batches to calibrate with.
        graph: the graph that the passes make.
    """

    source: Path
    pipeline: str
    data: Sequence[Mapping[str, np.ndarray]]
    graph: Graph


def cases(name: str, folder: Path, threads: int) -> Iterator[Case]:
    """What `tvm_speed.py` builds of a model."""
    source, optimized = exported(name, folder)
    batches = inputs_like(random_inputs(session_of(optimized, threads), 32), BATCHES)
    graph = planish.optimize(planish.read(source), "cleanup,fuse").graph
    data = [dict(zip((value.name for value in graph.inputs), batch.values(), strict=True)) for batch in batches]
    for pipeline in ("", DYNAMIC if name in TRANSFORMERS else STATIC, "reduce-precision"):
        yield Case(source, pipeline, data, planish.optimize(graph, pipeline, data=data).graph)


def built(case: Case, where: str, cache: Path, folder: Path) -> float:
    """Seconds that the command takes."""
    data = folder / "data.py"
    if not data.exists():
        np.savez(
            folder / "data.npz",
            **{f"{index}/{name}": array for index, batch in enumerate(case.data) for name, array in batch.items()},
        )
        data.write_text(DATA, encoding="utf-8")
    pipeline = ",".join(filter(None, ("cleanup,fuse", case.pipeline)))
    flags = ["-p", pipeline, "-d", f"{data}:batches", "-b", "tvm", "-o", str(folder / where)]
    start = time.perf_counter()
    done = subprocess.run(
        [*COMMANDS[where], "build", str(case.source.absolute()), *flags],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PLANISH_CACHE": str(cache)},
    )
    assert not done.returncode, done.stderr
    return time.perf_counter() - start


def compiled(case: Case, where: str, cache: Path, folder: Path, target: Target) -> float:
    """Seconds that compiling alone takes."""
    os.environ["PLANISH_CACHE"] = str(cache)
    start = time.perf_counter()
    write_artifact(folder / where, case.graph, BACKENDS[where], target)
    return time.perf_counter() - start


def measured(case: Case, parts: Sequence[str], target: Target, rounds: int, number: int) -> dict[str, dict[str, float]]:
    """Seconds by what is done, and where."""
    order = ("here", "there") if number % 2 else ("there", "here")
    ways = {"build": built, "compile": partial(compiled, target=target)}
    kinds = [f"{part} {state}" for part in parts for state in ("cold", "warm")]
    found: dict[str, dict[str, list[float]]] = {kind: {where: [] for where in order} for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        for name in parts:
            way = ways[name]
            folder = Path(temporary, name)
            folder.mkdir()
            for turn in range(rounds + 1):
                for where in order[:: 1 if turn % 2 else -1]:
                    kind = f"{name} warm" if turn else f"{name} cold"
                    found[kind][where].append(way(case, where, folder / f"cache-{where}", folder))
    return {
        kind: {where: float(np.median(seconds)) for where, seconds in times.items()} for kind, times in found.items()
    }


def report(rows: list[dict[str, Any]]) -> None:
    kinds = [key for key in rows[0] if key not in ("model", "pipeline")]
    heads = [text for kind in kinds for text in (f"{kind}, here, s", "there / here")]
    table = Table("model", "pipeline", *heads)
    total = {kind: {where: sum(row[kind][where] for row in rows) for where in BACKENDS} for kind in kinds}
    for row in [*rows, {"model": "all", "pipeline": "", **total}]:
        cells = [(f"{row[kind]['here']:.1f}", f"{row[kind]['there'] / row[kind]['here']:.3f}") for kind in kinds]
        table.add_row(row["model"], row["pipeline"], *(text for pair in cells for text in pair))
    Console(width=None if os.isatty(1) else 200).print(table)


def main(
    only: Annotated[str, typer.Option(help="A glob of models, or several with | between them.")] = "*",
    rounds: Annotated[int, typer.Option(help="Builds with a full cache, in either way.")] = 3,
    parts: Annotated[str, typer.Option(help="What to time: build, compile, or both.")] = "build,compile",
    pipelines: Annotated[int, typer.Option(help="How many pipelines of a model: float32, int8, bfloat16.")] = 3,
    threads: Annotated[int, typer.Option(help="Threads of whatever runs.")] = 2,
    folder: Annotated[Path | None, typer.Option(help="A folder where exported models are kept, and found.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Build all models in either way, and print a table of seconds and their ratios."""
    warnings.simplefilter("ignore")
    os.environ["TVM_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    target, rows = load_target("native"), list[dict[str, Any]]()
    for name in chosen((*TRANSFORMERS, *CNNS), only):
        with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
            for case in islice(cases(name, folder or Path(temporary), threads), pipelines):
                found = measured(case, parts.split(","), target, rounds, len(rows))
                rows.append({"model": name, "pipeline": case.pipeline, **found})
                typer.echo(json.dumps(rows[-1]), err=True)
    report(rows)
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
