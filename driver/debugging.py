"""Where a pipeline goes wrong: `planish bisect` and `planish reduce`."""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import ModelError, PassError, TargetError, UsageError
from ..ir.graph import Graph, Value
from ..ir.interpreter import Interpreter
from ..ir.ops.dtypes import to_numpy
from ..passes.adapters.survival import AdapterSurvival
from ..passes.base import Pass
from ..passes.bisect import Fault, bisect
from ..passes.check import NumericCheck
from ..passes.instrument import Instrument
from ..passes.manager import PassManager
from ..passes.order import flattened
from ..passes.pipeline import format_pipeline, parse_pipeline
from ..passes.reduce import reduce
from ..passes.reproducer import Reproducer, is_reproducer, read_reproducer, symptom
from ..passes.verification import Verification
from .backend_check import compile_again
from .job import prepare
from .optimize import read_case
from .recipe_file import read_recipe
from .replay import replay, surroundings
from .reporter import SILENT, Reporter
from .user_code import isolated_imports


def find_fault(
    subject: str,
    pipeline: str | None,
    data: str | None,
    target: str,
    reporter: Reporter = SILENT,
    verify: Verification | str | None = None,
) -> Fault | None:
    """The first pass, and the rewrite in it, after which a check fails; None where none fails.

    Where passes are right and a backend is at fault, its error says so, and names the layer.

    Args:
        subject: a recipe, whose backends' own passes are searched too, the folder of a reproducer, or a model.
        pipeline: the passes to run over a model.
        data: the calibration data for a model.
        target: the target that a model is built for.
        reporter: the reporter that is told of progress.
        verify: what is checked; None for everything, or what a recipe or a reproducer says.

    Raises:
        UsageError: a model without a pipeline, a recipe with one, or one whose passes a search chooses.
        TargetError: the backend of a recipe can't run what its passes make of the model, though they are right.
    """
    is_recipe = Path(subject).suffix in (".yaml", ".yml")
    if is_recipe and pipeline is not None:
        raise UsageError("a recipe sets its own passes: leave -p out")
    with ExitStack() as imports:
        imports.enter_context(isolated_imports(Path(subject).parent if is_recipe else Path()))
        endings: list[Sequence[Pass]] = [()]
        if is_recipe:
            changed = {} if verify is None else {"verify": verify}
            recipe = read_recipe(Path(subject), changed)
            if recipe.passes == "auto":
                raise UsageError(
                    f"a search chooses the passes of {subject}: bisect the recipe that "
                    f"`planish search {subject} -o FILE` writes"
                )
            job = prepare(recipe, reporter)
            case = job.case
            endings = [backend.pipeline(job.target) for backend in job.backends] or endings
        else:
            case = read_case(subject, pipeline, data, target, reporter, verify)
            imports.enter_context(isolated_imports(Path(case.folder)))
        reporter.stage("running the whole pipeline")
        context = replace(surroundings(case), progress=reporter.progress)
        check = NumericCheck.of(context, case.verification)
        fault = None
        for ending in endings:
            with suppress(TargetError) if len(endings) > 1 else nullcontext():  # of several, one may run it
                fault = fault or bisect((*parse_pipeline(case.pipeline), *ending), check, context, reporter.stage)
        if fault is None and case.backend:
            reporter.stage(f"compiling for {case.backend}")
            compile_again(case, replay(case).graph)
        return fault


def shrink(subject: str, output: Path, reporter: Reporter = SILENT) -> Reproducer:
    """Write a reproducer that fails as another does, with as few nodes and passes as possible.

    It fails in the same pass or backend, and by the same check or exception: its error's `symptom` is the same. It is
    run once as it was written.

    Args:
        subject: the folder of the reproducer to shrink.
        output: the folder to write.
        reporter: the reporter that is told of progress, and if what was written doesn't fail in that way.

    Raises:
        UsageError: it is no reproducer, or doesn't fail here.
    """
    if not is_reproducer(subject):
        raise UsageError(f"{subject} is not the folder of a reproducer, which a failed `opt` or `build` leaves")
    case = read_reproducer(Path(subject))
    with isolated_imports(Path()), isolated_imports(Path(case.folder)):
        reporter.stage("running it as it is")
        steps = tuple(flattened(parse_pipeline(case.pipeline)))
        failure = _failure(case, steps)
        if failure is None:
            raise UsageError(f"{subject} doesn't fail here: {case.pipeline} passes every check")
        alone = _narrowed(case, steps, failure)
        if alone is not None and _failure(alone, parse_pipeline(alone.pipeline)) == replace(failure, position=0):
            case, failure = alone, replace(failure, position=0)
        passes = parse_pipeline(case.pipeline)

        bare = replace(case, calibration=(), probes=(), labels=())
        part = _part if _failure(bare, passes) == failure else _Flow(case).part

        def fails(graph: Graph) -> bool:
            return _failure(part(bare, graph), passes) == failure

        smaller = part(bare, reduce(case.graph, fails, reporter.progress)).probed
        smaller.write(output)
        if _failure(read_reproducer(output), passes) != failure:
            reporter.warn(
                f"{output} doesn't fail in the same way: the failure depends on something other than the graph"
            )
        return smaller


def _part(case: Reproducer, graph: Graph) -> Reproducer:
    return replace(case, graph=graph)


class _Flow:
    """The values in a reproducer's graph on its batches, so that parts of the graph get the inputs that they had."""

    def __init__(self, case: Reproducer) -> None:
        self._case = case
        self._runs = (*case.calibration, *case.probes)
        self._values = {value.name: value for node in case.graph.nodes for value in node.outputs}
        self._values |= {value.name: value for value in case.graph.inputs}
        self._seen: dict[str, list[np.ndarray]] = {}

    def part(self, case: Reproducer, graph: Graph) -> Reproducer:
        """A reproducer of some of the nodes, with what they are given in the whole graph."""
        names = [value.name for value in graph.inputs]
        self._see([name for name in names if name not in self._seen])
        if lacking := [name for name in names if len(self._seen[name]) < len(self._runs)]:
            raise ModelError(f"%{lacking[0]} is no tensor, so that no part of the graph can be given it")
        feeds = [{name: self._seen[name][number] for name in names} for number in range(len(self._runs))]
        known = len(self._case.calibration)
        return replace(case, graph=graph, calibration=feeds[:known], probes=feeds[known:], labels=self._case.labels)

    def _see(self, names: Sequence[str]) -> None:
        wanted = {self._values[name] for name in names}
        if not wanted:
            return
        self._seen |= {name: [] for name in names}

        def observe(value: Value, tensor: Any) -> None:
            if value in wanted:
                self._seen[value.name].append(to_numpy(tensor))

        for feeds in self._runs:
            Interpreter(self._case.graph).run(feeds, observe)


@dataclass(frozen=True, slots=True)
class _Failure:
    """How a pipeline failed: with which symptom, in which pass or backend."""

    symptom: str
    step: str
    position: int


class _Last(Instrument):
    """Knows the pass that was started last."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def before(self, step: Pass, graph: Graph) -> None:
        self.started.append(step.name)


def _failure(case: Reproducer, passes: Sequence[Pass]) -> _Failure | None:
    last = _Last()
    try:
        graph = case.graph.clone()
        PassManager(passes, [AdapterSurvival(SILENT.note), last], case.verification).run(graph, surroundings(case))
        last.started.append(case.backend)
        if case.backend:
            compile_again(case, graph)
    except Exception as error:  # crashes are reduced as well
        step = last.started[-1] if last.started else ""
        raised = error.__cause__ if isinstance(error, PassError) else error
        return _Failure(symptom(f"{type(raised).__name__}: {raised}"), step, len(last.started) - 1)
    return None


def _narrowed(case: Reproducer, steps: Sequence[Pass], failure: _Failure) -> Reproducer | None:
    """The failing pass alone, on the graph that it was given; None where the passes are not simply in a row."""
    if not 0 < failure.position < len(steps) or steps[failure.position].name != failure.step:
        return None
    graph = case.graph.clone()
    PassManager(steps[: failure.position], verify="none").run(graph, surroundings(case))
    return replace(case, graph=graph, pipeline=format_pipeline(steps[failure.position : failure.position + 1]))
