"""How fast planish's TVM backend runs models in float32, beside ONNX Runtime and torch's inductor, and beside what the CPU can do.

    pip install planish[tvm,benchmarks,examples]
    python benchmarks/tvm_backend.py [--rounds 30] [--only 'BERT*|MiniLM'] [--folder FOLDER] [--threads 2] [--json RESULTS.json]

The models are those of fusion.py and CNNs, batch 1. ONNX Runtime gets the file as torch's exporter's own optimizer leaves it, planish the one
from before (`cleanup,fuse`); `torch.compile` gets the module. All take turns in random order in one process, with as many threads; before
each turn there is a pause, for the threads of the one before spin for a while. Ratios are ONNX Runtime's or the inductor's time over
planish's, in turns of the same round: their median, and in brackets their quartiles; above 1 planish is faster. Behind them stands the
ratio of the fastest turns, which other work on the machine disturbs the least.

The peak is what a loop of multiply-adds on registers reaches on that many threads, in the same turns; the share of it is that of the
model's operations (two a multiply-add, as its convolutions are written: Winograd's algorithm does fewer) in planish's fastest turn.
"""

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or torch's threads spin into the turns of others

import numpy as np
import torch
import torchvision
import typer
from cleanup import EXPORTS, image_model, model_file, random_inputs
from fusion import MODELS, error_of, optimized_file, session_of
from rich.console import Console
from rich.table import Table
from tvm import compile as compile_kernel
from tvm.runtime import tensor
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target import Target

import planish
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.vectors import lanes_at, spread
from planish.ir.analysis.cost import summarize
from planish.targets.load import load_target

PAUSE, TURN = 0.05, 0.02
"""Seconds before a turn, and that it takes at the least. Threads of the one before spin; after 5 ms some still disturb it."""
WIDTH = 220
"""Of tables, where no terminal says it."""
STEPS = 1 << 16
"""Of the loop that shows the peak."""
CNNS = {
    name: image_model(lambda name=name: torchvision.models.get_model(name))
    for name in ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0")
}
TRANSFORMERS = ("MiniLM", "BERT-base", "ViT-B16", "GPT-2")
MODELS |= CNNS
EXPORTS |= CNNS
OURS, RUNTIME, INDUCTOR, PEAK = "planish", "ONNX Runtime", "inductor", "peak"


def peak(threads: int) -> tuple[Callable[[], object], int]:
    """A loop of multiply-adds on as many registers as products use, in each thread, and its operations."""
    target = load_target("native")
    machine = Machine.of(target)
    lanes, sums = machine.lanes, machine.registers * 3 // 4
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        x, y = (T.arg(name, T.buffer((threads, sums * lanes), "float32")) for name in "xy")
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        with T.parallel(0, threads) as thread:
            held = T.alloc_buffer((sums * lanes,), "float32")
            places = [lanes_at(index * lanes, lanes) for index in range(sums)]
            for place in places:
                T.buffer_store(held, x[thread, place], [place])
            factor = spread(x[thread, 0], lanes)
            with T.serial(0, STEPS):
                for place in places:
                    T.buffer_store(held, held[place] * factor + factor, [place])
            for place in places:
                T.buffer_store(y, held[place], [thread, place])
    kind = Target({"kind": "llvm", "mcpu": target.mcpu, "num-cores": threads})
    kernel = compile_kernel(builder.get(), target=kind)["main"]
    arrays = [tensor(np.full((threads, sums * lanes), 0.5, np.float32)) for _ in range(2)]
    return lambda: kernel(*arrays), 2 * STEPS * threads * sums * lanes


def runners(name: str, folder: Path, threads: int) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """What runs a model, by who does, and what is to be said of it."""
    source, optimized = model_file(name, folder), optimized_file(name, folder)
    assert source is not None
    assert optimized is not None
    graph = planish.optimize(planish.read(source), "cleanup,fuse").graph
    start = time.perf_counter()
    executable = planish.compile(graph, backend="tvm")
    row: dict[str, Any] = {"model": name, "compiled in": time.perf_counter() - start, "flops": summarize(graph).flops}
    session = session_of(optimized, threads)
    feeds = random_inputs(session, 32)
    named = dict(zip((port.name for port in executable.inputs), feeds.values(), strict=True))
    torch.manual_seed(0)
    module, inputs = MODELS[name]()
    compiled = torch.compile(module)

    def inductor() -> object:
        with torch.inference_mode():
            return compiled(**inputs)

    found = {OURS: lambda: executable(**named), RUNTIME: lambda: session.run(None, feeds), INDUCTOR: inductor}
    row["error"] = max(map(error_of, found[OURS](), found[RUNTIME]()))
    return found, row


def measure(name: str, folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    found, row = runners(name, folder, threads)
    found[PEAK], operations = peak(threads)
    times = turns(found, rounds)
    row["milliseconds"] = {who: 1e3 * float(np.median(seconds)) for who, seconds in times.items() if who != PEAK}
    row["ratios"] = {who: ratio(times[who], times[OURS]) for who in (RUNTIME, INDUCTOR)}
    row["peak"] = operations / min(times[PEAK]) / 1e9
    row["share"] = row["flops"] / min(times[OURS]) / 1e9 / row["peak"]
    return row


def turns(found: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds that each takes, in turns in random order."""
    times: dict[str, list[float]] = {who: [] for who in found}
    repeats: dict[str, int] = {}
    for who, run in found.items():
        run()
        start = time.perf_counter()
        run()
        repeats[who] = max(1, round(TURN / (time.perf_counter() - start)))
    random = np.random.default_rng(0)
    for _ in range(rounds):
        for who in random.permutation(list(found)):
            time.sleep(PAUSE)
            start = time.perf_counter()
            for _ in range(repeats[who]):
                found[who]()
            times[who].append((time.perf_counter() - start) / repeats[who])
    return times


def ratio(others: Sequence[float], ours: Sequence[float]) -> list[float]:
    """The quartiles of the ratios of turns of the same round, and the ratio of the fastest turns."""
    quartiles = np.quantile(np.divide(others, ours), [0.25, 0.5, 0.75])
    return [*map(float, quartiles), min(others) / min(ours)]


def measure_all(
    names: Iterable[str],
    measure: Callable[[str, Path], dict[str, Any]],
    report: Callable[[Console, list[dict[str, Any]]], None],
    folder: Path | None,
    json_file: Path | None,
) -> None:
    """Measure models one by one, with a table of each to stderr, and one of all to stdout."""
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        for name in names:
            rows.append(measure(name, folder or Path(temporary)))
            report(Console(width=WIDTH, stderr=True), rows[-1:])
            if json_file is not None:
                json_file.write_text(json.dumps(rows, indent=2) + "\n")
    report(Console(width=None if os.isatty(1) else WIDTH), rows)


def chosen(names: Iterable[str], only: str) -> list[str]:
    """The names that globs with | between them ask for."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in only.split("|"))]


def report(console: Console, rows: list[dict[str, Any]]) -> None:
    others = (RUNTIME, INDUCTOR)
    headers = [f"{who} / planish" for who in others]
    table = Table("model", "ms", *(f"{who} ms" for who in others), *headers, "of the peak", "error", "compiled in")
    for row in rows:
        low, middle, high, fastest = zip(*(row["ratios"][who] for who in others), strict=True)
        cells = (f"{m:.2f} ({a:.2f}-{b:.2f}) {f:.2f}" for a, m, b, f in zip(low, middle, high, fastest, strict=True))
        times = (f"{row['milliseconds'][who]:.2f}" for who in (OURS, *others))
        share = f"{100 * row['share']:.0f} % of {row['peak']:.0f} GFLOP/s"
        table.add_row(row["model"], *times, *cells, share, f"{row['error']:.0e}", f"{row['compiled in']:.0f} s")
    console.print(table)
    if rows:
        mean = np.exp(np.mean([np.log(row["ratios"][RUNTIME][1]) for row in rows]))
        console.print(f"geometric mean over {RUNTIME}: {mean:.2f}")


def main(
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 30,
    only: Annotated[str, typer.Option(help="A glob of models, or several with | between them.")] = "|".join(
        [*TRANSFORMERS, *CNNS]
    ),
    folder: Annotated[Path | None, typer.Option(help="Where exported models are kept, and found.")] = None,
    threads: Annotated[int, typer.Option(help="Of each.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure and print a table."""
    os.environ["TVM_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    measure_all(
        chosen(MODELS, only), lambda name, place: measure(name, place, threads, rounds), report, folder, json_file
    )


if __name__ == "__main__":
    typer.run(main)
