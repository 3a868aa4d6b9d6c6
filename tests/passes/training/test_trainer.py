"""The trainer: it learns, keeps the best, and writes only when it is told to."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.training.lessons import TrainingBatch
from planish.passes.training.trainer import Optimizer, Trainer, is_weight


def student() -> Graph:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 3)))
    graph.outputs["y"] = op.MatMul(x, op.constant(np.zeros((3, 2), np.float32), "weight"))
    return graph


def squared(got: Any, wanted: Any) -> torch.Tensor:
    return (got["y"] - wanted["y"]).square().mean()


BATCH = TrainingBatch((torch.eye(3),), {"y": torch.ones(3, 2)}, 3)


def trainer_of(graph: Graph) -> Trainer:
    return Trainer(graph, [graph.constants["weight"]], squared)


def score(trainer: Trainer) -> float:
    return float(squared(trainer.outputs([BATCH])[0], BATCH.wanted))


def test_steps_move_weights_by_shares_of_their_size() -> None:
    graph = student()
    graph.constants["weight"].data = np.full((3, 2), 64, np.float32)
    trainer = trainer_of(graph)

    losses = [trainer.step([[BATCH]], 3, 0.1) for _ in range(3)]

    assert losses == sorted(losses, reverse=True)
    (weight,) = trainer.weights()
    np.testing.assert_allclose(weight, 64 - 3 * 0.1 * 96, rtol=0.01)  # a size is known to half a power of two


def single() -> Graph:
    """A model whose shapes hold a batch of one, which an operator between its layers mixes with what is in a sample."""
    graph = Graph()
    op, random = Builder(graph), np.random.default_rng(0)
    x = graph.add_input("x", TensorType(DType.float32, (1, 4)))
    weight = op.constant(random.normal(size=(2, 3)).astype(np.float32), "weight")
    graph.outputs["y"] = op.MatMul(op.Reshape(op.Sin(x), [2, 2]), weight)
    return graph


def choosing() -> Graph:
    """The same model where a number of each sample chooses between two branches."""
    graph = single()
    op, branches = Builder(graph), [Graph(), Graph()]
    for inner, name in zip(branches, ("Neg", "Exp"), strict=True):
        inner.outputs["out"] = Builder(inner)(name, graph.outputs["y"])
    positive = op.Greater(op.ReduceSum(graph.inputs[0], keepdims=0), 0.0)
    graph.outputs["y"] = op.If(positive, then_branch=branches[0], else_branch=branches[1])
    return graph


@pytest.mark.parametrize("make", [single, choosing])
def test_samples_of_a_draw_that_run_together_give_the_step_of_samples_one_by_one(make: Callable[[], Graph]) -> None:
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 1, 4, generator=random), torch.randn(6, 2, 3, generator=random)
    batches = [TrainingBatch((a,), {"y": b}) for a, b in zip(x, y, strict=True)]
    apart, together = (trainer_of(make()) for _ in range(2))

    losses = apart.step([[batch] for batch in batches], 6, 0.1), together.step([batches], 6, 0.1)

    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(*(trainer.weights() for trainer in (apart, together)))
    assert not torch.equal(together.weights()[0], trainer_of(make()).weights()[0])
    for batch, outputs in zip(batches, together.outputs(batches), strict=True):
        torch.testing.assert_close(outputs, together.outputs([batch])[0])


def test_steps_of_gradient_descent_are_torch_s() -> None:
    trainer = Trainer(graph := student(), [graph.constants["weight"]], squared, optimizer="sgd")
    meant = torch.zeros(3, 2, requires_grad=True)
    optimizer = torch.optim.SGD([meant], lr=0.5, momentum=0.9, nesterov=True)

    for _ in range(4):
        optimizer.zero_grad()
        squared({"y": BATCH.inputs[0] @ meant}, BATCH.wanted).backward()
        optimizer.step()
        trainer.step([[BATCH]], 3, 0.5)

    np.testing.assert_allclose(trainer.weights()[0], meant.detach(), rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weights_decay_by_a_multiple_of_the_rate(optimizer: Optimizer) -> None:
    graph = student()
    weight = graph.constants["weight"]
    weight.data = np.ones((3, 2), np.float32)  # nothing is left to learn: only decay moves them
    for decayed, left in (([weight], 1 - 0.1 * 0.5), ([], 1.0)):
        trainer = Trainer(graph, [weight], squared, optimizer=optimizer, decay=0.5, decayed=decayed)
        trainer.step([[BATCH]], 3, 0.1)
        np.testing.assert_allclose(trainer.weights()[0], left, rtol=1e-6)


def test_weights_of_zeros_move_and_parts_weigh_by_their_samples() -> None:
    trainer, whole = trainer_of(student()), trainer_of(student())
    parts = [TrainingBatch((torch.eye(3)[rows],), {"y": torch.ones(3, 2)[rows]}, 1) for rows in ([0], [1], [2])]

    losses = [(trainer.step([[part] for part in parts], 3, 0.01), whole.step([[BATCH]], 3, 0.01)) for _ in range(20)]

    np.testing.assert_allclose(*zip(*losses, strict=True), rtol=1e-5)
    assert losses[-1] < losses[0]


def test_what_was_copied_is_restored_and_only_then_written() -> None:
    graph = student()
    trainer = trainer_of(graph)
    trainer.step([[BATCH]], 3, 0.01)
    held, kept = trainer.weights(), score(trainer)
    for _ in range(5):
        trainer.step([[BATCH]], 3, 0.01)
    assert not graph.constants["weight"].data.any()

    trainer.restore(held)
    trainer.finish()

    assert score(trainer) == kept
    assert np.square(graph.constants["weight"].data - 1).mean() == pytest.approx(kept)


def test_zeros_of_a_pruned_weight_stay() -> None:
    graph = student()
    graph.constants["weight"].data = np.array([[0, 1], [2, 0], [0, 4]], np.float32)
    weight = graph.constants["weight"]
    for pruned in ([], [weight]):
        trainer = Trainer(graph, [weight], squared, pruned=pruned)
        trainer.step([[BATCH]], 3, 0.1)
        assert np.array_equal(trainer.weights()[0] != 0, weight.data != 0) == bool(pruned)


def test_a_loss_that_is_no_number_moves_nothing() -> None:
    trainer = trainer_of(student())
    broken = TrainingBatch((torch.full((3, 3), torch.inf),), {"y": torch.ones(3, 2)}, 3)

    assert not np.isfinite(trainer.step([[broken]], 3, 1.0))
    assert not trainer.weights()[0].any()


def test_masks_numbers_and_what_is_quantized_are_no_weights() -> None:
    graph = student()
    mask = graph.add_constant(np.array([0, -np.inf], np.float32))
    number = graph.add_constant(np.array([3.0], np.float32))
    integers = graph.add_constant(np.arange(3))
    floats = graph.add_constant(np.ones(3, DType.float8_e4m3fn.numpy))

    assert is_weight(graph.constants["weight"])
    assert not any(is_weight(constant) for constant in (mask, number, integers, floats))


def test_weights_that_learn_in_bfloat16_are_judged_in_float32() -> None:
    generator = np.random.default_rng(0)
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 64)))
    weight = op.constant(generator.standard_normal((64, 2)).astype(np.float32), "weight")
    graph.outputs["y"] = op.MatMul(x, weight)
    inputs = torch.from_numpy(generator.standard_normal((32, 64)).astype(np.float32))
    batch = TrainingBatch((inputs,), {"y": torch.ones(32, 2)}, 32)
    trainer = Trainer(graph, [weight], squared, precision="bfloat16")

    loss = float(squared(trainer.outputs([batch])[0], batch.wanted))
    losses = [trainer.step([[batch]], 32, 0.02) for _ in range(50)]

    assert losses[0] != loss
    np.testing.assert_allclose(losses[0], loss, rtol=0.02)
    assert float(squared(trainer.outputs([batch])[0], batch.wanted)) < 0.2 * loss
    trainer.finish()
    (learnt,) = trainer.weights()
    np.testing.assert_array_equal(weight.data, learnt)
    assert (weight.data != torch.from_numpy(weight.data).bfloat16().float().numpy()).any()  # weights aren't rounded


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_gradients_are_clipped_to_their_median(clip: float) -> None:
    """A batch unlike the others changes where the weights go only if nothing bounds its gradient."""
    graph = student()
    trainer = Trainer(graph, [graph.constants["weight"]], squared, clip=clip)
    for _ in range(5):
        trainer.step([[BATCH]], 3, 1e-4)
    (before,) = trainer.weights()
    wild = TrainingBatch((torch.eye(3),), {"y": torch.full((3, 2), -1e4)}, 3)

    trainer.step([[wild]], 3, 1e-4)

    (after,) = trainer.weights()
    assert bool((after > before).all()) == bool(clip)


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    """The loss is one, though the root's slope at zero is none."""
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 2)))
    graph.outputs["y"] = op.Sqrt(op.Mul(x, op.constant(np.ones(2, np.float32), "weight")))
    trainer = trainer_of(graph)
    (before,) = trainer.weights()

    loss = trainer.step([[TrainingBatch((torch.zeros(3, 2),), {"y": torch.ones(3, 2)}, 3)]], 3, 0.1)

    assert loss == 1.0
    assert torch.equal(before, trainer.weights()[0])
    assert trainer.step([[TrainingBatch((torch.ones(3, 2),), {"y": torch.zeros(3, 2)}, 3)]], 3, 0.1) == 1.0
    assert not torch.equal(before, trainer.weights()[0])
