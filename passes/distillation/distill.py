"""Distillation: the model as it was read teaches the model as it is now."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt

from ...ir.errors import CheckError, UsageError
from ...ir.graph import Graph
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ..base import Effect, Pass, PassContext, PassResult
from .integer_weights import make_trainable
from .loss import choose_measures, measure
from .trainer import Trainer, TrainingBatch, is_weight, make_batches


@dataclass(frozen=True)
class Distillation(Pass):
    """Train the weights on calibration data so that the outputs come back to those of the source model.

    No labels are needed. A quantized graph is trained with rounding in place, its integer weights included. The last
    tenth of the batches is held out, and the weights that did best on it are kept: the model never ends worse there
    than it began.

    Attributes:
        epochs: passes over the calibration data.
        lr: the learning rate of Adam at the start; it falls to zero along a cosine.
        loss: `kl` compares outputs as classes' softened probabilities (Hinton et al., "Distilling the Knowledge in a
            Neural Network", 2015), `mse` as numbers, relative to their size. `auto` takes `kl` for what a softmax gives
            and for logits, which are what a linear layer gives in two dimensions, and `mse` for the rest.
        temperature: softens the probabilities of `kl`.
    """

    name: ClassVar[str] = "distill"
    effect: ClassVar[Effect] = Effect.LOSSY
    max_drift: ClassVar[float] = math.inf  # it may have to undo any damage; held-out data is its judge

    epochs: Annotated[int, Ge(1)] = 5
    lr: Annotated[float, Gt(0)] = 1e-3
    loss: Literal["auto", "kl", "mse"] = "auto"
    temperature: Annotated[float, Gt(0)] = 4.0

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        measures = choose_measures(context.source, self.loss)
        if not measures:
            raise UsageError(f"{self.name}: the model has no float output to match")
        self._check_gradients(graph)
        student = graph.clone()
        roundings = make_trainable(student)
        if not any(is_weight(constant) for constant in student.constants.values()):
            raise UsageError(f"{self.name}: the model has no weights to train")
        batches = make_batches(context.source, student, context.calibration)
        held = max(1, len(batches) // 10)
        held_out, training = batches[-held:], batches[:-held] or batches
        compare = partial(measure, measures, temperature=self.temperature)
        trainer = Trainer(student, compare, self.lr, self.epochs * len(training))
        before, after = self._train(trainer, training, held_out, context)
        if after >= before:
            return PassResult({}, [f"training didn't lower the loss on held-out data, which is {before:.4g}"])
        trainer.finish()
        arrays = {constant.name: constant.data for constant in student.constants.values()}
        arrays |= {rounding.constant: rounding.integers() for rounding in roundings}
        return PassResult({"weights": _copy_arrays(arrays, graph)})

    def require(self, context: PassContext) -> None:
        if not context.calibration:
            raise UsageError(
                f"{self.name} learns from inputs and got none; give calibration data "
                "(`data: {calibration: ...}` in a recipe, `-d DATA` on the command line)"
            )

    def _check_gradients(self, graph: Graph) -> None:
        for node in graph.nodes:
            if has_trait(node.operator, Trait.WITHOUT_GRADIENT):
                raise UsageError(
                    f"{self.name}: {node.operator} in {node.location} computes in integers, through which nothing is "
                    "learnt; distill before the model is quantized, or quantize with scheme=int8"
                )

    def _train(
        self,
        trainer: Trainer,
        batches: Sequence[TrainingBatch],
        held_out: Sequence[TrainingBatch],
        context: PassContext,
    ) -> tuple[float, float]:
        """The loss on held-out data before training, and the best one after any epoch."""
        generator = np.random.default_rng(context.seed)
        before = best = trainer.score(held_out)
        total = self.epochs * len(batches)
        order = [index for _ in range(self.epochs) for index in generator.permutation(len(batches))]
        for step, index in enumerate(order, start=1):
            if not math.isfinite(trainer.step(batches[index])):
                raise CheckError(
                    f"{self.name}: the loss is no longer a number in step {step} of {total}; lower lr={self.lr:g}"
                )
            context.progress(self.name, step, total)
            if step % len(batches) == 0 and (score := trainer.score(held_out)) < best:
                best = score
                trainer.keep()
        return before, best


def _copy_arrays(arrays: Mapping[str, np.ndarray], graph: Graph) -> int:
    """Give a graph's constants new arrays; returns how many differ from the old ones."""
    changed = 0
    for constant in graph.constants.values():
        array = arrays[constant.name]
        if not np.array_equal(array, constant.data, equal_nan=constant.dtype.is_float):
            constant.data = array
            changed += 1
    return changed
