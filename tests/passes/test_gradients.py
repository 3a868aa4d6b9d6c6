"""Gradients of the loss at values inside a graph are drawn, or it is said why there are none."""

import numpy as np
import pytest
import torch

from planish.ir.builder import Builder
from planish.ir.errors import ModelError
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.gradients import Gradients
from planish.passes.measures import LossKind

LARGEST = float(np.finfo(np.float32).max)


def test_outputs_that_are_not_finite_are_named() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 4)))
    y = Builder(graph).Mul(x, np.full(4, 2, np.float32))
    graph.outputs["scores"] = y
    gradients = Gradients(graph, {y}, {"scores": LossKind.LOGITS}, torch.Generator().manual_seed(0))
    (drawn,) = gradients.draw({"x": np.eye(4, dtype=np.float32)}, 1)
    assert drawn[y].any()
    with pytest.raises(ModelError, match="the model's output 'scores' is not finite on the calibration data"):
        next(gradients.draw({"x": np.full((2, 4), LARGEST, np.float32)}, 1))


def test_scores_beside_boxes_have_gradients_of_their_own() -> None:
    """In a sum of squares of both, boxes in pixels would leave nothing of them."""
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 4)))
    boxes, logits = op.Mul(x, np.float32(300)), op.Mul(x, np.float32(2))
    graph.outputs["y"] = op.Concat(boxes, op.Sigmoid(logits), axis=1)
    gradients = Gradients(graph, {boxes, logits}, {"y": LossKind.NUMBERS}, torch.Generator().manual_seed(0))
    (drawn,) = gradients.draw({"x": np.eye(4, dtype=np.float32)}, 1)
    assert drawn[boxes].square().mean().sqrt() == pytest.approx(1 / 600, rel=1e-3)
    assert drawn[logits].square().mean().sqrt() > 0.05


@pytest.mark.parametrize("dtype", [DType.float32, DType.float16, DType.float64])
def test_classes_are_drawn_as_often_as_they_are_probable(dtype: DType) -> None:
    probabilities = np.array([0.0, 0.5, 0.3, 0.2, 0.0])
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities).astype(dtype.numpy)
    graph = Graph()
    y = Builder(graph).Identity(graph.add_input("x", TensorType(dtype, ("batch", 5))))
    graph.outputs["scores"] = y
    gradients = Gradients(graph, {y}, {"scores": LossKind.LOGITS}, torch.Generator().manual_seed(0))
    (drawn,) = gradients.draw({"x": np.tile(logits, (4000, 1))}, 1)
    found = drawn[y].numpy() * np.sqrt(2 * 4000) + probabilities  # a one in the place of the class
    counts = np.bincount(found.argmax(axis=1), minlength=5)
    np.testing.assert_allclose(found, np.eye(5)[found.argmax(axis=1)], atol=2e-3)
    np.testing.assert_allclose(counts / 4000, probabilities, atol=0.03)
    assert not counts[probabilities == 0].any()


def test_products_are_computed_in_the_type_that_is_asked_for() -> None:
    normal = np.random.default_rng(0).standard_normal
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 16)))
    hidden = op.MatMul(x, normal((16, 8)).astype(np.float32))
    graph.outputs["scores"] = op.MatMul(op.Tanh(hidden), normal((8, 4)).astype(np.float32))
    fed = {"x": normal((3, 16)).astype(np.float32)}
    drawn: list[torch.Tensor] = []
    for products in ("float32", "bfloat16"):
        generator = torch.Generator().manual_seed(0)
        gradients = Gradients(graph, {hidden}, {"scores": LossKind.LOGITS}, generator, products=products)
        drawn += [found[hidden] for found in gradients.draw(fed, 1)]
    exact, rounded = drawn
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02 * float(exact.abs().max()))
