"""Distillation: the model as it was read, or another one, teaches the model as it is now."""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Gt

from ...ir.analysis.cost import summarize
from ...ir.errors import CheckError, UsageError
from ...ir.graph import Constant, Graph
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ..base import Effect, Pass, PassContext, PassResult
from ..judge import Judge
from ..measures import measure
from .climb import Climb
from .integer_weights import make_trainable
from .learned_scales import ScalePlan, learn_scales
from .lessons import ROWS, Lessons, Piece, divide
from .teacher import aligned
from .trainer import Trainer, is_weight

_STEPS = 600
"""Steps of training, unless epochs are given or they would take too long."""
_TRIALS = 6
"""The part of the steps that a rate is tried for is one in so many."""
_OPERATIONS = 2e13
"""The operations that training takes at most, unless epochs are given: minutes of a processor core."""
_RUNS = 4
"""What a step takes, in runs of the student: one, two back, and the teacher's."""
_FEWEST = 8
"""The samples of a step where each costs many operations."""
_HELD_OUT = 10
"""How many pieces of the data there are for one that is held out."""
_SAME = 1e-10
"""The loss below which a student gives what its teacher gives: relative errors are squared in it."""


@dataclass(frozen=True)
class Distillation(Pass):
    """Train the weights on calibration data so that the outputs come back to those of the source model.

    No labels are needed. A quantized graph is trained with rounding in place, its integer weights included. A tenth of
    the data is held out, and judges: by the metric where there are labels, otherwise by how often the student chooses
    its teacher's class, or by the cosine of other outputs; and by the loss. What makes things worse is undone: the
    model ends with a lower loss there than it began with, and loses no more than chance explains, or it stays as it is.

    Attributes:
        epochs: passes over the calibration data; 0 takes 600 steps of 32 samples, however many data there are.
        lr: how far a step may move a weight, as a share of its root mean square; it is warmed up, and falls to zero
            along a cosine. 0 tries several for a few steps, and takes the one that lowers the loss most on what is
            held out.
        loss: `kl` compares outputs as classes' softened probabilities (Hinton et al., "Distilling the Knowledge in a
            Neural Network", 2015), `mse` as numbers, relative to their size. `auto` takes `kl` for what a softmax gives
            and for logits, which are what a linear layer gives in two dimensions, and `mse` for the rest.
        temperature: softens the probabilities of `kl`.
        teacher: a model to learn from in place of the one that was read, named as a recipe names models.
    """

    name: ClassVar[str] = "distill"
    effect: ClassVar[Effect] = Effect.LOSSY
    max_drift: ClassVar[float] = math.inf  # it may have to undo any damage; held-out data is its judge

    epochs: Annotated[int, Ge(0)] = 0
    lr: Annotated[float, Ge(0)] = 0.0
    loss: Literal["auto", "kl", "mse"] = "auto"
    temperature: Annotated[float, Gt(0)] = 4.0
    teacher: str = ""

    def require(self, context: PassContext) -> None:
        if not context.calibration:
            raise UsageError(
                f"{self.name} learns from inputs and got none; give calibration data "
                "(`data: {calibration: ...}` in a recipe, `-d DATA` on the command line)"
            )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        self._check_gradients(graph)
        student = graph.clone()
        frozen = {constant.name for constant in graph.constants.values() if not _is_selected(constant, context)}
        weights = [it for it in student.constants.values() if is_weight(it) and it.name not in frozen]
        planned = self._scales(student, frozen)
        roundings = make_trainable(student, frozen)
        scales = learn_scales(student, planned)
        weights += [rounding.floats for rounding in roundings] + [scale.operands[1] for scale in scales if scale.least]
        if not weights:
            raise UsageError(f"{self.name}: the model has no weights to train" + " but frozen ones" * bool(frozen))
        teacher = aligned(context.read_model(self.teacher), graph) if self.teacher else context.source
        climb, trainer, steps = self._prepared(teacher, student, weights, context)
        if climb.first.loss <= _SAME:
            which = self.teacher or "the one that this build began with"
            hint = "" if self.teacher else "; `teacher` names another one"
            return PassResult(misses=[f"the model gives what its teacher gives, {which}{hint}"])
        told = self._train(climb, steps)
        if climb.best is climb.first and climb.lost and self.lr:
            raise CheckError(f"{self.name}: the loss is no longer a number with lr={self.lr:g}; lower or omit it")
        if climb.best is climb.first:
            return PassResult(misses=[f"training made nothing better on held-out data, {told}"])
        trainer.finish()
        for scale in scales:
            scale.settle(student)
        arrays = {constant.name: constant.data for constant in student.constants.values()}
        arrays |= {rounding.constant.name: rounding.integers() for rounding in roundings}
        return PassResult({"weights": _copy_arrays(arrays, graph)}, notes=[told])

    def _scales(self, graph: Graph, frozen: AbstractSet[str]) -> ScalePlan:
        """The scales that are trained: none, since grids stay as they are."""
        return ScalePlan()

    def _check_gradients(self, graph: Graph) -> None:
        for node in graph.nodes:
            if has_trait(node.operator, Trait.WITHOUT_GRADIENT):
                raise UsageError(
                    f"{self.name}: {node.operator} in {node.location} computes in integers, through which nothing is "
                    "learnt; distill before the model is quantized, or quantize with scheme=int8"
                )

    def _prepared(
        self, teacher: Graph, student: Graph, weights: Sequence[Constant], context: PassContext
    ) -> tuple[Climb, Trainer, int]:
        """What trains the student, before its first step, and how many there are to be."""
        pieces = divide(student, context.calibration, context.labelled)
        held_out = range(len(pieces) - 1, -1, -_HELD_OUT)
        judging = [pieces[place] for place in held_out]
        labels = [piece.labels for piece in judging]
        labelled = None if context.labelled is None else replace(context.labelled, labels=labels)
        judge = Judge(teacher, [piece.feeds for piece in judging], labelled, self.loss)
        if not judge.measures:
            raise UsageError(f"{self.name}: the model has no float output to match")
        trainer = Trainer(student, weights, partial(measure, judge.measures, temperature=self.temperature))
        rows, steps = _plan(student, pieces)
        climb = Climb(
            trainer,
            Lessons(teacher, student, pieces),
            rows,
            held_out,
            judge,
            np.random.default_rng(context.seed),
            partial(context.progress, self.name),
        )
        return climb, trainer, self.epochs * climb.steps_of_epoch or steps

    def _train(self, climb: Climb, steps: int) -> str:
        """Find the rate and train with it; returns what came of it."""
        rate = self.lr or climb.find_rate(max(steps // _TRIALS, 1), steps)
        if rate:
            climb.climb(rate, steps)
        first, best = climb.first, climb.best
        return (
            f"where the loss is {best.loss:.3g} and was {first.loss:.3g}, and {best.drop:.3g} % are lost and were "
            f"{first.drop:.3g} % (rate {rate:g}, {steps} steps)"
        )


def _is_selected(constant: Constant, context: PassContext) -> bool:
    """Whether all that read a constant may be touched."""
    return all(context.selects(use.node) for use in constant.uses)


def _plan(graph: Graph, pieces: Sequence[Piece]) -> tuple[int, int]:
    """How many samples a step takes, and how many steps there are, by what they cost and how many samples there are."""
    first, count = pieces[0], sum(piece.rows for piece in pieces)
    shapes = [(value.type.dims or (), np.shape(first.feeds[value.name])) for value in graph.inputs]
    sizes = {dim: size for pair in shapes for dim, size in zip(*pair, strict=False) if isinstance(dim, str)}
    affordable = _OPERATIONS * first.rows / (_RUNS * max(summarize(graph, sizes).flops, 1))
    rows = int(min(ROWS, max(affordable / _STEPS, _FEWEST), max(count // 4, 1)))
    return rows, int(min(_STEPS, max(affordable / rows, 1)))


def _copy_arrays(arrays: Mapping[str, np.ndarray], graph: Graph) -> int:
    """Give a graph's constants new arrays; returns how many differ from the old ones."""
    changed = 0
    for constant in graph.constants.values():
        array = arrays[constant.name]
        if not np.array_equal(array, constant.data, equal_nan=constant.dtype.is_float):
            constant.data = array
            changed += 1
    return changed
