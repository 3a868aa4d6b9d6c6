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
