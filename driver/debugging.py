"""Where a pipeline goes wrong: `planish bisect` and `planish reduce`."""

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ..ir.errors import PassError, TargetError, UsageError
from ..ir.graph import Graph
from ..passes.base import Pass
from ..passes.bisect import Fault, bisect
from ..passes.check import NumericCheck
from ..passes.instrument import Instrument
from ..passes.manager import PassManager
from ..passes.order import flattened
from ..passes.pipeline import format_pipeline, parse_pipeline
from ..passes.reduce import reduce
from ..passes.reproducer import Reproducer, is_reproducer, read_reproducer
from ..passes.verification import Verification
from .backend_check import compile_again
from .data import ports_of, single_sample
from .job import prepare
from .optimize import read_case
from .profiling import profiler, timing
from .recipe_file import read_recipe
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
        pipeline: for a model.
        data: calibration data for a model.
        target: for a model.
        reporter: hears of progress.
        verify: what is checked; None for everything, or what a recipe or a reproducer says.

    Raises:
        UsageError: a model without a pipeline, or something else with one.
        TargetError: the backend of a recipe can't run what its passes make of the model, though they are right.
    """
    is_recipe = Path(subject).suffix in (".yaml", ".yml")
    if is_recipe and pipeline is not None:
        raise UsageError("a recipe says itself what its passes are")
    with isolated_imports(Path(subject).parent if is_recipe else Path()):
        endings: list[Sequence[Pass]] = [()]
        job = None
        if is_recipe:
            changed = {} if verify is None else {"verify": verify}
            job = prepare(read_recipe(Path(subject), changed), reporter)
            case = job.case
            endings = [backend.pipeline(job.target) for backend in job.backends] or endings
        else:
            case = read_case(subject, pipeline, data, target, reporter, verify)
        reporter.stage("running the whole pipeline")
        context = replace(case.context, progress=reporter.progress)
        if job is not None and job.calibration:
            sample = single_sample(job.calibration[0], ports_of(job.source))
            profile = profiler(job.recipe.backend, job.target, sample)
            times = timing(job.recipe.backend, job.target, sample, context.sizes)
            context = replace(context, profile=profile, timing=times, labelled=job.labelled)
        check = NumericCheck.of(context, case.verification)
        fault = None
        for ending in endings:
            with suppress(TargetError) if len(endings) > 1 else nullcontext():  # of several, one may run it
                fault = fault or bisect((*parse_pipeline(case.pipeline), *ending), check, context, reporter.stage)
        if fault is None and case.backend:
            reporter.stage(f"compiling for {case.backend}")
            compile_again(case, case.run())
        return fault


def shrink(subject: str, reporter: Reporter = SILENT) -> Reproducer:
    """A reproducer that fails in the same pass and way as another, with as few nodes and passes as possible.

    Raises:
        UsageError: it is no reproducer, or doesn't fail here.
    """
    if not is_reproducer(subject):
        raise UsageError(f"{subject} is not the folder of a reproducer, which a failed `opt` or `build` leaves")
    with isolated_imports(Path()):
        case = read_reproducer(Path(subject))
        reporter.stage("running it as it is")
        steps = tuple(flattened(parse_pipeline(case.pipeline)))
        failure = _failure(case, steps)
        if failure is None:
            raise UsageError(f"{subject} doesn't fail here: {case.pipeline} passes every check")
        alone = _narrowed(case, steps, failure)
        if alone is not None and _failure(alone, parse_pipeline(alone.pipeline)) == replace(failure, position=0):
            case, failure = alone, replace(failure, position=0)
        passes = parse_pipeline(case.pipeline)

        def fails(graph: Graph) -> bool:
            return _failure(replace(case, graph=graph, calibration=(), probes=()), passes) == failure

        return replace(case, graph=reduce(case.graph, fails, reporter.progress), calibration=(), probes=()).probed


@dataclass(frozen=True, slots=True)
class _Failure:
    """How a pipeline failed: by which error, in which pass or backend."""

    error: str
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
        PassManager(passes, [last], case.verification).run(graph, case.context)
        last.started.append(case.backend)
        if case.backend:
            compile_again(case, graph)
    except Exception as error:  # crashes are reduced as well
        step = last.started[-1] if last.started else ""
        raised = error.__cause__ if isinstance(error, PassError) else error
        return _Failure(type(raised).__name__, step, len(last.started) - 1)
    return None


def _narrowed(case: Reproducer, steps: Sequence[Pass], failure: _Failure) -> Reproducer | None:
    """The failing pass alone, on the graph that it was given; None where the passes are not simply in a row."""
    if not 0 < failure.position < len(steps) or steps[failure.position].name != failure.step:
        return None
    graph = case.graph.clone()
    PassManager(steps[: failure.position], verify="none").run(graph, case.context)
    return replace(case, graph=graph, pipeline=format_pipeline(steps[failure.position : failure.position + 1]))
