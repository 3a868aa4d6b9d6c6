"""The trainer: it learns, keeps the best, and writes only when it is told to."""

from typing import Any

import numpy as np
import pytest
import torch

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.distillation.trainer import Trainer, TrainingBatch, is_weight


def student() -> Graph:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 3)))
    graph.outputs["y"] = op.MatMul(x, op.constant(np.zeros((3, 2), np.float32), "weight"))
    return graph


def squared(got: Any, wanted: Any) -> torch.Tensor:
    return (got["y"] - wanted["y"]).square().mean()


BATCH = TrainingBatch((torch.eye(3),), {"y": torch.ones(3, 2)})


def test_steps_lower_the_score() -> None:
    trainer = Trainer(student(), squared, lr=0.1, steps=20)

    losses = [trainer.step(BATCH) for _ in range(20)]

    assert losses[0] == 1
    assert trainer.score([BATCH]) < 0.2
    assert losses == sorted(losses, reverse=True)


def test_what_was_kept_is_written_however_training_went_on() -> None:
    graph = student()
    trainer = Trainer(graph, squared, lr=0.1, steps=20)
    trainer.step(BATCH)
    trainer.keep()
    kept = trainer.score([BATCH])
    for _ in range(5):
        trainer.step(BATCH)
    assert not graph.constants["weight"].data.any()

    trainer.finish()

    assert trainer.score([BATCH]) == kept
    assert np.square(graph.constants["weight"].data - 1).mean() == pytest.approx(kept)


def test_the_learning_rate_falls_to_zero() -> None:
    trainer = Trainer(student(), squared, lr=0.1, steps=10)
    for _ in range(10):
        trainer.step(BATCH)
    last = trainer.score([BATCH])

    trainer.step(BATCH)

    assert trainer.score([BATCH]) == pytest.approx(last, abs=1e-6)


def test_masks_numbers_and_what_is_quantized_are_no_weights() -> None:
    graph = student()
    mask = graph.add_constant(np.array([0, -np.inf], np.float32))
    number = graph.add_constant(np.array([3.0], np.float32))
    integers = graph.add_constant(np.arange(3))
    floats = graph.add_constant(np.ones(3, DType.float8_e4m3fn.numpy))

    assert is_weight(graph.constants["weight"])
    assert not any(is_weight(constant) for constant in (mask, number, integers, floats))
