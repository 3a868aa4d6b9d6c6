"""How long a module takes to become an ONNX file: planish against torch's own exporter.

    pip install planish[build,benchmarks]
    python benchmarks/trace_speed.py [--rounds 5] [--threads 2] [--only 'bert*'] [--json RESULTS.json]

Both start from the same module in evaluation mode, with random weights, and end with a file and its weights on disk:
`planish.trace` and `planish.write` on one side, `torch.onnx.export(dynamo=True)` with its defaults on the other. They
take turns in one process, after one run each that isn't counted, and turns at being the first, which is the one to find
memory cold; a ratio is planish's time over torch's in the same round. CPU time tells the same on a machine that is busy
with other things. Each round has a batch of another size, and other names of symbols, so that neither side is served
from what it remembers of the last. What is written must compute what the module does.
"""

import gc
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import torch
import torchvision
import transformers
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.export import Dim

import planish


@dataclass(frozen=True, slots=True)
class Subject:
    """A module, example inputs by name, and which of their dimensions stay symbolic."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, Any]] | None = None


def image_model(name: str) -> nn.Module:
    module = torchvision.models.get_model(name)
    for parameter in module.parameters():
        if not parameter.any():  # a head of zeros gives zeros whatever comes before it
            nn.init.normal_(parameter, std=0.02)
    return module


MODULES: dict[str, Callable[[], nn.Module]] = {
    "resnet50": lambda: image_model("resnet50"),
    "vit_b_16": lambda: image_model("vit_b_16"),
    "bert-base": lambda: transformers.BertModel(transformers.BertConfig()),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False)),
}
MODELS = ("resnet50", "vit_b_16", "bert-base", "bert-base, dynamic", "gpt2", "gpt2, dynamic")


def subject_of(model: str, module: nn.Module, batch: int) -> Subject:
    """A module with a batch of inputs; of a dynamic model batch and sequence are symbolic."""
    if isinstance(module, transformers.PreTrainedModel):
        inputs = {"input_ids": torch.randint(0, 1000, (batch, 32))}
    else:
        inputs = {"x": torch.randn(batch, 3, 224, 224)}
    if model.startswith("bert"):
        inputs["attention_mask"] = torch.ones(batch, 32, dtype=torch.long)
    sizes = {0: Dim(f"batch{batch}"), 1: Dim(f"sequence{batch}", max=512)}
    return Subject(module, inputs, dict.fromkeys(inputs, sizes) if model.endswith("dynamic") else None)


def planish_exports(subject: Subject, file: Path) -> None:
    graph = planish.trace(subject.module, (), subject.inputs, dynamic_shapes=subject.dynamic)
    planish.write(graph, file)


def torch_exports(subject: Subject, file: Path) -> None:
    torch.onnx.export(
        subject.module,
        (),
        file,
        kwargs=dict(subject.inputs),
        dynamic_shapes=subject.dynamic,
        dynamo=True,
        verbose=False,
    )


EXPORTERS = (planish_exports, torch_exports)
Times = tuple[float, float]
"""Seconds by the clock, and of the processor."""


def timed(export: Callable[[Subject, Path], None], subject: Subject, file: Path) -> Times:
    gc.collect()
    clock, processor = time.perf_counter(), time.process_time()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        export(subject, file)
    return time.perf_counter() - clock, time.process_time() - processor


def timed_and_checked(export: Callable[[Subject, Path], None], subject: Subject) -> Times:
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        file = Path(folder, "model.onnx")
        times = timed(export, subject, file)
        check(subject, file)
    return times


def check(subject: Subject, file: Path) -> None:
    """Hold a file to the module's first output.

    Raises:
        SystemExit: it computes something else.
    """
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = subject.module(**subject.inputs)
    expected = (expected if isinstance(expected, Tensor) else expected[0]).numpy()
    result = session.run(None, {name: tensor.numpy() for name, tensor in subject.inputs.items()})[0]
    error = float(np.linalg.norm(result - expected) / np.linalg.norm(expected))
    if not error < 1e-3:
        raise SystemExit(f"{file} is wrong: relative error {error:.2g}")


def measure(model: str, rounds: int) -> dict[str, Any]:
    """Times of both exporters round by round, and their ratios."""
    torch.manual_seed(0)
    module = MODULES[model.partition(",")[0]]().eval()
    times: list[list[Times]] = []
    for turn in range(rounds + 1):
        subject = subject_of(model, module, batch=turn + 2)
        exporters = EXPORTERS if turn % 2 else EXPORTERS[::-1]
        taken = {export: timed_and_checked(export, subject) for export in exporters}
        times.append([taken[export] for export in EXPORTERS])
    counted = np.array(times[1:])  # rounds, exporters, clock and processor
    ratios = counted[:, 0] / counted[:, 1]
    return {
        "model": model,
        "planish seconds": counted[:, 0, 0].tolist(),
        "torch seconds": counted[:, 1, 0].tolist(),
        "ratio": np.quantile(ratios[:, 0], (0.25, 0.5, 0.75)).tolist(),
        "processor ratio": np.quantile(ratios[:, 1], (0.25, 0.5, 0.75)).tolist(),
    }


def main(
    rounds: Annotated[int, typer.Option(help="Counted runs of each exporter.")] = 5,
    threads: Annotated[int, typer.Option(help="Threads of both exporters.")] = 2,
    only: Annotated[str, typer.Option(help="A glob on the names of models.")] = "*",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure every model, print a table, and fail if a median ratio is above a half."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    results = [measure(name, rounds) for name in MODELS if fnmatchcase(name, only)]
    table = Table(
        "model", "planish", "torch", "ratio", "processor time", title="Seconds to an ONNX file: median [quartiles]"
    )
    for result in results:
        seconds = (f"{np.median(result[key]):.2f}" for key in ("planish seconds", "torch seconds"))
        ratios = (result[key] for key in ("ratio", "processor ratio"))
        table.add_row(result["model"], *seconds, *(f"{mid:.2f} [{low:.2f}, {high:.2f}]" for low, mid, high in ratios))
    Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps({"threads": threads, "models": results}, indent=2) + "\n")
    raise SystemExit(int(any(result["ratio"][1] > 0.5 for result in results)))


if __name__ == "__main__":
    typer.run(main)
