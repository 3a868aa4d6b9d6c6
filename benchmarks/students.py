"""What a teacher is worth to a student of another architecture: images of clothes, beside training on labels alone.

    pip install -e ".[dev,benchmarks]"
    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb FOLDER
    python benchmarks/students.py [--root FOLDER] [--samples 4000] [--epochs 8] [--seeds 3] [--teacher-epochs 2]

The teacher is a CNN of three convolutions with 32 to 128 channels, trained here or read from `--cache`; the student has
two with 8 and 16, and random weights. It is trained on the same images for as many epochs with labels, by the teacher
without labels, and by both. Change is that of the accuracy beside labels alone on the 10,000 images of the test, with
an interval that holds 95 % of resamples, and McNemar's test.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import quantization_scores as scores
import torch
import typer
from quantization_trained import fashion, small_cnn
from rich.console import Console
from rich.table import Table
from torch import nn

import planish
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter

BATCH = 50


def student(seed: int) -> Graph:
    """A small network with random weights."""
    torch.manual_seed(seed)
    narrow = (nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())
    module = nn.Sequential(*narrow, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(144, 10)).eval()
    shapes = ({0: torch.export.Dim("batch", max=4096)},)
    return planish.trace(module, (torch.randn(2, 1, 28, 28),), dynamic_shapes=shapes)


def right(graph: Graph, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each image gets its class."""
    interpreter, (name,) = Interpreter(graph), [value.name for value in graph.inputs]
    parts = [images[start : start + 500] for start in range(0, len(images), 500)]
    found = [next(iter(interpreter.run({name: part}).values())).argmax(-1) for part in parts]
    return np.concatenate(found) == labels


def main(
    root: Annotated[Path, typer.Option(help="The folder where the data are unpacked.")] = Path("/"),
    cache: Annotated[Path, typer.Option(help="The folder where the teacher is kept.")] = Path("students-cache"),
    samples: Annotated[int, typer.Option(help="Images to learn from.")] = 4000,
    epochs: Annotated[int, typer.Option(help="Epochs of the student's training.")] = 8,
    seeds: Annotated[int, typer.Option(help="Draws of images and weights.")] = 3,
    teacher_epochs: Annotated[int, typer.Option(help="Epochs of the teacher's training.")] = 2,
    temperature: Annotated[
        float, typer.Option(help="The temperature of the teacher's scores; 0 leaves it to `distill`.")
    ] = 0.0,
) -> None:
    """Print what students of a teacher and of labels get right."""
    images, labels = fashion(root, "train", 28, 1)
    held = fashion(root, "t10k", 28, 1)
    table = Table("seed", "taught by", "accuracy", "change", "McNemar", "minutes")
    with tempfile.TemporaryDirectory() as folder:
        teacher = small_cnn(Path(folder), root, cache, teacher_epochs).graph
        path = Path(folder, "teacher.planish")
        planish.write(teacher, path)
        table.add_row("", "the teacher itself", f"{right(teacher, *held).mean():.4f}", "", "", "")
        taught = {"teacher": str(path), "epochs": epochs, "temperature": temperature}
        pipelines = {
            "labels": {"fine-tune": {"epochs": epochs}},
            "the teacher": {"distill": taught},
            "both": {"distill": {**taught, "label_weight": 0.3}},
        }
        for seed in range(seeds):
            drawn = np.random.default_rng(seed).permutation(len(images))[:samples].reshape(-1, BATCH)
            data = [(images[rows], labels[rows]) for rows in drawn]
            graph, reference = student(seed), np.zeros(0, bool)
            for name, pipeline in pipelines.items():
                start = time.perf_counter()
                made = planish.optimize(graph, ["cleanup", pipeline], data=data, seed=seed, verify="structure").graph
                minutes = f"{(time.perf_counter() - start) / 60:.1f}"
                found = right(made, *held)
                cells = ["", ""]
                if len(reference):
                    change = scores.difference(found.astype(float), reference.astype(float)).text(4)
                    cells = [change, f"{scores.mcnemar(found, reference):.1e}"]
                reference = reference if len(reference) else found
                table.add_row(str(seed), name, f"{found.mean():.4f}", *cells, minutes)
                Console(stderr=True).print(seed, name, f"{found.mean():.4f}", *cells, minutes, markup=False)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
