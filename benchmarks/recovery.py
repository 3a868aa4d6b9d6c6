"""What training brings back of what pruning and rounding take, with default options and few samples without labels.

    pip install -e ".[dev,benchmarks,examples]"
    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb FOLDER
    python benchmarks/recovery.py MODEL... [--root FOLDER] [--ratio 0.3 --ratio 0.5] [--seeds 3] [--samples 2000]

The models are `resnet20`, `mobilenet_v2`, `deit` and `vit`, trained here on Fashion-MNIST or read from `--cache`, and
`minilm` and `ocr` as packages ship them. Each is pruned by `prune-channels` in that ratio, distilled and quantized, and
the same without `distill`. Change is the metric's, beside the untouched model, with an interval that holds 95 % of
resamples of the examples.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import quantization_scores as scores
import typer
from quantization_subjects import Outputs, Subject
from rich.console import Console
from rich.table import Table
from subjects import Model
from subjects import subject as make

import planish

PIPELINES = ("prune-channels{{ratio={0}}},quantize", "prune-channels{{ratio={0}}},distill,quantize")


def main(
    models: Annotated[list[Model], typer.Argument(help="The models to prune and quantize.")],
    root: Annotated[Path, typer.Option(help="The folder where data are unpacked.")] = Path("/"),
    cache: Annotated[Path, typer.Option(help="The folder where trained models are kept.")] = Path("recovery-cache"),
    ratio: Annotated[list[float] | None, typer.Option(help="The share of channels that goes; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(help="Draws of the samples.")] = 3,
    samples: Annotated[int, typer.Option(help="Samples for the passes, without labels.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Epochs of training, where a network is trained.")] = 3,
    limit: Annotated[int, typer.Option(help="Batches to judge on.")] = 10_000,
    backend: Annotated[str, typer.Option(help="The backend that layers are timed on.")] = "onnxruntime",
) -> None:
    """Print what every pipeline leaves of the models."""
    for model in models:
        with tempfile.TemporaryDirectory() as work:
            subject = make(model, Path(work), root, cache, epochs)
        whole = planish.optimize(subject.graph, "cleanup,fuse", verify="structure").graph
        exact = subject.outputs(whole, limit)
        reference = subject.score(exact, exact).astype(float)
        columns = ["pipeline", "seed", subject.metric, "change", *subject.measures, "minutes"]
        table = Table(*columns, title=f"{model}, {len(reference)} examples")
        table.add_row("", "", f"{reference.mean():.4f}", "", *_measures(subject, exact, exact), "")
        count = samples // len(next(iter(subject.pool[0].values())))
        for pipeline in (text.format(share) for share in ratio or [0.3, 0.5] for text in PIPELINES):
            changes: list[float] = []
            for seed in range(seeds):
                start = time.perf_counter()
                data = subject.calibration(seed, count)
                graph = planish.optimize(whole, pipeline, data=data, seed=seed, backend=backend).graph
                minutes = (time.perf_counter() - start) / 60
                outputs = subject.outputs(graph, limit)
                found = subject.score(outputs, exact).astype(float)
                change = scores.difference(found, reference)
                changes.append(change.value)
                measures = _measures(subject, outputs, exact)
                table.add_row(pipeline, str(seed), f"{found.mean():.4f}", change.text(4), *measures, f"{minutes:.1f}")
                told = f"{model} {pipeline} {seed}: {found.mean():.4f}, {change.text(4)} in {minutes:.1f} min; "
                told += ", ".join(map(": ".join, zip(subject.measures, measures, strict=True)))
                Console(stderr=True, soft_wrap=True).print(told, markup=False)
            middle = float(np.median(changes))
            table.add_row(pipeline, "median", f"{reference.mean() + middle:.4f}", f"{middle:.4f}")
        Console(width=160).print(table)


def _measures(subject: Subject, found: Outputs, exact: Outputs) -> list[str]:
    return [f"{measure(found, exact):.4f}" for measure in subject.measures.values()]


if __name__ == "__main__":
    typer.run(main)
