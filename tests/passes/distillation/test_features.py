"""A student of another architecture: outputs by other names, features inside, and labels beside its teacher."""

from typing import Any

import numpy as np
import pytest

from planish.ir.errors import ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.numerics import drift
from planish.passes.base import Feeds, PassContext
from planish.passes.distillation.distill import Distillation
from planish.passes.distillation.features import compare_features, pairs_of, return_too
from planish.passes.probes import run_graph
from planish.targets.load import load_target

TEACHER = """(%x: float32[batch, 2, 6, 6]) {
  const %w: float32[12, 2, 3, 3]
  const %v: float32[8, 12, 3, 3]
  const %u: float32[8, 4]
  %a: float32[batch, 12, 4, 4] = Conv(%x, %w) @ "first"
  %b: float32[batch, 12, 4, 4] = Relu(%a) @ "first"
  %c: float32[batch, 8, 2, 2] = Conv(%b, %v) @ "second"
  %d: float32[batch, 8, 1, 1] = GlobalAveragePool(%c)
  %e: float32[batch, 8] = Flatten(%d)
  %f: float32[batch, 4] = MatMul(%e, %u)
  return scores = %f, embedding = %e
}"""
STUDENT = """(%image: float32[batch, 2, 6, 6]) {
  const %w: float32[5, 2, 3, 3]
  const %u: float32[5, 4]
  %a: float32[batch, 5, 4, 4] = Conv(%image, %w) @ "only"
  %b: float32[batch, 5, 4, 4] = Relu(%a) @ "only"
  %d: float32[batch, 5, 1, 1] = GlobalAveragePool(%b)
  %e: float32[batch, 5] = Flatten(%d)
  %f: float32[batch, 4] = MatMul(%e, %u)
  return y = %f
}"""
OPTIONS = {"teacher": "big.onnx", "outputs": ("y->scores",), "epochs": 20, "lr": 2e-2, "loss": "mse"}
DATA: list[Feeds] = [
    {"image": array} for array in np.random.default_rng(0).standard_normal((12, 16, 2, 6, 6)).astype(np.float32)
]


def made(text: str, graph_of: Any, seed: int) -> Graph:
    random = np.random.default_rng(seed)
    shapes = [(12, 2, 3, 3), (8, 12, 3, 3), (8, 4)] if seed == 1 else [(5, 2, 3, 3), (5, 4)]
    names = ["w", "v", "u"] if seed == 1 else ["w", "u"]
    weights = {name: random.standard_normal(shape, np.float32) for name, shape in zip(names, shapes, strict=True)}
    return graph_of(text, weights)


@pytest.fixture
def teacher(graph_of) -> Graph:
    return made(TEACHER, graph_of, 1)


@pytest.fixture
def student(graph_of) -> Graph:
    return made(STUDENT, graph_of, 2)


def taught(teacher: Graph, student: Graph, labels: Any = (), **options: Any) -> Any:
    context = PassContext(
        load_target("x86-64"), student.clone(), DATA, labels=labels, read_model=lambda reference: teacher
    )
    return Distillation(**{**OPTIONS, **options}).apply(student, context)


def error(teacher: Graph, student: Graph, ours: str, theirs: str) -> float:
    student = student.clone()
    if ours not in student.outputs:
        return_too(student, [ours], "model")
        ours = "feature 0"
    teacher = teacher.clone()
    if theirs not in teacher.outputs:
        return_too(teacher, [theirs], "teacher")
        theirs = "feature 0"
    feeds = DATA[-1]
    (wanted,), (got,) = run_graph(teacher, [{"x": feeds["image"]}]), run_graph(student, [feeds])
    import torch

    pair = ({"feature 0": torch.from_numpy(it)} for it in (got[ours], wanted[theirs]))
    return float(compare_features(1, *pair))


def test_outputs_are_matched_by_names(teacher: Graph, student: Graph) -> None:
    before = error(teacher, student, "y", "scores")
    assert taught(teacher, student).changed
    assert error(teacher, student, "y", "scores") < 0.8 * before
    assert list(student.outputs) == ["y"]


def test_features_are_matched_by_values_or_layers_whatever_their_channels(teacher: Graph, student: Graph) -> None:
    plain, matched = student.clone(), student.clone()
    taught(teacher, plain)
    taught(teacher, matched, features=("only->first",), feature_weight=10.0)
    assert error(teacher, matched, "b", "b") < 0.7 * error(teacher, plain, "b", "b")
    assert [node.operator for node in matched.nodes] == [node.operator for node in student.nodes]
    assert list(teacher.outputs) == ["scores", "embedding"]


def test_labels_teach_beside_the_teacher(teacher: Graph, student: Graph) -> None:
    others = [outputs["y"].argmax(-1) for outputs in run_graph(student, DATA)]  # as the student has it already
    alone, both = student.clone(), student.clone()
    taught(teacher, alone, loss="kl")
    taught(teacher, both, others, loss="kl", label_weight=0.9)
    found = [[outputs["y"].argmax(-1) for outputs in run_graph(graph, DATA)] for graph in (alone, both)]
    agreement = [np.mean(np.concatenate(it) == np.concatenate(others)) for it in found]
    assert agreement[1] > agreement[0]
    assert drift(run_graph(alone, DATA), run_graph(both, DATA)) > 0.01


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"outputs": ("y",)}, UsageError, "outputs are of the form student->teacher, not 'y'"),
        ({"outputs": ("z->scores",)}, UsageError, "the model has no output 'z'"),
        ({"outputs": ("y->score",)}, UsageError, "the teacher has no output 'score'; did you mean 'scores'"),
        ({"outputs": ("y->embedding",)}, UsageError, r"'y' is float32\[batch, 8\] in the teacher"),
        ({"outputs": ()}, UsageError, "the teacher has the outputs scores, embedding, but the model has y"),
        ({"features": ("onli->first",)}, UsageError, "the model computes no float 'onli', .* did you mean 'only'"),
        (
            {"features": ("only->second",)},
            ModelError,
            r"a feature has the shape \[32, 5, 4, 4\] in the student, but \[32, 8, 2, 2\]",
        ),
        ({"label_weight": 0.5}, UsageError, "label_weight takes labels, and the calibration data have none"),
    ],
)
def test_what_doesn_t_fit_is_told(
    teacher: Graph, student: Graph, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        taught(teacher, student, **options)


def test_pairs_are_pairs() -> None:
    assert pairs_of("features", ["a->b", " c -> d "]) == [("a", "b"), ("c", "d")]
