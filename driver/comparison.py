"""`planish compare`: how far the outputs of two artifacts or models are apart, and what each costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ..ir.drafts import workspace
from ..ir.errors import ModelError
from ..ir.numerics import flattened
from ..targets.load import load_target
from .bench import sample_for
from .data import Batch, Feeds, port_sizes, read_data
from .evaluation import Metric, Score, drop_interval, evaluate, find_metric, flips, labelled_by, mcnemar
from .lowering import Candidate, open_subject
from .measurement import Latency, Ratio, interleaved
from .user_code import isolated_imports

_RESAMPLES, _LEAST = 1000, 1e-12
"""How often examples are drawn anew, and the least probability."""


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """How far one output of B is from A's, over all batches.

    Attributes:
        name: the output's name in A.
        largest: the largest absolute difference.
        relative: the relative error, as the ratio of L2 norms, like the drift of a pass.
        cosine: the cosine similarity of the two, flattened.
        sqnr: the signal-to-noise ratio in decibels; infinite where they are equal.
        agreement: the share of rows along the last axis whose largest element is at the same place, and of texts that
            are the same; None for scalars.
        agreement_interval: the interval that holds 95 % of the agreement in resamples of the examples along the first
            axis; None for one example.
        divergence: the mean Kullback-Leibler divergence of B's rows from A's, in nats, taken as logits, or as
            probabilities where they sum up to 1; None for scalars and for what are no floats.
    """

    name: str
    largest: float
    relative: float
    cosine: float
    sqnr: float
    agreement: float | None
    agreement_interval: tuple[float, float] | None
    divergence: float | None


@dataclass(frozen=True, slots=True)
class Side:
    """One of two models that are compared: its cost, and the metric where there are labels."""

    name: str
    backend: str
    latency: Latency
    size: int
    metric: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models side by side; `speedup` and `shrinkage` say how many times B is faster and smaller.

    Attributes:
        a: the reference.
        b: what is compared with it.
        outputs: the difference of each output.
        metric: the name of the metric; None where none was evaluated.
        drop: how much worse B's metric is, on its own scale.
        drop_interval: the interval that would hold 95 % of the metric's drops if other samples had been drawn.
        flips: how many samples only A gets right, and how many only B.
        mcnemar: the probability of flips that are as uneven, if both were equally good.
        samples: how many examples both ran on.
        unlike: the names of outputs that have other shapes, as the boxes of detectors do, and are judged by the metric
            alone.
        sizes: the sizes of symbolic dimensions that latency was measured at.
    """

    a: Side
    b: Side
    outputs: Sequence[OutputDifference]
    metric: str | None
    drop: float | None
    drop_interval: tuple[float, float] | None
    flips: tuple[int, int] | None
    mcnemar: float | None
    samples: int
    speedup: Ratio
    shrinkage: float
    unlike: Sequence[str] = ()
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])


def compare(a: str, b: str, target: str, data: str | None, metric: str, folder: Path = Path()) -> Comparison:
    """Compare two artifacts (folders) or models (compiled by ONNX Runtime as they are).

    Args:
        a: the reference.
        b: what is compared with it.
        target: the target whose number of threads models run with.
        data: the data that both run on; None for one random sample.
        metric: the metric, evaluated where the data have labels; `agreement` with A needs none.
        folder: the folder that data and metric are relative to.

    Raises:
        ModelError: the two can't run on the same inputs, or their outputs don't correspond.
    """
    machine = load_target(target)
    with isolated_imports(folder), workspace() as scratch:
        first, second = (open_subject(it, machine, Path(scratch, str(number))) for number, it in enumerate((a, b)))
        batches = read_data(data, folder, first.executable.inputs) if data else [Batch(sample_for(first, None))]
        outputs = [[subject.executable(*batch.inputs.values()) for batch in batches] for subject in (first, second)]
        chosen = find_metric(metric, folder)
        if chosen.is_relative:
            batches = labelled_by(partial(_run, first), batches)
        elif data is None or any(batch.labels is None for batch in batches):
            chosen = None
        feeds = sample_for(first, data, folder)
        sample = list(feeds.values())
        scores = None if chosen is None else [_score(subject, chosen, batches) for subject in (first, second)]
        changes = None if scores is None else flips(*scores)
        names = [port.name for port in first.executable.outputs]
        found = output_differences(names, outputs[0], outputs[1], skips_unlike=scores is not None)
        slow, fast = interleaved([lambda model=it.executable: model(*sample) for it in (first, second)])
        return Comparison(
            a=Side(first.name, first.backend, slow, first.size, None if scores is None else scores[0].value),
            b=Side(second.name, second.backend, fast, second.size, None if scores is None else scores[1].value),
            outputs=[it for it in found.values() if it is not None],
            metric=None if chosen is None else chosen.name,
            drop=None if chosen is None or scores is None else chosen.drop(*(score.value for score in scores)),
            drop_interval=None if chosen is None or scores is None else drop_interval(chosen, scores[0], scores[1]),
            flips=changes,
            mcnemar=None if changes is None else mcnemar(changes),
            samples=sum(_rows(batch) for batch in batches),
            speedup=fast.speedup_over(slow),
            shrinkage=first.size / second.size,
            unlike=[name for name, it in found.items() if it is None],
            sizes=port_sizes(first.executable.inputs, feeds),
        )


def _rows(batch: Batch) -> int:
    """How many examples a batch has: the labels, or the rows of the first input."""
    first = next(iter(batch.inputs.values()), np.empty(0)) if batch.labels is None else batch.labels
    return len(first) if np.ndim(first) else 1


def _score(subject: Candidate, metric: Metric, batches: Sequence[Batch]) -> Score:
    return evaluate(metric, partial(_run, subject), batches, resamples=True)


def _run(subject: Candidate, feeds: Feeds) -> Sequence[np.ndarray]:
    """The outputs of a model, whose inputs are given by position: the two may name them differently."""
    return subject.executable(*feeds.values())


def output_differences(
    names: Sequence[str],
    a: Sequence[Sequence[np.ndarray]],
    b: Sequence[Sequence[np.ndarray]],
    *,
    skips_unlike: bool = False,
) -> dict[str, OutputDifference | None]:
    """How far the outputs of two models are apart, by name.

    Args:
        names: the names of the outputs.
        a: the outputs of one on each batch.
        b: the outputs of the other on the same batches.
        skips_unlike: whether outputs of other shapes are None in the result; they are an error otherwise.

    Raises:
        ModelError: they don't correspond.
    """
    if len(a[0]) != len(b[0]):
        raise ModelError(f"the models have {len(a[0])} and {len(b[0])} outputs and can't be compared")
    wanted, got = ([flattened(dict(zip(names, batch, strict=True))) for batch in batches] for batches in (a, b))
    if [batch.keys() for batch in wanted] != [batch.keys() for batch in got]:
        raise ModelError("the models return sequences of other lengths, or maps of other keys, and can't be compared")
    found: dict[str, OutputDifference | None] = {}
    for name in wanted[0]:
        ours, theirs = ([batch[name] for batch in batches] for batches in (wanted, got))
        unlike = next(((x.shape, y.shape) for x, y in zip(ours, theirs, strict=True) if x.shape != y.shape), None)
        if unlike and not skips_unlike:
            shapes = " and ".join(str(list(shape)) for shape in unlike)
            raise ModelError(
                f"output {name!r} has shapes {shapes}, which a metric alone can judge: "
                "give data with labels (-d) and a metric (--metric)"
            )
        found[name] = None if unlike else _difference(name, ours, theirs)
    return found


def _difference(name: str, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> OutputDifference:
    divergence = _divergence(a, b)
    if a[0].dtype == object:
        same = [x == y for x, y in zip(a, b, strict=True)]
        a, b = [np.ones(x.shape) for x in a], [x.astype(np.float64) for x in same]
    else:
        same = [x.argmax(-1) == y.argmax(-1) for x, y in zip(a, b, strict=True) if x.ndim]
    wanted, got = (np.concatenate([array.ravel().astype(np.float64) for array in arrays]) for arrays in (a, b))
    finite = np.isfinite(wanted) & np.isfinite(got)  # masks are infinite in both
    wanted, got = wanted[finite], got[finite]
    error, signal = np.abs(wanted - got), float(wanted @ wanted)
    noise, norms = (float(error @ error), float(np.linalg.norm(wanted) * np.linalg.norm(got)))
    with np.errstate(divide="ignore"):
        sqnr = float(10 * np.log10(signal / noise)) if noise else float("inf")
    return OutputDifference(
        name=name,
        largest=float(error.max(initial=0.0)),
        relative=float(np.sqrt(noise / signal)) if signal else float(noise and np.inf),
        cosine=float(wanted @ got / norms) if norms else float(noise == 0),
        sqnr=sqnr,
        agreement=float(np.concatenate([np.ravel(rows) for rows in same]).mean()) if same else None,
        agreement_interval=_interval([row for rows in same for row in np.atleast_1d(rows)]),
        divergence=divergence,
    )


def _interval(examples: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """The 95 % interval of the mean over all rows, if other examples of one row or more had been drawn."""
    if len(examples) < 2:
        return None
    means = np.array([np.mean(rows) for rows in examples])
    sizes = np.array([np.size(rows) for rows in examples])
    picks = np.random.default_rng(0).integers(len(means), size=(_RESAMPLES, len(means)))
    low, high = np.quantile((means * sizes)[picks].sum(1) / sizes[picks].sum(1), (0.025, 0.975))
    return float(low), float(high)


def _divergence(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float | None:
    if a[0].dtype.kind != "f" or a[0].ndim < 2 or a[0].shape[-1] < 2:
        return None
    rows = [np.ravel(_row_divergences(x, y)) for x, y in zip(a, b, strict=True)]
    return float(np.concatenate(rows).mean())


def _row_divergences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    from scipy.special import log_softmax

    def logs(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        if (x >= 0).all() and np.allclose(x.sum(-1), 1, atol=1e-3):
            return np.log(np.maximum(x, _LEAST))
        return log_softmax(x, -1)

    ours, theirs = logs(a), logs(b)
    with np.errstate(invalid="ignore"):  # masks are infinite in both
        return np.where(np.isfinite(ours), np.exp(ours) * (ours - theirs), 0.0).sum(-1)
