"""Transformers in int8: TVM with `quantize{scheme=int8-dynamic,per_row=true}` beside ONNX Runtime's `quantize_dynamic`.

    pip install planish[tvm,benchmarks,examples]
    python benchmarks/int8.py [--rounds 30] [--only 'BERT*|MiniLM'] [--folder FOLDER] [--threads 2] [--json RESULTS.json]

`int8 and bfloat16` has attention in bfloat16 besides (`reduce-precision`). ONNX Runtime gets the file as torch's exporter's own
optimizer leaves it, in float32 and from `quantize_dynamic`. All take turns in random order in one process, after a pause. Ratios are
ONNX Runtime's time in float32 over theirs in turns of the same round: the median, and behind it that of the fastest turns. The peak is
what a loop of VNNI's multiply-adds on registers reaches, in turns as well; the cosine is the least of any output with float32's.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from bfloat16 import TRANSFORMERS, cosine
from cleanup import model_file, random_inputs
from fusion import optimized_file, session_of
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.console import Console
from rich.table import Table
from tvm import compile as compile_kernel
from tvm.runtime import tensor
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target import Target
from tvm_backend import STEPS, turns

import planish
from planish.backends.tvm.kernels.dots import DEPTH, LANES, with_dots
from planish.backends.tvm.kernels.vectors import lanes_at
from planish.ir.analysis.cost import summarize
from planish.targets.load import load_target

INT8 = "quantize{scheme=int8-dynamic,per_row=true}"
OURS = {"int8": INT8, "int8 and bfloat16": f"{INT8},reduce-precision"}
RUNTIME, DYNAMIC, PEAK = "ONNX Runtime", "quantize_dynamic", "peak"
SUMS = 24
"""Vectors that a product holds in registers."""


def int8_peak(threads: int) -> tuple[Callable[[], object], int]:
    """A loop of VNNI's multiply-adds on as many registers as products use, in each thread, and its operations."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x = T.arg("x", T.buffer((threads, DEPTH), "uint8"))
        weights = T.arg("weights", T.buffer((threads, LANES * DEPTH), "int8"))
        y = T.arg("y", T.buffer((threads, SUMS * LANES), "int32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        with T.parallel(0, threads) as thread:
            held = T.alloc_buffer((SUMS * LANES,), "int32")
            places = [lanes_at(index * LANES, LANES) for index in range(SUMS)]
            for place in places:
                T.buffer_store(held, T.broadcast(T.int32(0), LANES), [place])
            left, right = x[thread, lanes_at(0, DEPTH)], weights[thread, lanes_at(0, LANES * DEPTH)]
            with T.serial(0, STEPS):
                for place in places:
                    T.buffer_store(held, with_dots(held[place], left, right), [place])
            for place in places:
                T.buffer_store(y, held[place], [thread, place])
    kind = Target({"kind": "llvm", "mcpu": load_target("native").mcpu, "num-cores": threads})
    kernel = compile_kernel(builder.get(), target=kind)["main"]
    shapes = (((threads, DEPTH), np.uint8), ((threads, LANES * DEPTH), np.int8), ((threads, SUMS * LANES), np.int32))
    arrays = [tensor(np.ones(shape, dtype)) for shape, dtype in shapes]
    return lambda: kernel(*arrays), 2 * STEPS * threads * SUMS * LANES * DEPTH


def measure(name: str, folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    source, optimized = model_file(name, folder), optimized_file(name, folder)
    assert source is not None
    assert optimized is not None
    dynamic = folder / f"{name}.dynamic.onnx"
    quantize_dynamic(optimized, dynamic, weight_type=QuantType.QInt8)
    sessions = {RUNTIME: session_of(optimized, threads), DYNAMIC: session_of(dynamic, threads)}
    feeds = random_inputs(sessions[RUNTIME], 32)
    found: dict[str, Callable[[], Any]] = {
        who: lambda session=session: session.run(None, feeds) for who, session in sessions.items()
    }
    graph = planish.optimize(planish.read(source), "cleanup,fuse").graph
    for who, pipeline in OURS.items():
        executable = planish.compile(planish.optimize(graph, pipeline).graph, backend="tvm")
        named = dict(zip((port.name for port in executable.inputs), feeds.values(), strict=True))
        found[who] = lambda executable=executable, named=named: executable(**named)
    row: dict[str, Any] = {"model": name, "flops": summarize(graph).flops}
    expected = found[RUNTIME]()
    row["cosine"] = {who: min(map(cosine, expected, run())) for who, run in found.items()}
    found[PEAK], operations = int8_peak(threads)
    times = turns(found, rounds)
    row["milliseconds"] = {who: 1e3 * float(np.median(seconds)) for who, seconds in times.items() if who != PEAK}
    row["ratio"] = {
        who: (float(np.median(np.divide(times[RUNTIME], times[who]))), min(times[RUNTIME]) / min(times[who]))
        for who in row["cosine"]
    }
    row["peak"] = operations / min(times[PEAK]) / 1e9
    row["share"] = {who: row["flops"] / min(times[who]) / 1e9 / row["peak"] for who in OURS}
    return row


def report(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table("model", "", "ms", "ratio", "fastest", "of the peak", "cosine")
    for row in rows:
        for who, milliseconds in row["milliseconds"].items():
            share = f"{100 * row['share'][who]:.0f} % of {row['peak']:.0f} GOP/s" if who in OURS else ""
            ratios = (f"{ratio:.2f}" for ratio in row["ratio"][who])
            table.add_row(row["model"], who, f"{milliseconds:.2f}", *ratios, share, f"{row['cosine'][who]:.5f}")
    console.print(table)


def main(
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 30,
    only: Annotated[str, typer.Option(help="A glob of models, or several with | between them.")] = "*",
    folder: Annotated[Path | None, typer.Option(help="Where exported models are kept, and found.")] = None,
    threads: Annotated[int, typer.Option(help="Of each.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure and print a table."""
    warnings.simplefilter("ignore")
    os.environ["TVM_NUM_THREADS"] = str(threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        for name in (name for name in TRANSFORMERS if any(fnmatchcase(name, pattern) for pattern in only.split("|"))):
            rows.append(measure(name, folder or Path(temporary), threads, rounds))
            report(Console(width=120, stderr=True), rows[-1:])
            if json_file is not None:
                json_file.write_text(json.dumps(rows, indent=2) + "\n")
    report(Console(width=None if os.isatty(1) else 120), rows)


if __name__ == "__main__":
    typer.run(main)
