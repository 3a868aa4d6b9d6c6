"""What passes that compress cost with default options, and whether it matters that they come behind `fuse`."""

import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import numpy as np
import quantization_scores as scores
import subjects
import typer
from quantization_subjects import Outputs, Subject
from rich.console import Console
from rich.table import Table

import planish
from planish.driver.data import ports_of, single_sample
from planish.ir.analysis.cost import sizes_in, summarize
from planish.ir.errors import PlanishError
from planish.passes.base import Effect

DEFAULTS = (
    "cleanup,prune-channels",
    "cleanup,fuse,prune-channels",
    "cleanup,fuse,prune-blocks",
    "cleanup,fuse,factorize",
    "cleanup,fuse,sparsify",
    "cleanup,fuse,quantize",
    "cleanup,fuse,quantize-mixed",
)
RATIOS = ("cleanup,prune-channels{ratio=0.3},fuse", "cleanup,fuse,prune-channels{ratio=0.3}")
ORDERS = (RATIOS, DEFAULTS[:2])
"""Pipelines whose results should be alike."""

LOG = Console(stderr=True, highlight=False, width=200)


@dataclass(frozen=True, slots=True)
class Made:
    """What a pipeline has made of a model.

    Attributes:
        losses: the loss of each example, in points.
        left: the parameters, bytes and operations that are left, in percent; empty where nothing was made.
        seconds: the processor seconds that the pipeline took.
        said: why there is nothing, or what else is known.
    """

    losses: np.ndarray = field(default_factory=lambda: np.zeros(0))
    left: Sequence[float] = ()
    seconds: float = 0.0
    said: str = ""


def defaults(
    models: Annotated[list[subjects.Model], typer.Argument(help="The models to compress.")],
    root: Annotated[Path, typer.Option(help="The folder where data are unpacked.")] = Path("/"),
    cache: Annotated[Path, typer.Option(help="The folder where trained weights are kept.")] = Path("trained"),
    seeds: Annotated[int, typer.Option(help="Draws of samples.")] = 1,
    samples: Annotated[int, typer.Option(help="Samples to calibrate on, without labels.")] = 256,
    epochs: Annotated[int, typer.Option(help="Epochs of training, where a network is trained.")] = 2,
    limit: Annotated[int, typer.Option(help="Batches to judge on.")] = 10_000,
    only: Annotated[list[str] | None, typer.Option(help="A glob of pipelines; may be repeated.")] = None,
) -> None:
    """Print what each pass loses by its default options, or says, and what the order of `fuse` and pruning is worth."""
    warnings.simplefilter("ignore")  # what is doubted is among the notes
    wanted = [steps for steps in (*DEFAULTS, *RATIOS) if any(fnmatchcase(steps, glob) for glob in only or ("*",))]
    for model in models:
        with tempfile.TemporaryDirectory() as work:
            subject = subjects.subject(model, Path(work), root, cache, epochs)
        press = Press(replace(subject, test=subject.test[:limit]), samples)
        title = f"{model}, {press}"
        left = "parameters, bytes, operations left, %"
        table = Table("pipeline", "seed", "points lost", left, "CPU s", "what is noted", title=title)
        LOG.print(title, markup=False)
        for seed in range(seeds):
            made: dict[str, Made] = {}
            for pipeline in wanted:
                made[pipeline] = press.make(pipeline, seed)
                row = _row(made[pipeline])
                table.add_row(pipeline, str(seed), *row)
                LOG.print(f"{model} {pipeline} {seed}: {'; '.join(row)}", markup=False)
            for row in _orders(made):
                table.add_row(row[0], str(seed), row[1])
                LOG.print(f"{model} {row[0]} {seed}: {row[1]}", markup=False)
        Console(width=200).print(table)


class Press:
    """Runs pipelines on a model.

    Args:
        subject: the model with its data.
        samples: the number of samples to calibrate on, without labels.
    """

    def __init__(self, subject: Subject, samples: int) -> None:
        self._subject = subject
        self._batches = max(1, samples // len(next(iter(subject.pool[0].values()))))
        whole = planish.optimize(subject.graph, "cleanup", verify="structure").graph
        self._sizes = sizes_in(whole, single_sample(subject.test[0], ports_of(whole)))
        self._cost = summarize(whole, self._sizes)
        self._exact = subject.outputs(whole)

    def __str__(self) -> str:
        scored, metric = self._subject.score(self._exact, self._exact), self._subject.metric
        others = self._measures(self._exact)
        return f"{metric} {scored.mean():.4f} of {len(scored)} examples, {self._batches} batches of samples; {others}"

    def make(self, pipeline: str, seed: int) -> Made:
        """What a pipeline makes of the model by samples that a seed draws."""
        data = self._subject.calibration(seed, self._batches)
        backend = "onnxruntime" if "mixed" in pipeline else None  # which alone tells what layers take
        start = time.process_time()
        try:
            found = planish.optimize(self._subject.graph, pipeline, data=data, seed=seed, backend=backend)
        except PlanishError as refusal:
            return Made(seconds=time.process_time() - start, said=_line(str(refusal)))
        seconds = time.process_time() - start
        (result,) = (record.result for record in found.records if record.effect is Effect.LOSSY)
        if not result.changed:
            return Made(seconds=seconds, said=_line(f"nothing: {'; '.join(result.misses)}"))
        outputs, cost, whole = self._subject.outputs(found.graph), summarize(found.graph, self._sizes), self._cost
        pairs = ((cost.parameters, whole.parameters), (cost.bytes, whole.bytes), (cost.flops, whole.flops))
        return Made(
            self._subject.losses(outputs, self._exact),
            [100 * after / before for after, before in pairs],
            seconds,
            "; ".join(filter(None, (self._measures(outputs), *result.notes))),
        )

    def _measures(self, outputs: Outputs) -> str:
        measures = {name: find for name, find in self._subject.measures.items() if "dB" not in name}
        return ", ".join(f"{name} {find(outputs, self._exact):.4g}" for name, find in measures.items())


def _row(made: Made) -> tuple[str, ...]:
    lost = scores.difference(made.losses, np.zeros_like(made.losses)).text(2) if made.left else "refused"
    return lost, " ".join(f"{share:.0f}" for share in made.left), f"{made.seconds:.0f}", made.said


def _orders(made: Mapping[str, Made]) -> Iterator[tuple[str, str]]:
    """How much more is lost before `fuse` than behind it."""
    for before, after in ORDERS:
        if all(steps in made and made[steps].left for steps in (before, after)):
            change = scores.difference(made[before].losses, made[after].losses)
            yield f"{before.removeprefix('cleanup,')}: more than behind fuse", change.text(2)


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
