"""What is left of trained models by each importance that `prune-channels` has, with few samples and without training.

    pip install -e ".[dev,benchmarks,examples]"
    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb FOLDER
    python benchmarks/importances.py MODEL... [--root FOLDER] [--amount ratio=0.3 --amount ratio=0.5] [--seeds 3]

The models are those of `subjects.py`. Each is pruned before `fuse`, with layers fitted to what they computed before and
without; the metric is printed for each draw of the samples, with the share of the operations that is left.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated, get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import typer
from quantization_subjects import Subject
from rich.console import Console
from rich.table import Table
from subjects import Model
from subjects import subject as make

import planish
from planish.ir.analysis.cost import sizes_in, summarize
from planish.ir.graph import Graph
from planish.passes.pruning.importance import Importance


def main(
    models: Annotated[list[Model], typer.Argument(help="The models to prune.")],
    root: Annotated[Path, typer.Option(help="The folder where data are unpacked.")] = Path("/"),
    cache: Annotated[Path, typer.Option(help="The folder where trained models are kept.")] = Path("trained"),
    amount: Annotated[list[str] | None, typer.Option(help="How much goes; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(help="Draws of the samples.")] = 3,
    samples: Annotated[int, typer.Option(help="Samples for the pass, without labels.")] = 512,
    epochs: Annotated[int, typer.Option(help="Epochs of training, where a network is trained.")] = 2,
    limit: Annotated[int, typer.Option(help="Batches to judge on.")] = 10_000,
) -> None:
    """Print what every importance leaves of the models."""
    for model in models:
        with tempfile.TemporaryDirectory() as work:
            subject = make(model, Path(work), root, cache, epochs)
        whole = planish.optimize(subject.graph, "cleanup", verify="structure").graph
        exact = subject.outputs(whole, limit)
        reference = subject.score(exact, exact).astype(float)
        columns = ("amount", "importance", "fitted", subject.metric, "mean", "operations left, %")
        table = Table(*columns, title=f"{model}: {reference.mean():.4f} of {len(reference)} examples, whole")
        for share in amount or ["ratio=0.3", "ratio=0.5"]:
            for importance in get_args(Importance)[1:]:
                for repair in ("false", "true"):
                    options = f"{share},importance={importance},repair={repair}"
                    graphs = [_pruned(subject, options, seed, samples) for seed in range(seeds)]
                    outputs = [subject.outputs(graph, limit) for graph in graphs]
                    found = [subject.score(it, exact).astype(float).mean() for it in outputs]
                    left = np.mean([_operations(subject, graph) for graph in graphs]) / _operations(subject, whole)
                    told = (" ".join(f"{it:.4f}" for it in found), f"{np.mean(found):.4f}", f"{100 * left:.0f}")
                    table.add_row(share, importance, repair, *told)
                    Console(stderr=True, soft_wrap=True).print(f"{model} {options}: {', '.join(told)}", markup=False)
        Console(width=140).print(table)


def _pruned(subject: Subject, options: str, seed: int, samples: int) -> Graph:
    """The model by a draw of the samples."""
    data = subject.calibration(seed, max(samples // len(next(iter(subject.pool[0].values()))), 1))
    pipeline = f"cleanup,prune-channels{{{options}}}"
    return planish.optimize(subject.graph, pipeline, data=data, seed=seed, verify="structure").graph


def _operations(subject: Subject, graph: Graph) -> int:
    return summarize(graph, sizes_in(graph, subject.pool[0])).flops


if __name__ == "__main__":
    typer.run(main)
