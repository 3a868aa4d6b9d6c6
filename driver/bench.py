"""`planish bench`: latency, memory and size of artifacts and models, in one interleaved run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..ir.drafts import workspace
from ..ir.errors import ModelError
from ..targets.load import load_target
from .data import Feeds, random_sample, read_data, single_sample
from .lowering import Candidate, open_subject
from .measurement import Latency, Ratio, interleaved
from .memory import peak_memory
from .user_code import isolated_imports

_SIZES = (32, 224, 2)
"""Sizes tried in turn for the open dimensions of random inputs."""


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
    """

    name: str
    backend: str
    latency: Latency
    speedup: Ratio
    memory: int | None
    size: int


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
        samples = [sample_for(subject, data) for subject in subjects]
        pairs = list(zip(subjects, samples, strict=True))
        runs = [lambda subject=subject, sample=sample: subject.executable.run(sample) for subject, sample in pairs]
        latencies = interleaved(runs)
        return [
            _row(subject, latency, latencies[0], sample)
            for (subject, sample), latency in zip(pairs, latencies, strict=True)
        ]


def sample_for(subject: Candidate, data: str | None, folder: Path = Path()) -> Feeds:
    """One sample that a model runs on: the first of the data, whose reference is relative to a folder, or a random one.

    Raises:
        ModelError: it runs on no random sample.
    """
    ports = subject.executable.inputs
    if data is not None:
        return single_sample(read_data(data, folder, ports)[0].inputs, ports)
    reason = ""
    for size in _SIZES:
        sample = random_sample(ports, size)
        try:
            subject.executable.run(sample)
        except ModelError as error:
            reason = str(error)
            continue
        return sample
    raise ModelError(f"{subject.name} runs on no random input ({reason}); give data with -d")


def _row(subject: Candidate, latency: Latency, first: Latency, sample: Feeds) -> BenchRow:
    memory = peak_memory(subject.directory, sample)
    return BenchRow(subject.name, subject.backend, latency, latency.speedup_over(first), memory, subject.size)
