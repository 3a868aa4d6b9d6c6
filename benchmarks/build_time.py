"""What it costs that TVM compiles in a process of its own: builds of the same graphs there and in this process, in turns.

    pip install planish[tvm,benchmarks,examples]
    python benchmarks/build_time.py [--only 'resnet*'] [--rounds 3] [--threads 2] [--json RESULTS.json]

The models and pipelines are those of `tvm_speed.py`. Each graph is built with an empty cache of kernels in either way, and then with
the full one as often as there are rounds; what goes first changes from turn to turn. A build is all that `planish.compile` does:
making the graph legal, handing it over, compiling, checking kernels that are new, and writing the files. Ratios are seconds there
over seconds here, so that 1.1 means that a build takes a tenth longer there; the last row has those of the sums.
"""

import json
import os
import tempfile
import time
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from cleanup import model_file, random_inputs
from fusion import optimized_file, session_of
from rich.console import Console
from rich.table import Table
from tvm_speed import BATCHES, CNNS, DYNAMIC, STATIC, TRANSFORMERS, inputs_like

import planish
from planish.backends.artifact import write_artifact
from planish.backends.tvm.backend import Tvm, legal_graph
from planish.ir.graph import Graph
from planish.passes.legalization.origins import Origins
from planish.targets import Target
from planish.targets.load import load_target


class Here(Tvm):
    """TVM in this process, which a fault of LLVM's ends."""

    def compile(self, graph: Graph, target: Target, directory: Path) -> list[Path]:
        from planish.backends.tvm.building import Build

        return Build(legal_graph(graph, target), Origins.of(graph), target).write(directory)


BACKENDS = {"here": Here(), "there": Tvm()}


def graphs(name: str, folder: Path, threads: int) -> dict[str, Graph]:
    """What `tvm_speed.py` builds of a model, by its pipeline."""
    source, optimized = model_file(name, folder), optimized_file(name, folder)
    assert source is not None and optimized is not None
    batches = inputs_like(random_inputs(session_of(optimized, threads), 32), BATCHES)
    graph = planish.optimize(planish.read(source), "cleanup,fuse").graph
    data = [dict(zip((value.name for value in graph.inputs), batch.values(), strict=True)) for batch in batches]
    pipelines = ("", DYNAMIC if name in TRANSFORMERS else STATIC, "reduce-precision")
    return {pipeline: planish.optimize(graph, pipeline, data=data).graph for pipeline in pipelines}


def seconds(graph: Graph, where: str, target: Target, cache: str, folder: Path) -> float:
    """What a build takes."""
    os.environ["PLANISH_CACHE"] = cache
    start = time.perf_counter()
    write_artifact(folder / where, graph, BACKENDS[where], target)
    return time.perf_counter() - start


def measured(graph: Graph, target: Target, rounds: int, number: int) -> dict[str, dict[str, float]]:
    """Seconds of builds with an empty cache and with a full one, the median of the latter, by where they are made."""
    order = ("here", "there") if number % 2 else ("there", "here")
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        folder = Path(temporary)
        cold = {where: seconds(graph, where, target, f"{folder}/cache-{where}", folder) for where in order}
        warm: dict[str, list[float]] = {where: [] for where in order}
        for turn in range(rounds):
            for where in order if turn % 2 else order[::-1]:
                warm[where].append(seconds(graph, where, target, f"{folder}/cache-{where}", folder))
    return {"cold": cold, "warm": {where: float(np.median(times)) for where, times in warm.items()}}


def report(rows: list[dict[str, Any]]) -> None:
    table = Table("model", "pipeline", "cold here, s", "there / here", "warm here, s", "there / here")
    total = {kind: {where: sum(row[kind][where] for row in rows) for where in BACKENDS} for kind in ("cold", "warm")}
    for row in [*rows, {"model": "all", "pipeline": "", **total}]:
        cells = [(f"{row[kind]['here']:.1f}", f"{row[kind]['there'] / row[kind]['here']:.3f}") for kind in total]
        table.add_row(row["model"], row["pipeline"], *cells[0], *cells[1])
    Console(width=None if os.isatty(1) else 140).print(table)


def main(
    only: Annotated[str, typer.Option(help="a glob of models, or several with | between them")] = "*",
    rounds: Annotated[int, typer.Option(help="builds with a full cache, in either way")] = 3,
    threads: Annotated[int, typer.Option(help="of everything")] = 2,
    folder: Annotated[Path | None, typer.Option(help="where exported models are kept, and found")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the results to a file")] = None,
) -> None:
    warnings.simplefilter("ignore")
    os.environ["TVM_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    target, rows = load_target("native"), list[dict[str, Any]]()
    for name in (*TRANSFORMERS, *CNNS):
        if not any(fnmatchcase(name, pattern) for pattern in only.split("|")):
            continue
        with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
            found = graphs(name, folder or Path(temporary), threads)
        for pipeline, graph in found.items():
            rows.append({"model": name, "pipeline": pipeline, **measured(graph, target, rounds, len(rows))})
            typer.echo(json.dumps(rows[-1]), err=True)
    report(rows)
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
