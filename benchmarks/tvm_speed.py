"""How fast planish's TVM backend runs models, beside ONNX Runtime, OpenVINO, torch's inductor and the CPU's peak.

    pip install planish[build,tvm,benchmarks,examples]
    python benchmarks/tvm_speed.py [--rounds 30] [--only 'BERT*|MiniLM'] [--folder FOLDER] [--threads 2]
                                   [--json RESULTS.json]

Transformers and CNNs, batch 1. But for MiniLM their weights are random; those of the CNNs and of ViT-B/16 are settled
as those of the zoo are (`zoo/settle.py`): else numbers vanish on the way, or are too large for int8. planish runs each
in float32 (`cleanup,fuse`), in int8 (CNNs as `quantize` does it by default, transformers by `DYNAMIC`, which needs no
data and has attention in bfloat16), and in bfloat16 (`reduce-precision`). ONNX Runtime gets the file as torch's
exporter's own optimizer leaves it, what its static quantization makes of that (uint8 activations, int8 weights;
products alone in transformers) and, of transformers, its dynamic one. OpenVINO gets the file, which it computes in
bfloat16 where the CPU can, and what NNCF makes of it, of which it computes the rest so; `torch.compile` gets the
module. All that is calibrated is calibrated on the same batches.

All take turns in random order in one process, with as many threads; before each turn there is a pause, for the threads
of the one before spin for a while. Ratios are another's time over planish's, in turns of the same round: their median,
and in brackets their quartiles; above 1 planish is faster. Behind them stands the ratio of the fastest turns, which
other work on the machine disturbs the least.

A peak is what a loop of multiply-adds on registers reaches, in the same turns (`peaks.py`); the share of it is that of
the model's operations (two a multiply-add, as its products are written: Winograd's algorithm does fewer) in planish's
fastest turn. The error is the largest of any output, relative to it (L2); cosines are those of the first output with
ONNX Runtime's in float32, the worst over the batches. A model is built twice, with an empty cache of kernels and with a
full one. Bytes for a parameter are those of the artifact's constants, and of its code, over the network's parameters.
"""

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or torch's threads spin into the turns of others

import numpy as np
import torch
import torchvision
import tvm_peers as peers
import typer
from cleanup import EXPORTS, chosen, export, random_inputs, relative_error
from fusion import ratios, session_of
from peaks import peak
from rich.console import Console
from rich.table import Table
from turns import in_turns, seconds_of, warm_seconds
from zoo.settle import settle
from zoo.subject import Subject, images

import planish
from planish.backends import Executable, find_backend
from planish.backends.artifact import write_artifact
from planish.ir.analysis.cost import summarize
from planish.targets.load import load_target

PAUSE, TURN = 0.05, 0.02
"""Seconds before a turn, and of a turn at least; threads of the turn before still spin, and disturb it, after 5 ms."""
WIDTH = 200
"""The width of tables, where no terminal says it."""
BATCHES = 16
"""The number of batches to calibrate on."""
STATIC, DYNAMIC = "quantize", "quantize{scheme=int8-dynamic,per_row=true},reduce-precision"
OURS, OURS_INT8, OURS_BFLOAT16 = "planish", "planish int8", "planish bfloat16"
PRECISIONS = {"float32": OURS, "int8": OURS_INT8, "bfloat16": OURS_BFLOAT16}
RUNTIME, INDUCTOR = "ONNX Runtime", "inductor"
OPENVINO, NNCF = "OpenVINO", "OpenVINO + NNCF"
RUNTIME_STATIC, RUNTIME_DYNAMIC = "ONNX Runtime static", "ONNX Runtime dynamic"
RIVALS = {
    "float32": (RUNTIME, INDUCTOR),
    "int8": (NNCF, RUNTIME_STATIC, RUNTIME_DYNAMIC, RUNTIME),
    "bfloat16": (OURS, OPENVINO, RUNTIME),
}

Feeds = Mapping[str, np.ndarray]
Run = Callable[[Feeds], Sequence[np.ndarray]]


def settled(name: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    subject = Subject(torchvision.models.get_model(name).eval(), images(3, 224, 224))
    return settle(subject).module, {"x": torch.randn(1, 3, 224, 224)}


TRANSFORMERS = ("MiniLM", "BERT-base", "vit_b_16", "GPT-2")
CNNS = ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0")
SETTLED = {name: lambda name=name: settled(name) for name in ("vit_b_16", *CNNS)}
EXPORTS |= SETTLED


def exported(name: str, folder: Path) -> tuple[Path, Path]:
    """A model's files as cleanup.py and fusion.py have them, but apart: theirs of the same names aren't settled."""
    place = folder / "settled"
    place.mkdir(parents=True, exist_ok=True)
    return export(name, place, optimize=False), export(name, place, optimize=True)


def inputs_like(feeds: Feeds, count: int) -> list[dict[str, np.ndarray]]:
    """Inputs of the same kind; the first ones are these."""
    random = np.random.default_rng(1)

    def again(name: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "f":
            return random.standard_normal(array.shape).astype(array.dtype)
        return array if "mask" in name else random.integers(0, 50, array.shape, array.dtype)

    return [dict(feeds), *({name: again(name, array) for name, array in feeds.items()} for _ in range(count - 1))]


def compiled(graph: planish.Graph) -> tuple[Executable, dict[str, int]]:
    """A graph as TVM runs it, and the bytes of its artifact's constants and code."""
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        folder = Path(temporary) / "artifact"
        files = write_artifact(folder, graph, find_backend("tvm"), load_target("native"))["files"]
        constants = files["weights.bin"]["size"]
        code = sum(file["size"] for file in files.values()) - constants
        return planish.load(folder), {"constants": constants, "code": code}


def ours(source: Path, pipelines: Mapping[str, str], batches: Sequence[Feeds]) -> tuple[dict[str, Run], dict[str, Any]]:
    """How planish runs a model, and what is to be said of it: operations, and seconds of first and second builds."""
    graph = planish.optimize(planish.read(source), "cleanup,fuse").graph
    data = [dict(zip((value.name for value in graph.inputs), batch.values(), strict=True)) for batch in batches]
    found: dict[str, Run] = {}
    cost = summarize(graph)
    row: dict[str, Any] = {"flops": cost.flops, "builds": {}, "bytes": {}}
    for who, pipeline in pipelines.items():
        changed = planish.optimize(graph, pipeline, data=data).graph
        row["builds"][who] = []
        for _ in range(2):
            start = time.perf_counter()
            executable, held = compiled(changed)
            row["builds"][who].append(time.perf_counter() - start)
        row["bytes"][who] = {name: size / cost.parameters for name, size in held.items()}
        found[who] = lambda batch, executable=executable: executable(*batch.values())
    return found, row


def runners(
    name: str, folder: Path, threads: int
) -> tuple[dict[str, Run], list[dict[str, np.ndarray]], dict[str, Any]]:
    """Who runs a model, on what, and what is to be said of how planish does."""
    source, optimized = exported(name, folder)
    is_text = name in TRANSFORMERS
    batches = inputs_like(random_inputs(session_of(optimized, threads), 32), BATCHES)
    pipelines = {OURS: "", OURS_INT8: DYNAMIC if is_text else STATIC, OURS_BFLOAT16: "reduce-precision"}
    found, row = ours(source, pipelines, batches)
    torch.manual_seed(0)
    module, inputs = EXPORTS[name]()
    compiled = torch.compile(module)

    def inductor(_batch: Feeds) -> Any:
        with torch.inference_mode():
            return compiled(**inputs)

    found |= {
        RUNTIME: peers.onnxruntime(optimized, threads),
        INDUCTOR: inductor,
        RUNTIME_STATIC: peers.onnxruntime_static(optimized, batches, threads, is_text=is_text),
        OPENVINO: peers.openvino_bfloat16(optimized, threads),
        NNCF: peers.openvino_int8(optimized, batches, threads, is_text=is_text),
    }
    if is_text:
        found[RUNTIME_DYNAMIC] = peers.onnxruntime_dynamic(optimized, threads)
    return found, batches, row


def measure(name: str, folder: Path, threads: int, rounds: int) -> dict[str, Any]:
    found, batches, row = runners(name, folder, threads)
    precisions = {precision: who for precision, who in PRECISIONS.items() if who in found}
    outputs = {
        who: [list(map(np.array, run(batch))) for batch in batches[:4]] for who, run in found.items() if who != INDUCTOR
    }
    row |= {"model": name, "error": max(map(relative_error, outputs[OURS][0], outputs[RUNTIME][0]))}
    row["cosine"] = {
        who: min(cosine(run[0], reference[0]) for run, reference in zip(made, outputs[RUNTIME], strict=True))
        for who, made in outputs.items()
    }
    contest: dict[str, Callable[[], object]] = {who: lambda run=run: run(batches[0]) for who, run in found.items()}
    operations: dict[str, int] = {}
    for precision in precisions:
        contest[precision], operations[precision] = peak(precision, threads)
    times = timed(contest, rounds)
    row["milliseconds"] = {who: 1e3 * float(np.median(times[who])) for who in found}
    row["ratios"] = {
        precision: {
            rival: [*ratios(times, rival, who), times[rival].min() / times[who].min()]
            for rival in RIVALS[precision]
            if rival in times
        }
        for precision, who in precisions.items()
    }
    row["peak"] = {precision: count / min(times[precision]) / 1e9 for precision, count in operations.items()}
    row["share"] = {
        precision: row["flops"] / min(times[who]) / 1e9 / row["peak"][precision]
        for precision, who in precisions.items()
    }
    return row


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (array.astype(np.float64).ravel() for array in (a, b))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def timed(contest: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds that each takes, in turns in random order."""
    repeats = {run: max(1, round(TURN / warm_seconds(run))) for run in contest.values()}

    def turn(run: Callable[[], object]) -> float:
        time.sleep(PAUSE)
        return seconds_of(run, repeats[run])

    return dict(zip(contest, in_turns(list(repeats), turn, rounds, shuffled=True), strict=True))


def report(console: Console, rows: list[dict[str, Any]]) -> None:
    """A table for each precision."""
    for precision, who in PRECISIONS.items():
        rivals, chosen = RIVALS[precision], [row for row in rows if precision in row["ratios"]]
        last = ("of the peak", "error" if who == OURS else "cosines", "built in", "bytes for a parameter")
        table = Table("model", "ms", *rivals, *last, title=f"time over that of {who}", show_lines=True)
        for row in chosen:
            ratios = [row["ratios"][precision].get(rival) for rival in rivals]
            cells = ["{1:.2f} ({0:.2f}-{2:.2f}) {3:.2f}".format(*found) if found else "" for found in ratios]
            share = f"{100 * row['share'][precision]:.0f} % of {row['peak'][precision]:.0f}"
            builds = ", ".join(f"{seconds:.1f} s" for seconds in row["builds"][who])
            milliseconds = f"{row['milliseconds'][who]:.2f}"
            held = ", ".join(f"{name} {size:.2f}" for name, size in row["bytes"][who].items())
            table.add_row(row["model"], milliseconds, *cells, share, fidelity(row, precision), builds, held)
        if chosen:
            console.print(table)
    if len(rows) > 1:
        mean = np.exp(np.mean([np.log(row["ratios"]["float32"][RUNTIME][1]) for row in rows]))
        console.print(f"geometric mean over {RUNTIME} in float32: {mean:.2f}")


def fidelity(row: dict[str, Any], precision: str) -> str:
    if precision == "float32":
        return f"{row['error']:.0e}"
    shown = (PRECISIONS[precision], *(rival for rival in RIVALS[precision] if rival not in (OURS, RUNTIME)))
    return "\n".join(f"{row['cosine'][who]:.5f} {who}" for who in shown if who in row["cosine"])


def main(
    rounds: Annotated[int, typer.Option(help="Turns of each runtime.")] = 30,
    only: Annotated[str, typer.Option(help="A glob of models, or several with | between them.")] = "*",
    folder: Annotated[Path | None, typer.Option(help="A folder where exported models are kept, and found.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of each runtime.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure and print tables: of each model to stderr, and of all to stdout."""
    warnings.simplefilter("ignore")
    os.environ["TVM_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name in chosen((*TRANSFORMERS, *CNNS), only):
        with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
            os.environ["PLANISH_CACHE"] = f"{temporary}/cache"
            rows.append(measure(name, folder or Path(temporary), threads, rounds))
        report(Console(width=WIDTH, stderr=True), rows[-1:])
        if json_file is not None:
            json_file.write_text(json.dumps(rows, indent=2) + "\n")
    report(Console(width=None if os.isatty(1) else WIDTH), rows)


if __name__ == "__main__":
    typer.run(main)
