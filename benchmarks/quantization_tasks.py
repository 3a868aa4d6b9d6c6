"""int8 and int4 of models that answer questions: planish's pipelines and their peers on the same examples."""

import gc
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import quantization_scores as scores
import tvm_peers as peers
from quantization_subjects import Feeds, Subject
from rich.table import Table
from turns import in_turns, warm_seconds

Run = Callable[[Feeds], Sequence[np.ndarray]]
FLOAT = "float32, ONNX Runtime"
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
"""The number of threads that everybody has."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a method is given: a model, batches to calibrate on, a seed, and an empty folder."""

    subject: Subject
    batches: Sequence[Feeds]
    seed: int
    folder: Path

    @property
    def file(self) -> Path:
        """The model's file, copied to where others can be written beside it."""
        copy = self.folder / "float.onnx"
        if not copy.exists():
            copy.write_bytes(self.subject.file.read_bytes())
        return copy


Method = Callable[[Work], Run]


@dataclass(slots=True)
class Row:
    """What was measured of a method.

    Attributes:
        scored: the score of every example, for each seed.
        measures: further numbers, for each seed.
        run: the run of the first seed, to be timed.
        failure: the error that was raised instead; empty if there was none.
    """

    scored: list[np.ndarray] = field(default_factory=list)
    measures: list[dict[str, float]] = field(default_factory=list)
    run: Run | None = None
    failure: str = ""


def planish(pipeline: str, backend: str = "onnxruntime") -> Method:
    """Return what runs a pipeline after `cleanup,fuse`, and the artifact."""

    def make(work: Work) -> Run:
        import planish
        from planish.backends import find_backend
        from planish.backends.artifact import load, write_artifact
        from planish.targets.load import load_target

        target = replace(load_target("native"), threads=THREADS)
        pipelines = f"cleanup,fuse,{pipeline}" if pipeline else "cleanup,fuse"
        asked = {"data": work.batches, "seed": work.seed, "target": target, "backend": backend}
        graph = planish.optimize(work.subject.graph, pipelines, **asked).graph
        artifact = work.folder / "artifact"
        write_artifact(artifact, graph, find_backend(backend), target)
        executable = load(artifact, threads=THREADS)
        return lambda feeds: executable(*feeds.values())

    return make


def static(work: Work) -> Run:
    """Let ONNX Runtime's quantizer fix all ranges."""
    return peers.onnxruntime_static(work.file, work.batches, THREADS, is_text=work.subject.is_text)


def dynamic(work: Work) -> Run:
    """Let ONNX Runtime find ranges at run time."""
    return peers.onnxruntime_dynamic(work.file, THREADS)


def nncf(work: Work) -> Run:
    """Let NNCF quantize for OpenVINO."""
    return peers.openvino_int8(work.file, work.batches, THREADS, is_text=work.subject.is_text)


def controlled(work: Work) -> Run:
    """Let NNCF quantize for OpenVINO, and take back what costs too much."""
    return peers.openvino_controlled(work.file, work.batches, THREADS, is_text=work.subject.is_text)


def nncf_weights(work: Work) -> Run:
    """Let NNCF store weights in 4 bits in blocks of 32."""
    return peers.openvino_int4(work.file, THREADS)


_PEERS: Mapping[str, Method] = {
    "ONNX Runtime, static": static,
    "ONNX Runtime, dynamic": dynamic,
    "OpenVINO + NNCF": nncf,
    "OpenVINO + NNCF, accuracy control": controlled,
}
_STATIC: Mapping[str, Method] = {"planish": planish("quantize"), **_PEERS}
_BY_ROWS = "quantize{scheme=int8-dynamic,per_row=true}"

METHODS: Mapping[str, Mapping[str, Method]] = {
    "minilm": {
        "planish, static": planish("quantize"),
        "planish, static, unsmoothed": planish("quantize{smooth=false}"),
        "planish, static, weights rounded to the nearest": planish("quantize{gptq=false}"),
        "planish, static, TVM": planish("quantize", "tvm"),
        "planish, dynamic": planish("quantize{scheme=int8-dynamic}"),
        "planish, dynamic by rows, TVM": planish(_BY_ROWS, "tvm"),
        "the same, attention in bfloat16": planish(f"{_BY_ROWS},reduce-precision", "tvm"),
        **_PEERS,
        "planish, int4": planish("quantize{scheme=int4}"),
        "planish, int4, gptq": planish("gptq{bits=4,block=32}"),
        "planish, int4, awq and gptq": planish("awq{bits=4,block=32},gptq{bits=4,block=32}"),
        "planish, int4, TVM": planish("quantize{scheme=int4}", "tvm"),
        "OpenVINO + NNCF, int4": nncf_weights,
    },
    "cnns": _STATIC,
    "trained": {**_STATIC, "planish, weights in 4 bits": planish("quantize{weight_bits=4}")},
    "lstm": {**_STATIC, "planish, dynamic": planish("quantize{scheme=int8-dynamic}")},
}
"""Methods by part."""


def measure(
    subject: Subject, methods: Mapping[str, Method], seeds: int, count: int, log: Callable[[str, str], None]
) -> dict[str, Row]:
    """Run every method with every seed on what is held out.

    Args:
        subject: the model.
        methods: the methods by name; those that draw no calibration data give the same with every seed.
        seeds: the number of seeds.
        count: the number of batches to calibrate on.
        log: called with each method and what came of it.
    """
    rows = {name: Row() for name in [FLOAT, *methods]}
    float_run = peers.onnxruntime(subject.file, THREADS)
    exact = outputs(float_run, subject.test)
    rows[FLOAT] = Row([subject.score(exact, exact)], [_measures(subject, exact, exact)], float_run)
    log(f"{subject.name}: {FLOAT}", f"{rows[FLOAT].scored[0].mean():.4f}")
    for name, method in methods.items():
        row = rows[name]
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(prefix="planish-") as folder:
                try:
                    run = method(Work(subject, subject.calibration(seed, count), seed, Path(folder)))
                    found = outputs(run, subject.test)
                except Exception as error:  # all of them are findings
                    row.failure = f"{type(error).__name__}: {error}".splitlines()[0][:160]
                    log(f"{subject.name}: {name}", row.failure)
                    break
            row.scored.append(subject.score(found, exact))
            row.measures.append(_measures(subject, found, exact))
            row.run = row.run or run
            log(f"{subject.name}: {name}, seed {seed}", f"{row.scored[-1].mean():.4f}")
            if len(row.scored) == 2 and row.measures[0] == row.measures[1]:
                break  # it draws nothing
            gc.collect()
    return rows


def outputs(run: Run, batches: Sequence[Feeds]) -> list[list[np.ndarray]]:
    """What a model says of every batch."""
    return [[np.array(array) for array in run(batch)] for batch in batches]


def _measures(subject: Subject, found: Any, exact: Any) -> dict[str, float]:
    return {name: measure(found, exact) for name, measure in subject.measures.items()}


def latencies(subject: Subject, rows: Mapping[str, Row], rounds: int) -> dict[str, float]:
    """Each method's median time as a multiple of float32's of ONNX Runtime, all of them in turn."""
    runs = {name: partial(row.run, subject.test[0]) for name, row in rows.items() if row.run is not None}
    times = dict(zip(runs, in_turns(list(runs.values()), warm_seconds, rounds, shuffled=True), strict=True))
    return {name: float(np.median(own / times[FLOAT])) for name, own in times.items()}


def table(subject: Subject, rows: Mapping[str, Row], ratios: Mapping[str, float]) -> Table:
    """Every method's score, its change by intervals, and the other measures."""
    test = "McNemar" if subject.is_right else "worst seed"
    count = len(rows[FLOAT].scored[0])
    columns = ["method", subject.metric, "change", test, *subject.measures, "latency"]
    shown = Table(*columns, title=f"{subject.name}, {count} examples")
    exact = rows[FLOAT].scored[0]
    for name, row in rows.items():
        if row.failure:
            shown.add_row(name, f"[dim]{row.failure[:70]}")
            continue
        means = [float(scored.mean()) for scored in row.scored]
        middle = row.scored[int(np.argsort(means)[len(means) // 2])]
        change = "" if name == FLOAT else scores.difference(middle.astype(float), exact.astype(float)).text(4)
        compared = f"p = {scores.mcnemar(middle, exact):.3f}" if subject.is_right else f"{_worst(means, exact):.4f}"
        further = [scores.spread([held[key] for held in row.measures], 4) for key in subject.measures]
        shown.add_row(name, scores.spread(means, 4), change, compared, *further, f"{ratios.get(name, np.nan):.2f}")
    return shown


def _worst(means: Sequence[float], exact: np.ndarray) -> float:
    """The mean that is farthest from float's."""
    return max(means, key=lambda mean: abs(mean - exact.mean()))


def plain(rows: Mapping[str, Row], ratios: Mapping[str, float]) -> dict[str, Any]:
    """The rows in what JSON knows."""
    return {
        name: {
            "scores": [float(scored.mean()) for scored in row.scored],
            "measures": row.measures,
            "latency": ratios.get(name),
            "failure": row.failure,
        }
        for name, row in rows.items()
    }
