"""Pruning, low rank, distillation and quantization together: every subset, and the orders that make sense.

    pip install -e ".[dev,benchmarks,examples]"
    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb FOLDER
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2  # unpacked in FOLDER, for `ratings`
    python benchmarks/joint.py MODEL... [--root FOLDER] [--work FOLDER] [--markdown docs/joint.md]

The models are `cnn` and `resnet20`, trained here on Fashion-MNIST or read from `--cache`, `minilm`, `ocr` and `magika`
as packages ship them, and `ratings`, which is MiniLM with a linear layer for film reviews. Each pass sees no labels,
begins with the graph that the passes before it have made, and is checked as in a build. A pass that finds nothing to
prune or to factorize changes nothing, and what follows it is taken from the pipeline without it. What is made is kept
in `--work` and not made again: `--no-timed` makes it without timing anything, `--no-new` times what is there. All
graphs are compiled for the backend and timed in turn with the untouched one, one sample on one thread. `--markdown`
writes the tables to a page, which says what its columns are.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from filecmp import cmp
from functools import cached_property
from pathlib import Path
from typing import Annotated

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import quantization_scores as scores
import subjects
import typer
from quantization_subjects import Subject
from rich.console import Console

import planish
from planish.backends import find_backend
from planish.driver.data import ports_of, single_sample
from planish.driver.lowering import Candidate, lower
from planish.driver.measurement import Latency, Ratio, interleaved
from planish.driver.profiling import profiler, timings
from planish.ir.analysis.cost import sizes_in
from planish.ir.errors import PlanishError
from planish.ir.graph import Graph
from planish.passes.base import PassContext
from planish.passes.manager import PassManager, Resumption
from planish.passes.pipeline import parse_pipeline
from planish.targets.load import load_target

TARGET = replace(load_target("native"), threads=1)
PRUNE = [f"prune-channels{{flops={share}}}" for share in (0.05, 0.15, 0.3, 0.5, 0.7)]
STRONG = PRUNE[3]
FACTORIZE, DISTILL, QUANTIZE = "factorize", "distill", "quantize"
SHRUNK = [
    *([prune] for prune in PRUNE),
    [FACTORIZE],
    *([prune, FACTORIZE] for prune in PRUNE),
    *([FACTORIZE, prune] for prune in PRUNE),
    [STRONG, DISTILL],
    [FACTORIZE, DISTILL],
    [STRONG, FACTORIZE, DISTILL],
    [FACTORIZE, STRONG, DISTILL],
    [STRONG, DISTILL, FACTORIZE],
    [STRONG, DISTILL, FACTORIZE, DISTILL],
]
PIPELINES = [[], [QUANTIZE], *(steps for shrunk in SHRUNK for steps in (shrunk, [*shrunk, QUANTIZE]))]
"""Distillation comes where something has gone before, and quantization last: the others need floats."""

ALONE = ({"prune-channels"}, {FACTORIZE}, {QUANTIZE})
TOGETHER = set[str]().union(*ALONE)
LOSSES = (0.5, 1.0, 2.0, 4.0)
HEAD = """\
# Techniques together: what was measured

Pruning, low rank, distillation and quantization of one model, in every combination and in the orders that make sense,
as `python benchmarks/joint.py {models}` measured them in {backend}, one thread, on {features}. Passes saw {samples}
samples without labels. Each pass began with the graph that the passes before it had made, and was checked as in a
build. The loss is what the metric loses in points, hundredths of its scale, with the interval that holds 95 % of
resamples of the examples. The speed is relative to the untouched model: the median ratio over rounds with its
quartiles, with all pipelines timed in turn. The size is a share of the untouched model's. A pipeline is on the front if
no other is at least as good in loss, speed and size at once.

A second table for each model has the fastest pipeline within a loss, for each technique alone and for pruning, low rank
and quantization together. Every other example chooses it, and its loss is that on the remaining ones.
"""
LOG = Console(stderr=True, highlight=False)


class Model(StrEnum):
    """What may be made smaller and faster; `cnn` is `small_cnn` in `subjects.py`."""

    CNN = "cnn"
    RESNET20 = "resnet20"
    MINILM = "minilm"
    RATINGS = "ratings"
    OCR = "ocr"
    MAGIKA = "magika"


@dataclass(frozen=True, slots=True)
class Made:
    """What a pipeline has made of a model.

    Attributes:
        steps: the steps of the pipeline.
        graph: the graph that the pipeline ends with; None where a step failed.
        losses: the loss of each example, in points.
        seconds: the seconds that the passes took.
        failure: the reason why a step failed; empty where none did.
    """

    steps: Sequence[str]
    graph: Graph | None = None
    losses: np.ndarray = field(default_factory=lambda: np.zeros(0))
    seconds: float = 0.0
    failure: str = ""

    @property
    def name(self) -> str:
        """The pipeline in words."""
        return " + ".join(self.steps) or "clean-up and fusion alone"

    @property
    def techniques(self) -> set[str]:
        """What its passes are called."""
        return {step.partition("{")[0] for step in self.steps}


@dataclass(frozen=True, slots=True)
class Row:
    """What was made, once it was timed.

    Attributes:
        made: the pipeline, and what it has made.
        latency: the latency of one sample.
        speed: the speed as a multiple of the untouched model's.
        size: the size as a multiple of the untouched model's.
    """

    made: Made
    latency: Latency
    speed: Ratio
    size: float

    @property
    def values(self) -> tuple[float, float, float]:
        """What is better when it is greater."""
        return self.speed.median, -self.size, -float(self.made.losses.mean())


class Workshop:
    """Makes things of a model, and keeps them in a folder.

    Args:
        subject: the model with its data.
        samples: the number of samples to calibrate on.
        backend: the backend that runs the models.
        folder: the folder where what was made is kept.
        scratch: the folder for artifacts.
    """

    def __init__(self, subject: Subject, samples: int, backend: str, folder: Path, scratch: Path) -> None:
        data = subject.calibration(0, max(1, samples // len(next(iter(subject.pool[0].values())))))
        self.sample = single_sample(subject.test[0], ports_of(subject.graph))
        sizes = sizes_in(subject.graph, self.sample)
        self.context = PassContext(
            TARGET,
            subject.graph,
            data,
            sizes=sizes,
            profile=profiler(backend, TARGET, self.sample),
            timing=timings(backend, TARGET, self.sample, sizes)[0],
        )
        self.subject, self.folder, self.scratch, self.backend = subject, folder, scratch, find_backend(backend)
        self.untouched = self._lowered(subject.graph)

    def make(self, steps: Sequence[str]) -> Made:
        """What a pipeline makes of the model, with what that loses."""
        refused = self._place(steps) / "refused.txt"
        try:
            if refused.exists():
                raise PlanishError(refused.read_text())
            graph, seconds = self._graph(steps)
        except PlanishError as error:
            refused.write_text(" ".join(str(error).split()))
            LOG.print(f"{steps}: {error}", markup=False)
            return Made(steps, failure=refused.read_text())
        file = self._place(steps) / "losses.npy"
        if not file.exists():
            np.save(file, self._losses(graph))
        made = Made(steps, graph, np.load(file), seconds)
        LOG.print(f"{made.name}: {made.losses.mean():.3f} points, {seconds:.0f} s", markup=False)
        return made

    def has(self, steps: Sequence[str]) -> bool:
        """Whether a pipeline has been run, and what it made was judged; or it was refused."""
        before = (self._place(steps[:count]) / "graph.planish" for count in range(len(steps)))
        ends = (self._place(steps) / name for name in ("losses.npy", "refused.txt"))
        return all(graph.exists() for graph in before) and any(end.exists() for end in ends)

    def time(self, every: Sequence[Made]) -> list[Row]:
        """Time all that could be made, in turn."""
        built = [(made, self._lowered(made.graph)) for made in every if made.graph is not None]
        models = [self.untouched, *(candidate for _, candidate in built)]
        before, *latencies = interleaved([lambda it=it: it.executable.run(self.sample) for it in models])
        return [
            Row(made, latency, latency.speedup_over(before), candidate.size / self.untouched.size)
            for (made, candidate), latency in zip(built, latencies, strict=True)
        ]

    def _place(self, steps: Sequence[str]) -> Path:
        """The folder of what the last step makes, named without earlier steps that left the graph as it was."""
        changing: list[str] = []
        for step in steps[:-1]:
            before, after = (self._named(it) / "graph.planish" for it in (changing, [*changing, step]))
            changing += [] if cmp(before, after, shallow=False) else [step]
        return self._named([*changing, *steps[-1:]])

    def _named(self, steps: Sequence[str]) -> Path:
        return self.folder / ("+".join(steps) or "nothing")

    def _graph(self, steps: Sequence[str]) -> tuple[Graph, float]:
        """The graph after some steps, and the seconds that all of them took; each is held to the graph before it."""
        before, seconds = self._graph(steps[:-1]) if steps else (None, 0.0)
        place = self._place(steps)
        if not (place / "made.json").exists():
            place.mkdir(parents=True, exist_ok=True)
            start = time.perf_counter()
            graph, said = self._cleaned() if before is None else self._run(steps[-1], before)
            took = time.perf_counter() - start if steps else 0.0
            planish.write(graph, place / "graph.planish")
            (place / "made.json").write_text(json.dumps({"seconds": took, "said": said}, indent=1))
        return planish.read(place / "graph.planish"), seconds + json.loads((place / "made.json").read_text())["seconds"]

    def _cleaned(self) -> tuple[Graph, list[str]]:
        return planish.optimize(self.subject.graph, "cleanup,fuse", data=self.context.calibration).graph, []

    def _run(self, step: str, before: Graph) -> tuple[Graph, list[str]]:
        graph = before.clone()
        passes = [replace(it, required=it.name == QUANTIZE) for it in parse_pipeline(step)]
        (record,) = PassManager(passes).run(graph, self.context, Resumption(0, before, 0.0))
        return graph, [*record.result.notes, *record.result.misses]

    @cached_property
    def _exact(self) -> list[list[np.ndarray]]:
        return self._outputs(self.untouched)

    def _losses(self, graph: Graph) -> np.ndarray:
        return self.subject.losses(self._outputs(self._lowered(graph)), self._exact)

    def _lowered(self, graph: Graph) -> Candidate:
        return lower(graph, self.backend, TARGET, Path(tempfile.mkdtemp(dir=self.scratch), "artifact"))

    def _outputs(self, candidate: Candidate) -> list[list[np.ndarray]]:
        return [list(candidate.executable.run(feeds)) for feeds in self.subject.test]


def main(
    models: Annotated[list[Model], typer.Argument(help="The models to compress.")],
    root: Annotated[Path, typer.Option(help="The folder where data are unpacked.")] = Path("/"),
    cache: Annotated[Path, typer.Option(help="The folder where trained models are kept.")] = Path("recovery-cache"),
    work: Annotated[Path, typer.Option(help="The folder where compressed models are kept.")] = Path("joint-work"),
    backend: Annotated[str, typer.Option(help="The backend that runs the models.")] = "onnxruntime",
    samples: Annotated[int, typer.Option(help="Samples to calibrate on, without labels.")] = 256,
    limit: Annotated[int, typer.Option(help="Batches to judge on.")] = 1000,
    epochs: Annotated[int, typer.Option(help="Epochs of training, where a network is trained.")] = 2,
    without: Annotated[list[str] | None, typer.Option(help="Steps whose pipelines are left out.")] = None,
    new: Annotated[bool, typer.Option(help="Whether pipelines that haven't been run yet are run.")] = True,
    timed: Annotated[bool, typer.Option(help="Whether what was made is timed, too.")] = True,
    markdown: Annotated[Path | None, typer.Option(help="A file for the tables.")] = None,
) -> None:
    """Print what every subset and order of the techniques makes of the models."""
    texts: list[str] = []
    for model in models:
        with tempfile.TemporaryDirectory() as scratch:
            named = subjects.Model.SMALL_CNN if model is Model.CNN else subjects.Model(model)
            subject = subjects.subject(named, Path(scratch), root, cache, epochs)
            subject = replace(subject, test=subject.test[:limit])
            workshop = Workshop(subject, samples, backend, work / backend / model, Path(scratch))
            wanted = [steps for steps in PIPELINES if not set(without or ()) & set(steps)]
            made = [workshop.make(steps) for steps in wanted if new or workshop.has(steps)]
            if timed:
                rows = workshop.time(made)
                texts.append("\n".join(_section(subject, backend, made, rows, len(wanted) - len(made))))
                print(texts[-1], flush=True)
    if markdown is not None and timed:
        found = HEAD.format(models=" ".join(models), backend=backend, samples=samples, features=_machine())
        markdown.write_text("\n".join([found, *texts]), encoding="utf-8")


def _machine() -> str:
    """What the machine's integers are multiplied by."""
    dots = sorted(feature for feature in TARGET.features if "vnni" in feature)
    return f"{TARGET.architecture} with {dots[0]}" if dots else f"{TARGET.architecture} without VNNI"


# -- tables


def _section(subject: Subject, backend: str, every: Sequence[Made], rows: Sequence[Row], left: int) -> Iterator[str]:
    judged = max((len(made.losses) for made in every), default=0)
    yield f"## {subject.name} in {backend} ({subject.metric}, {judged:,} examples)\n"
    if left:
        yield f"{left} pipelines were not run.\n"
    yield "| pipeline | loss, points | speed | size | passes take | front |"
    yield "|-|-|-|-|-|-|"
    front = _front(rows)
    for row in rows:
        mark = "yes" if row in front else ""
        cells = (_loss(row.made.losses), str(row.speed), f"{row.size:.2f}", f"{row.made.seconds:.0f} s", mark)
        yield f"| {' | '.join((row.made.name, *cells))} |"
    for made in every:
        if made.failure:
            yield f"| {made.name} | {made.failure} | | | | |"
    yield "\n| loss that is allowed | technique | fastest | loss, points | speed | all together over it |"
    yield "|-|-|-|-|-|-|"
    for allowed in LOSSES:
        best = _fastest(rows, TOGETHER, allowed)
        for techniques in (*ALONE, TOGETHER):
            row = _fastest(rows, techniques, allowed)
            name = "all together" if techniques == TOGETHER else f"{min(techniques)} alone"
            if row is None:
                yield f"| {allowed} | {name} | none | | | |"
                continue
            over = "" if best in (None, row) else str(best.latency.speedup_over(row.latency))
            cells = (row.made.name, _loss(row.made.losses[1::2]), str(row.speed), over)
            yield f"| {allowed} | {' | '.join((name, *cells))} |"
    yield ""


def _fastest(rows: Sequence[Row], techniques: set[str], allowed: float) -> Row | None:
    """What is fastest of some techniques and loses no more than is allowed, as every other example tells."""
    within = [it for it in rows if it.made.techniques == techniques and it.made.losses[::2].mean() <= allowed]
    return max(within, key=lambda it: it.speed.median, default=None)


def _loss(losses: np.ndarray) -> str:
    return scores.difference(losses, np.zeros_like(losses)).text(2)


def _front(rows: Sequence[Row]) -> list[Row]:
    return [
        row
        for row in rows
        if not any(
            all(a >= b for a, b in zip(other.values, row.values, strict=True)) and other.values != row.values
            for other in rows
        )
    ]


if __name__ == "__main__":
    typer.run(main)
