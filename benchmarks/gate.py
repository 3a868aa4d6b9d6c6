"""How often a gate is wrong: alarms where nothing has changed, and regressions that it lets through.

    pip install -e ".[build]"
    python benchmarks/gate.py [ARTIFACT] [-d DATA] [--times 200]

An artifact, by default a small classifier that is made here, is compared with itself, with bounds on its metric,
outputs, latency and size; each miss is a false alarm. Then a classifier is compared with one that is wrong on one
percent more of the inputs, on as many fresh samples as the gate says to suffice for its bound of half a percent; each
pass is a miss.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import track

import planish
from planish.backends import Executable
from planish.driver.comparison import Comparison, compare
from planish.driver.data import Batch
from planish.driver.evaluation import drop_interval, evaluate, find_metric, flips
from planish.driver.gate import Gate
from planish.driver.lowering import open_subject
from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.targets.load import load_target

FEATURES, CLASSES, REGRESSION = 16, 10, 0.01
GATE = Gate.of("0.5%", 0.999, "5%", "1%")


def main(
    artifact: Annotated[str | None, typer.Argument(help="The artifact to compare with itself.")] = None,
    data: Annotated[str | None, typer.Option("-d", "--data", help="The data that the artifact runs on.")] = None,
    times: Annotated[int, typer.Option(help="Comparisons of each kind.")] = 200,
    alarms: Annotated[bool, typer.Option(help="Whether an artifact is compared with itself, which takes long.")] = True,
) -> None:
    """Print how often the gate is wrong."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as work:
        right, wrong, samples = Path(work, "right.onnx"), Path(work, "wrong.onnx"), Path(work, "samples.npz")
        weight = random.standard_normal((FEATURES, CLASSES)).astype(np.float32)
        planish.write(_classifier(weight, float("inf")), right)
        planish.write(_classifier(weight, float(np.quantile(random.standard_normal(1_000_000), 1 - REGRESSION))), wrong)
        np.savez(samples, **_drawn(random, weight, 512))
        if artifact is None or data is None:
            artifact, data = str(right), str(samples)
        if alarms:
            count = sum(_is_alarm(artifact, artifact, data) for _ in track(range(times), "against itself"))
            print(f"{artifact} against itself: {count} alarms in {times} comparisons, {count / times:.1%}")
        first = compare(str(right), str(wrong), "native", str(samples), "accuracy")
        enough = GATE.sufficient_samples(first)
        assert enough is not None
        target = load_target("native")
        models = [open_subject(str(it), target, Path(work, it.stem)).executable for it in (right, wrong)]
        found = 0
        for _ in track(range(times), "a regression"):
            comparison = _of_other_samples(first, models, _drawn(random, weight, enough))
            found += not all(it.is_met for it in Gate.of("0.5%").checks(comparison))
        print(f"worse by {REGRESSION:.0%} on {enough} samples: found in {found} of {times}, {found / times:.1%}")


def _is_alarm(a: str, b: str, data: str) -> bool:
    return not all(it.is_met for it in GATE.checks(compare(a, b, "native", data, "accuracy")))


def _of_other_samples(
    comparison: Comparison, models: Sequence[Executable], drawn: Mapping[str, np.ndarray]
) -> Comparison:
    """A comparison with the metric on other samples; the latency, on which nothing depends here, is not timed again."""
    batch = Batch({"x": drawn["x"]}, drawn["labels"])
    metric = find_metric("accuracy", Path())
    scores = [evaluate(metric, model.run, [batch]) for model in models]
    drop = metric.drop(scores[0].value, scores[1].value)
    return replace(comparison, drop=drop, drop_interval=drop_interval(metric, *scores), flips=flips(*scores))


def _classifier(weight: np.ndarray, threshold: float) -> Graph:
    """A linear classifier that says the opposite where the first feature is above a threshold."""
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", FEATURES)))
    y = op.MatMul(x, weight)
    first = op.Gather(x, np.array([0]), axis=1)
    graph.outputs["y"] = op.Where(op.Greater(first, np.array([threshold], np.float32)), op.Neg(y), y)
    return graph


def _drawn(random: np.random.Generator, weight: np.ndarray, count: int) -> Mapping[str, np.ndarray]:
    """Samples whose labels are what the classifier says that is right."""
    x = random.standard_normal((count, FEATURES)).astype(np.float32)
    return {"x": x, "labels": (x @ weight).argmax(1)}


if __name__ == "__main__":
    typer.run(main)
