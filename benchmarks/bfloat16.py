"""What `reduce-precision` takes and gives: TVM's transformers in bfloat16 beside themselves in float32.

    pip install planish[tvm,benchmarks,examples]
    python benchmarks/bfloat16.py [--rounds 30] [--only 'BERT*|MiniLM'] [--folder FOLDER] [--threads 2] [--json RESULTS.json]

Both are built of the same graph (`cleanup,fuse`) and take turns in random order in one process, after a pause. The ratio is float32's
time over bfloat16's in turns of the same round: its median, and in brackets its quartiles; behind them that of the fastest turns.
Peaks are what loops of multiply-adds on registers reach, in turns as well; the cosine is the least of any output with float32's.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from cleanup import model_file, random_inputs
from fusion import session_of
from rich.console import Console
from rich.table import Table
from tvm import compile as compile_kernel
from tvm.runtime import tensor
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target import Target
from tvm_backend import STEPS, TRANSFORMERS, chosen, measure_all, peak, ratio, turns

import planish
from planish.backends.tvm.kernels.bfloat16 import BFLOAT16, imported, pairs_added
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.vectors import lanes_at, spread
from planish.ir.analysis.cost import summarize
from planish.targets.load import load_target

PRECISIONS = {"float32": "cse", "bfloat16": "reduce-precision"}
"""What becomes of the graph that both are built of."""


def bfloat16_peak(threads: int) -> tuple[Callable[[], object], int]:
    """A loop of multiply-adds of pairs on as many registers as products use, in each thread, and its operations."""
    target = load_target("native")
    machine = Machine.of(target)
    lanes, sums = machine.lanes, machine.registers * 3 // 4
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x = T.arg("x", T.buffer((threads, lanes), "int32"))
        y = T.arg("y", T.buffer((threads, sums * lanes), "float32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        with imported(machine, BFLOAT16), T.parallel(0, threads) as thread:
            held = T.alloc_buffer((sums * lanes,), "float32")
            places = [lanes_at(index * lanes, lanes) for index in range(sums)]
            for place in places:
                T.buffer_store(held, spread(T.float32(0), lanes), [place])
            pairs = x[thread, lanes_at(0, lanes)]
            with T.serial(0, STEPS):
                for place in places:
                    T.buffer_store(held, pairs_added(held[place], pairs, pairs), [place])
            for place in places:
                T.buffer_store(y, held[place], [thread, place])
    kind = Target({"kind": "llvm", "mcpu": target.mcpu, "num-cores": threads})
    kernel = compile_kernel(builder.get(), target=kind)["main"]
    arrays = tensor(np.zeros((threads, lanes), np.int32)), tensor(np.zeros((threads, sums * lanes), np.float32))
    return lambda: kernel(*arrays), 4 * STEPS * threads * sums * lanes


def cosine(expected: np.ndarray, got: np.ndarray) -> float:
    a, b = (array.reshape(-1).astype(np.float64) for array in (expected, got))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def measure(name: str, folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    source = model_file(name, folder)
    assert source is not None
    feeds = list(random_inputs(session_of(source, threads), 32).values())
    found: dict[str, Callable[[], Any]] = {}
    row: dict[str, Any] = {"model": name}
    base = planish.optimize(planish.read(source), "cleanup,fuse").graph
    if name == "ViT-B16":  # whose head is of zeros until it is trained
        head = [node for node in base.nodes if node.operator == "Gemm"][-1]
        base.outputs = {"features": head.inputs[0]}
    for precision, pipeline in PRECISIONS.items():
        graph = planish.optimize(base, pipeline).graph
        executable = planish.compile(graph, backend="tvm")
        named = dict(zip((port.name for port in executable.inputs), feeds, strict=True))
        found[precision] = lambda executable=executable, named=named: executable(**named)
        row.setdefault("flops", summarize(graph).flops)
    row["cosine"] = min(map(cosine, *(run() for run in found.values())))
    operations: dict[str, int] = {}
    for precision, loop in (("float32", peak), ("bfloat16", bfloat16_peak)):
        found[f"{precision} peak"], operations[precision] = loop(threads)
    times = turns(found, rounds)
    row["milliseconds"] = {who: 1e3 * float(np.median(seconds)) for who, seconds in times.items()}
    row["ratio"] = ratio(times["float32"], times["bfloat16"])
    row["peak"] = {who: done / min(times[f"{who} peak"]) / 1e9 for who, done in operations.items()}
    row["share"] = {who: row["flops"] / min(times[who]) / 1e9 / row["peak"][who] for who in PRECISIONS}
    return row


def report(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table("model", *(f"{who} ms" for who in PRECISIONS), "ratio", "of the peaks", "cosine")
    for row in rows:
        low, middle, high, fastest = row["ratio"]
        times = (f"{row['milliseconds'][who]:.2f}" for who in PRECISIONS)
        shares = ", ".join(f"{100 * row['share'][who]:.0f} % of {row['peak'][who]:.0f}" for who in PRECISIONS)
        cells = (f"{middle:.2f} ({low:.2f}-{high:.2f}) {fastest:.2f}", shares, f"{row['cosine']:.6f}")
        table.add_row(row["model"], *times, *cells)
    console.print(table)


def main(
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 30,
    only: Annotated[str, typer.Option(help="A glob of models, or several with | between them.")] = "*",
    folder: Annotated[Path | None, typer.Option(help="Where exported models are kept, and found.")] = None,
    threads: Annotated[int, typer.Option(help="Of each.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure and print a table."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    names = chosen(TRANSFORMERS, only)
    measure_all(names, lambda name, place: measure(name, place, threads, rounds), report, folder, json_file)


if __name__ == "__main__":
    typer.run(main)
