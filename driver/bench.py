"""`planish bench`: latency, memory and size of artifacts and models, in one interleaved run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..ir.drafts import workspace
from ..ir.errors import ModelError
from ..targets.load import load_target
from .data import Feeds, port_sizes, random_sample, read_data, single_sample
from .lowering import Candidate, open_subject
from .measurement import Latency, Ratio, interleaved
from .memory import peak_memory
from .user_code import isolated_imports
from .usual_sizes import usual_samples


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One subject of a benchmark.

    Attributes:
        name: the artifact or model, as the user gave it.
        backend: the backend that runs it.
        latency: the latency of one inference.
        speedup: the speedup over the first subject, round by round.
        memory: the bytes that a process grows by to run it; None where the system doesn't tell.
        size: the size of the model's files, in bytes.
        sizes: the sizes of the symbolic dimensions of its inputs.
    """

    name: str
    backend: str
    latency: Latency
    speedup: Ratio
    memory: int | None
    size: int
    sizes: Mapping[str, int]


def bench(references: Sequence[str], target: str, data: str | None, threads: int | None) -> list[BenchRow]:
    """Measure artifacts (folders) and models (compiled by ONNX Runtime as they are) against the first of them.

    Args:
        references: the folders of artifacts, and references to models.
        target: the target whose number of threads models run with.
        data: the data whose first sample is the input; None for random numbers.
        threads: the number of threads that all of them run with; None for their own.
    """
    machine = load_target(target)
    with isolated_imports(Path()), workspace() as scratch:
        subjects = [
            open_subject(reference, machine, Path(scratch, str(number)), threads)
            for number, reference in enumerate(references)
        ]
        every = [list(samples_for(subject, data)) for subject in subjects]
        return [row for samples in zip(*every, strict=False) for row in _rows(subjects, samples)]


def _rows(subjects: Sequence[Candidate], samples: Sequence[Feeds]) -> Iterator[BenchRow]:
    """Yield a row for each subject, on a sample of its own."""
    pairs = list(zip(subjects, samples, strict=True))
    runs = [lambda subject=subject, sample=sample: subject.executable.run(sample) for subject, sample in pairs]
    latencies = interleaved(runs)
    for (subject, sample), latency in zip(pairs, latencies, strict=True):
        yield _row(subject, latency, latencies[0], sample)


def sample_for(subject: Candidate, data: str | None, folder: Path = Path()) -> Feeds:
    """The first of `samples_for`."""
    return next(samples_for(subject, data, folder))


def samples_for(subject: Candidate, data: str | None, folder: Path = Path()) -> Iterator[Feeds]:
    """Yield samples that a model runs on: the first of the data, named relative to a folder, or random ones.

    Raises:
        ModelError: it runs on no random sample.
    """
    ports = subject.executable.inputs
    if data is not None:
        yield single_sample(read_data(data, folder, ports)[0].inputs, ports)
        return
    reason = ""

    def run(sample: Feeds) -> None:
        nonlocal reason
        try:
            subject.executable.run(sample)
        except ModelError as error:
            reason = str(error)
            raise

    found = usual_samples(ports, partial(random_sample, ports), run)
    first = next(found, None)
    if first is None:
        raise ModelError(f"{subject.name} runs on no random input ({reason}); give data with -d")
    yield first
    yield from found


def _row(subject: Candidate, latency: Latency, first: Latency, sample: Feeds) -> BenchRow:
    memory = peak_memory(subject.directory, sample)
    sizes = port_sizes(subject.executable.inputs, sample)
    return BenchRow(subject.name, subject.backend, latency, latency.speedup_over(first), memory, subject.size, sizes)
