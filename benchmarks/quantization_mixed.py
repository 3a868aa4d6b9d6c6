"""Mixed precision within a bound on accuracy: what it costs on data that nothing has seen, and what speed is kept."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import quantization_scores as scores
from quantization_subjects import Feeds, Subject
from rich.table import Table
from turns import in_turns, warm_seconds

import planish
from planish.targets import Target
from planish.targets.load import load_target

_PREDICTED = re.compile(r"([\d.]+) times int8's latency, where ([\d.]+)")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured of one model.

    Attributes:
        drops: the drops of int8 and the mix on what is held out, by the float model's outputs alone, in percent.
        scores: the scores of float, int8 and the mix, for every example.
        times: the times of the same three in each round, float[3, rounds].
        layers: the number of layers in int8, and in float.
        ratio: the ratio of the mix's latency to int8's, as the pass measured it, and as it was predicted before.
        notes: the notes of the pass.
        seconds: the seconds that the pass took.
    """

    drops: tuple[float, float]
    scores: Sequence[np.ndarray]
    times: np.ndarray
    layers: tuple[int, int]
    ratio: tuple[float, float]
    notes: Sequence[str]
    seconds: float

    @property
    def speedups(self) -> tuple[float, float]:
        """How many times as fast as float int8 and the mix are."""
        return tuple(float(np.median(self.times[0] / row)) for row in self.times[1:])

    def plain(self) -> dict[str, Any]:
        """What JSON knows."""
        return {
            "drops": self.drops,
            "scores": [float(held.mean()) for held in self.scores],
            "speedups": self.speedups,
            "layers": self.layers,
            "ratio": self.ratio,
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


def measure(
    subject: Subject, max_drop: float, count: int, rounds: int, threads: int, log: Callable[[str, str], None]
) -> Finding:
    """Quantize a model as a whole and mixed, and judge both on what is held out.

    Args:
        subject: the model.
        max_drop: the largest drop that the mix may have, in percent.
        count: the number of batches to calibrate on; as many again judge, if there are so many.
        rounds: the number of rounds in which models are timed in turn.
        threads: the number of threads that each model has.
        log: called with each step.
    """
    from planish.passes.judge import Judge

    target = replace(load_target("native"), threads=threads)
    data, labelled = subject.calibration(0, 2 * count), subject.calibration_with_labels(0, 2 * count)
    graph = planish.optimize(subject.graph, "cleanup,fuse", verify="none").graph
    samples = sum(next(iter(feeds.values())).shape[0] for feeds in data[:count])
    int8 = planish.optimize(graph, f"quantize{{samples={samples}}}", data=data[:count], target=target).graph
    log(subject.name, "int8 is made")
    pipeline = f"quantize-mixed{{max_drop={max_drop},samples={samples}}}"
    begin = time.perf_counter()
    result = planish.optimize(
        graph, pipeline, data=labelled, metric=subject.labelled, target=target, backend="onnxruntime", verify="none"
    )
    seconds = time.perf_counter() - begin
    (record,) = result.records
    log(subject.name, "; ".join(record.result.notes))
    graphs = [graph, int8, result.graph]
    judge = Judge(graph, subject.test)
    drops = (judge.judge(int8).drop, judge.judge(result.graph).drop)
    runs = [_run(one, target) for one in graphs]
    outputs = [[run(feeds) for feeds in subject.test] for run in runs]
    (measured, predicted), *_ = [found for note in record.result.notes for found in _PREDICTED.findall(note)]
    return Finding(
        drops=drops,
        scores=[np.asarray(subject.score(found, outputs[0]), np.float64) for found in outputs],
        times=in_turns([partial(run, subject.test[0]) for run in runs], warm_seconds, rounds, shuffled=True),
        layers=(record.result.counts["layers"], record.result.counts["float"]),
        ratio=(float(measured), float(predicted)),
        notes=record.result.notes,
        seconds=seconds,
    )


def _run(graph: planish.Graph, target: Target) -> Callable[[Feeds], list[np.ndarray]]:
    executable = planish.compile(graph, target=target)
    return lambda feeds: [np.array(array) for array in executable(*feeds.values())]


def table(found: dict[str, tuple[Subject, Finding]], max_drop: float) -> Table:
    """One row a model."""
    columns = (
        "model",
        "layers int8 + float",
        "drop, int8",
        "drop, mix",
        "metric",
        "float",
        "change, int8",
        "change, mix",
    )
    further = ("speed, int8", "speed, mix", "saving kept", "mix/int8", "predicted", "seconds")
    shown = Table(*columns, *further, title=f"at most {max_drop:g} % drop, on data that nothing has seen")
    for name, (subject, one) in found.items():
        exact, *others = one.scores
        changes = [scores.difference(held, exact).text(4) for held in others]
        fast, mixed = one.speedups
        kept = (1 - 1 / mixed) / (1 - 1 / fast) if fast > 1 else np.nan
        shown.add_row(
            name,
            "{} + {}".format(*one.layers),
            *(f"{drop:.3f} %" for drop in one.drops),
            subject.metric,
            f"{exact.mean():.4f}",
            *changes,
            f"{fast:.2f}x",
            f"{mixed:.2f}x",
            f"{100 * kept:.0f} %",
            *(f"{ratio:.3f}" for ratio in one.ratio),
            f"{one.seconds:.0f}",
        )
    return shown
