"""Gradual pruning: zeros come little by little, are those that were asked for in the end, and nothing else is kept."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.base import Feeds, PassContext, PassResult
from planish.passes.distillation.distill import Distillation
from planish.passes.sparsity.patterns import Pattern
from planish.passes.training.gradual import GradualPruning
from planish.passes.training.lessons import TrainingBatch
from planish.passes.training.train import Training
from planish.passes.training.trainer import Trainer
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
DATA: list[Feeds] = [{"x": RNG.standard_normal((16, 2, 4, 4), np.float32)} for _ in range(12)]
SHAPES = {"conv": (8, 2, 3, 3), "wide": (32, 24), "head": (6, 24)}


def network() -> Graph:
    random = np.random.default_rng(1)
    graph = Graph()
    op = Builder(graph)
    weights = {name: op.constant(random.standard_normal(shape, np.float32) / 4, name) for name, shape in SHAPES.items()}
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 2, 4, 4)))
    h = op.Relu(op.Conv(x, weights["conv"], np.ones(8, np.float32)))
    h = op.Relu(op.MatMul(op.Flatten(h), weights["wide"]))
    graph.outputs["y"] = op.Gemm(h, weights["head"], np.zeros(6, np.float32), transB=1)
    return graph


def distilled(graph: Graph, **options: Any) -> PassResult:
    """The teacher is the network as it is, so that nothing but zeros can come of training."""
    return Distillation(**options).apply(graph, PassContext(load_target("x86-64"), graph.clone(), DATA))


def zeros(graph: Graph) -> dict[str, int]:
    return {name: int((constant.data == 0).sum()) for name, constant in graph.constants.items() if name in SHAPES}


@given(st.integers(1, 3000), st.floats(0.01, 0.99))
def test_zeros_come_fast_at_first_and_are_all_there_after_half_of_the_steps(steps: int, sparsity: float) -> None:
    pruning = GradualPruning(Pattern(), sparsity, {})

    shares = [pruning.share(step, steps) for step in range(steps)]

    told = {step: share for step, share in enumerate(shares) if share is not None}
    risen = np.diff(list(told.values()))
    assert min(told) == 0
    assert max(told) == steps // 2
    assert told[steps // 2] == sparsity
    assert (risen > 0).all()
    assert all(pruning.is_whole(step, steps) == (step >= steps // 2) for step in range(steps))
    quarter = next((step for step in told if step == steps // 4 and steps % 4 == 0), None)
    assert quarter is None or told[quarter] == pytest.approx(sparsity * (0 if quarter == 0 else 7 / 8))


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_weights_that_are_left_learn_and_zeros_stay(average: float) -> None:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 3)))
    weight = op.constant(np.array([[1, -5], [2, 6], [3, -4]], np.float32), "weight")
    graph.outputs["y"] = op.MatMul(x, weight)
    (found,) = [it for it in graph.constants.values() if it.name == "weight"]
    context = PassContext(load_target("x86-64"), graph, DATA)
    pruning, _ = Training._pruning(Distillation(sparsity=0.5, pattern="unstructured"), graph, graph, context)
    batch = TrainingBatch((torch.eye(3),), {"y": torch.ones(3, 2)}, 3)

    def squared(got: Any, wanted: Any) -> torch.Tensor:
        return (got["y"] - wanted["y"]).square().mean()

    trainer = Trainer(graph, [found], squared, average=average, pruning=pruning)
    trainer.step([[batch]], 3, 0.01)
    (before,) = trainer.weights()
    trainer.prune(0.5)
    trainer.step([[batch]], 3, 0.01)

    (after,) = trainer.weights()
    assert (after == 0).tolist() == [[True, False], [True, False], [True, False]]
    assert (after[:, 1] != before[:, 1]).all()


@pytest.mark.parametrize("options", [{"lr": 1e-2}, {"lr": 1e-9}, {}], ids=str)
def test_as_many_weights_are_zero_as_were_asked_for(options: dict[str, Any]) -> None:
    """Even if no rate, or nothing that is learned, makes the network better."""
    graph = network()

    result = distilled(graph, epochs=4, sparsity=0.75, pattern="unstructured", **options)

    assert zeros(graph) == {name: 3 * np.prod(shape) // 4 for name, shape in SHAPES.items()}
    assert result.notes[-1] == "792 of 1056 weights are zero now, 75.0 %"
    assert graph.constants.keys() == network().constants.keys()


def test_blocks_and_neighbours_are_kept_as_patterns_say() -> None:
    blocks, neighbours = network(), network()

    result = distilled(blocks, epochs=2, lr=1e-2, sparsity=0.5)
    distilled(neighbours, epochs=2, lr=1e-2, pattern="1:4")

    assert zeros(blocks)["conv"] == 0
    assert any("no kernel leaves out blocks of a convolution of several taps" in miss for miss in result.misses)
    wide = blocks.constants["wide"].data != 0
    assert sorted(wide[row : row + 4, left : left + 16].any() for row in range(0, 32, 4) for left in (0, 16)) == (
        8 * [False] + 8 * [True]
    )
    for name, constant in neighbours.constants.items():
        if name in SHAPES:
            matrix = constant.data if name == "wide" else constant.data.reshape(len(constant.data), -1).T
            kept = np.pad(matrix != 0, ((0, -len(matrix) % 4), (0, 0))).reshape(-1, 4, matrix.shape[1]).sum(1)
            assert (kept <= 1).all()


def test_frozen_layers_stay_dense() -> None:
    graph = network()
    step = Distillation(epochs=2, lr=1e-2, sparsity=0.5, pattern="unstructured", only=("wide",))
    for node in graph.nodes:
        if node.operator == "MatMul":
            node.location = type(node.location)("wide")
    step.apply(graph, PassContext(load_target("x86-64"), graph.clone(), DATA))
    assert zeros(graph) == {"conv": 0, "wide": 384, "head": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 0.5, "pattern": "2:4"}, "pattern=2:4 of pass distill fixes the sparsity: leave sparsity= out"),
        ({"sparsity": 0.5, "pattern": "four"}, "option pattern of pass distill is `unstructured`"),
    ],
)
def test_options_that_contradict_each_other_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        distilled(network(), **options)


def test_a_model_without_dense_layers_is_refused() -> None:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 2, 4, 4)))
    graph.outputs["y"] = op.Mul(x, np.arange(4, dtype=np.float32))
    with pytest.raises(UsageError, match="distill: no layer can lose weights: none of the layers"):
        distilled(graph, sparsity=0.5)
