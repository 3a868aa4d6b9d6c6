"""`planish tune`: the fastest kernels of a model by measurement, into a file that builds take."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..backends import find_backend
from ..backends.legal import legalized
from ..backends.machine import runs_here
from ..ir.analysis.cost import sizes_in
from ..ir.drafts import workspace
from ..ir.errors import TargetError, UsageError
from ..targets.load import load_target
from .bench import sample_for
from .lowering import lower
from .measurement import Ratio, interleaved
from .optimize import optimize_file
from .reporter import SILENT, Reporter, compilers_heard

if TYPE_CHECKING:
    from ..backends.tvm.tune.database import TuningRecord


@dataclass(frozen=True, slots=True)
class Tuned:
    """What `tune` has found out.

    Attributes:
        findings: what was found of each kernel that was measured, those that take the most time first.
        kernels: how many of the model's kernels can be generated in several ways.
        known: how many of these kernels were in the file before.
        speedup: the whole model's speedup over kernels chosen by estimated times; None where the file has the same.
    """

    findings: "Sequence[TuningRecord]"
    kernels: int
    known: int
    speedup: Ratio | None


def tune(
    model: str,
    output: Path,
    *,
    pipeline: str = "cleanup,fuse",
    data: str | None = None,
    target: str = "native",
    minutes: float = 5.0,
    reporter: Reporter = SILENT,
) -> Tuned:
    """Measure the kernels that a model takes, and write the fastest parameters of each into a file.

    What is found is written one by one, so that an interrupt leaves what is known by then.

    Args:
        model: a reference to the model.
        output: the file; what it knows already stays, and isn't measured again.
        pipeline: the passes that the model is built with.
        data: the data that passes calibrate on, and of which the first sample is run; None for random numbers.
        target: the target that the model is built for.
        minutes: the minutes for measuring kernels; what was begun within them is finished.
        reporter: the reporter that is told of progress.

    Raises:
        UsageError: the file isn't called `.json` or can't be there, or the pipeline or the target makes no sense.
        ModelError: the model, the data or the file can't be used.
        TargetError: the target isn't a machine like this one, or TVM isn't installed or can't run the model.
        CheckError: a pass or a kernel changes what the model computes.
    """
    machine, backend = load_target(target), find_backend("tvm")
    if output.suffix != ".json":
        raise UsageError(f"{output} must end in .json")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent} to write {output.name} into")
    if not runs_here(machine.architecture, machine.features):
        raise TargetError(
            f"kernels for {machine.name} can't be measured here: tune on a machine of its architecture that has all of "
            "its instruction sets"
        )
    if missing := backend.available():
        raise TargetError(f"backend {backend.name} is not installed: {missing}")
    from ..backends.tvm.compiler.search import search
    from ..backends.tvm.tune.database import Database, Entry, TuningRecord, read_database

    database = read_database(output) if output.exists() else Database()
    graph = optimize_file(model, pipeline, None, target=target, data=data, reporter=reporter).graph
    with workspace() as scratch, compilers_heard(reporter):
        reporter.stage("compiling the model by estimated times")
        estimated = lower(graph, backend, machine, Path(scratch, "estimated"))
        sample = sample_for(estimated, data)
        reporter.stage("measuring kernels")
        before, kernels, findings = database.of(machine).keys(), set[str](), list[TuningRecord]()

        def note(finding: TuningRecord) -> None:
            nonlocal database
            findings.append(finding)
            database = database.having(machine, finding.kernel, Entry(parameters=finding.fastest, gain=finding.gain))
            database.write(output)
            reporter.progress("measuring kernels", len(findings), len(kernels - before))

        sizes = sizes_in(graph, sample)
        legal = legalized(graph, machine, backend)
        search(legal, graph, machine, sizes, known=before, seconds=60 * minutes, begun=kernels.update, found=note)
        speedup = None
        if any(entry.gain > 1 for key, entry in database.of(machine).items() if key in kernels):
            reporter.stage("comparing the model as tuned with the one before")
            tuned = lower(graph, backend.tuned(output), machine, Path(scratch, "tuned"))
            runs = [lambda model=model: model.executable.run(sample) for model in (estimated, tuned)]
            untuned, latency = interleaved(runs)
            speedup = latency.speedup_over(untuned)
    return Tuned(findings, len(kernels), len(kernels & before), speedup)
