"""How fast planish's TVM backend runs quantized models, beside OpenVINO with NNCF and ONNX Runtime, and beside what the CPU can do.

    pip install planish[tvm,benchmarks,examples]
    python benchmarks/tvm_int8.py [--rounds 30] [--only 'BERT*|MiniLM'] [--folder FOLDER] [--threads 2] [--json RESULTS.json]

The models are those of tvm_backend.py, batch 1; but for MiniLM their weights are random. planish quantizes CNNs as `quantize` does
by default, and transformers by `DYNAMIC`, which needs no data, with attention in bfloat16. OpenVINO gets what NNCF makes of the file as torch's exporter's own optimizer
leaves it, ONNX Runtime what its static quantization makes of that (uint8 activations, int8 weights; products alone in
transformers) and, of transformers, its dynamic one. All that is calibrated is calibrated on the same batches.

All take turns in random order in one process, with as many threads, after a pause. Ratios are another's time over planish's, in turns of the same
round: their median, and in brackets their quartiles; above 1 planish is faster. Behind them stands the ratio of the fastest
turns, which other work on the machine disturbs the least. The peak is what a loop of VNNI's multiply-adds on registers reaches, in the
same turns; the share of it is that of the model's operations in planish's fastest turn. Cosines are those of the first output with
float32's, the worst over the batches.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tvm_peers as peers
import typer
from cleanup import model_file, random_inputs
from fusion import optimized_file, session_of
from rich.console import Console
from rich.table import Table
from tvm import compile as compile_kernel
from tvm.runtime import tensor
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target import Target
from tvm_backend import CNNS, STEPS, TRANSFORMERS, chosen, measure_all, ratio, turns

import planish
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.vectors import lanes_at, spread
from planish.ir.analysis.cost import summarize
from planish.passes.manager import Verify
from planish.targets.load import load_target

STATIC, DYNAMIC = "quantize", "quantize{scheme=int8-dynamic,per_row=true},reduce-precision"
BATCHES = 16
"""To calibrate on."""
OURS, NNCF, PEAK = "planish", "OpenVINO + NNCF", "peak"
FLOAT, RUNTIME, RUNTIME_DYNAMIC = "ONNX Runtime float32", "ONNX Runtime", "ONNX Runtime dynamic"

Feeds = Mapping[str, np.ndarray]


def byte_peak(threads: int) -> tuple[Callable[[], object], int]:
    """A loop of VNNI's multiply-adds on as many registers as products use, in each thread, and its operations."""
    target = load_target("native")
    machine = Machine.of(target)
    lanes, sums = machine.lanes, machine.registers * 3 // 4
    multiply_add = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512")
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x = T.arg("x", T.buffer((threads, lanes * 4), "int8"))
        y = T.arg("y", T.buffer((threads, sums * lanes), "int32"))
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        with T.parallel(0, threads) as thread:
            held = T.alloc_buffer((sums * lanes,), "int32")
            places = [lanes_at(index * lanes, lanes) for index in range(sums)]
            for place in places:
                T.buffer_store(held, spread(T.int32(0), lanes), [place])
            factors = x[thread, lanes_at(0, lanes * 4)]
            with T.serial(0, STEPS):
                for place in places:
                    found = T.call_llvm_pure_intrin(multiply_add, held[place], factors, factors, dtype=f"int32x{lanes}")
                    T.buffer_store(held, found, [place])
            for place in places:
                T.buffer_store(y, held[place], [thread, place])
    kind = Target({"kind": "llvm", "mcpu": target.mcpu, "num-cores": threads})
    kernel = compile_kernel(builder.get(), target=kind)["main"]
    arrays = [tensor(np.ones((threads, lanes * 4), np.int8)), tensor(np.zeros((threads, sums * lanes), np.int32))]
    return lambda: kernel(*arrays), 2 * STEPS * threads * sums * lanes * 4


def inputs_like(feeds: Feeds, count: int) -> list[dict[str, np.ndarray]]:
    """Inputs of the same kind; the first ones are these."""
    random = np.random.default_rng(1)

    def again(name: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "f":
            return random.standard_normal(array.shape).astype(array.dtype)
        return array if "mask" in name else random.integers(0, 50, array.shape, array.dtype)

    return [dict(feeds), *({name: again(name, array) for name, array in feeds.items()} for _ in range(count - 1))]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (array.astype(np.float64).ravel() for array in (a, b))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def runners(name: str, folder: Path, threads: int) -> tuple[dict[str, Any], list[dict[str, np.ndarray]], int]:
    """Who runs a model as a function of its inputs; these; and its operations."""
    source, optimized = model_file(name, folder), optimized_file(name, folder)
    assert source is not None
    assert optimized is not None
    is_text = name in TRANSFORMERS
    batches = inputs_like(random_inputs(session_of(optimized, threads), 32), BATCHES)
    graph = planish.read(source)
    ports = [value.name for value in graph.inputs]
    data = [dict(zip(ports, batch.values(), strict=True)) for batch in batches]
    pipeline = f"cleanup,fuse,{DYNAMIC if is_text else STATIC}"
    quantized = planish.optimize(graph, pipeline, data=data).graph
    executable = planish.compile(quantized, backend="tvm")
    found = {
        OURS: lambda batch: executable(*batch.values()),
        FLOAT: peers.onnxruntime(optimized, threads),
        RUNTIME: peers.onnxruntime_static(optimized, batches, threads, is_text=is_text),
        NNCF: peers.openvino_int8(optimized, batches, threads, is_text=is_text),
    }
    if is_text:
        found[RUNTIME_DYNAMIC] = peers.onnxruntime_dynamic(optimized, threads)
    return found, batches, summarize(planish.optimize(graph, "cleanup,fuse", verify=Verify.STRUCTURE).graph).flops


def measure(name: str, folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    found, batches, flops = runners(name, folder, threads)
    outputs = {who: [run(batch)[0] for batch in batches[:4]] for who, run in found.items()}
    row: dict[str, Any] = {"model": name}
    row["cosine"] = {who: min(map(cosine, made, outputs[FLOAT])) for who, made in outputs.items() if who != FLOAT}
    loop, operations = byte_peak(threads)
    times = turns({who: lambda run=run: run(batches[0]) for who, run in found.items()} | {PEAK: loop}, rounds)
    row["milliseconds"] = {who: 1e3 * float(np.median(seconds)) for who, seconds in times.items() if who != PEAK}
    row["ratios"] = {who: ratio(times[who], times[OURS]) for who in found if who != OURS}
    row["peak"] = operations / min(times[PEAK]) / 1e9
    row["share"] = flops / min(times[OURS]) / 1e9 / row["peak"]
    return row


def report(console: Console, rows: list[dict[str, Any]]) -> None:
    others = (NNCF, RUNTIME, RUNTIME_DYNAMIC, FLOAT)
    table = Table("model", "ms", *(f"{who} / planish" for who in others), "of the peak", "cosines")
    for row in rows:
        cells = [
            "{1:.2f} ({0:.2f}-{2:.2f}) {3:.2f}".format(*row["ratios"][who]) if who in row["ratios"] else ""
            for who in others
        ]
        share = f"{100 * row['share']:.0f} % of {row['peak']:.0f} GOP/s"
        cosines = ", ".join(f"{who} {value:.4f}" for who, value in row["cosine"].items())
        table.add_row(row["model"], f"{row['milliseconds'][OURS]:.2f}", *cells, share, cosines)
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
    names = chosen((*TRANSFORMERS, *CNNS), only)
    measure_all(names, lambda name, place: measure(name, place, threads, rounds), report, folder, json_file)


if __name__ == "__main__":
    typer.run(main)
