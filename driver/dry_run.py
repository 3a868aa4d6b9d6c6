"""`planish build --dry-run`: what a build would do, as far as that is known before it takes its time."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..ir.analysis.cost import sizes_in, summarize
from ..ir.errors import CheckError, TargetError
from ..ir.graph import Graph
from ..passes.base import Effect, Pass, PassContext, PassResult
from ..passes.group import run_each
from ..passes.instruments.memory import STATUS, resident
from ..passes.order import check_order, flattened
from ..passes.pipeline import format_pipeline, pass_classes
from ..passes.units import show_bytes, show_seconds
from .data import Feeds
from .evaluation import interpreted
from .floors import refuse_hopeless
from .job import Job, prepare
from .lowering import chosen, refuse
from .plans import plans_of
from .recipe import Recipe
from .reporter import Reporter, presets_of_passes
from .results import PassRow, plain
from .search import budget_of
from .user_code import isolated_imports


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a build would do.

    Attributes:
        target: the name of the target that it builds for.
        rows: a row for each pass: what it did if it keeps what the model computes, and otherwise what it would look at,
            as far as that doesn't depend on the data.
        backends: why each backend can't run the model as the passes leave it; empty where it can.
        calibration: the number of batches that passes look at.
        evaluation: the number of batches that the metric is computed on.
        seconds: the seconds that the interpreter takes to run the model as it was read on one sample.
        memory: the bytes that the process has held so far at the most; None except on Linux.
        plans: the number of plans that a search would choose from; 0 where the recipe names the passes.
    """

    target: str
    rows: Sequence[PassRow]
    backends: Mapping[str, str]
    calibration: int
    evaluation: int
    seconds: float
    memory: int | None
    plans: int

    def summary(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return plain(self)

    def notes(self) -> Iterator[str]:
        """What to say of passes that didn't run, and of what they would leave."""
        if any(row.effect is Effect.LOSSY for row in self.rows):
            yield (
                "lossy passes didn't run: the changes shown for them are the layers or groups that they would look at"
            )
        yield from (f"{row.text}: {miss}" for row in self.rows for miss in row.misses[:3])

    def entries(self) -> dict[str, Any]:
        """What isn't told pass by pass, a line each."""
        runs = {f"in {name}": why or "runs, as far as it is known now" for name, why in self.backends.items()}
        return {
            "target": self.target,
            **runs,
            "calibration": f"{self.calibration} batches",
            "evaluation": f"{self.evaluation} batches",
            "one sample": f"{show_seconds(self.seconds)} in the interpreter, which passes and checks run",
            **({} if self.memory is None else {"memory so far": show_bytes(self.memory)}),
            **(
                {"search": f"would choose from {self.plans} plans, which go on from these passes"} if self.plans else {}
            ),
        }


def dry_run(recipe: Recipe, reporter: Reporter) -> DryRun:
    """Read what a recipe names, run the passes that keep what the model computes, and ask the backends; write nothing.

    Raises:
        PlanishError: what a build would refuse before its first pass; see `build.build`.
    """
    is_searched = recipe.passes == "auto"
    if is_searched:
        budget_of(recipe)
    with isolated_imports(recipe.folder):
        job = prepare(recipe, reporter)
        check_order(job.passes, tuple(pass_classes().values()))
        refuse_hopeless(job)
        sample = next(job.samples())
        context = job.context(sizes_in(job.source, sample), sample)
        for step in flattened(job.passes):
            step.require(context)
        graph = job.source.clone()
        return DryRun(
            target=job.target.name,
            rows=_tried(job.passes, graph, context),
            backends=_refusals(job, graph),
            calibration=len(job.calibration),
            evaluation=len(job.evaluation),
            seconds=_timed(job.source, sample),
            memory=resident("VmHWM") if STATUS.is_file() else None,
            plans=len(plans_of(recipe)) if is_searched else 0,
        )


def _tried(passes: Sequence[Pass], graph: Graph, context: PassContext) -> list[PassRow]:
    presets, rows = (
        presets_of_passes(),
        [PassRow("source", None, {}, (), 0.0, summarize(graph, context.sizes), None, None)],
    )

    def run(step: Pass, narrowed: PassContext) -> bool:
        start, is_lossy = time.perf_counter(), step.effect is Effect.LOSSY
        if is_lossy:
            selected = narrowed.narrowed(step.only, step.skip)
            found = step.foresee(graph, selected) or PassResult()
            found = replace(found, misses=(*step.doubts(graph, selected), *found.misses))
        else:
            found = PassResult(step.apply(graph, narrowed).counts)
        seconds, cost = time.perf_counter() - start, summarize(graph, context.sizes)
        text, preset = format_pipeline((step,)), presets.get(id(step), "")
        rows.append(PassRow(text, step.effect, found.counts, found.misses, seconds, cost, None, None, preset))
        return found.changed and not is_lossy

    run_each(passes, context, run)
    return rows


def _refusals(job: Job, graph: Graph) -> dict[str, str]:
    found: dict[str, str] = {}
    for backend in chosen(job.recipe.backend):
        found[backend.name] = backend.available() or ""
        if not found[backend.name]:
            try:
                refuse(backend, graph, job.target)
            except (TargetError, CheckError) as error:
                found[backend.name] = str(error)
    return found


def _timed(graph: Graph, sample: Feeds) -> float:
    run = interpreted(graph)
    run(sample)
    start = time.perf_counter()
    run(sample)
    return time.perf_counter() - start
