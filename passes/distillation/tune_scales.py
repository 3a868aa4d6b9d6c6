"""Tuning of scales: what is left of a rounded model's error is taken back by numbers that cost nothing to change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Interval

from ...ir.errors import UsageError
from ...ir.graph import Constant, Graph
from ..base import Effect, Feeds, Pass, PassContext, PassResult
from ..measures import LossKind, choose_measures, measure
from ..output_parts import OutputParts
from ..precision import Precision, fast_precision

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor
    from torch.nn import Module

    from ...ir.interpreter import Interpreter

_SCALES: dict[str, tuple[int, ...]] = {
    "com.microsoft::MatMulNBits": (2,),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
}
"""Inputs of operators that are tuned: scales of blocks, scales and shifts of normalizations."""

_JUDGES = 8
"""About how many batches are held out."""

_WARM_UP = 5
"""Steps in which the learning rate rises."""


@dataclass(frozen=True)
class ScaleTuning(Pass):
    """Tune the scales of rounded weights, and those of normalizations, so that the outputs come back to the source's.

    Codes and zero points stay, so that the model neither grows nor slows down; all scales are learned together, end to
    end, as in the second phase of Chen et al., "EfficientQAT: Efficient Quantization-Aware Training for Large Language
    Models", ACL 2025. Some batches are held out: unless the loss on them falls, the model stays as it was.

    Attributes:
        iterations: the number of training steps, on one batch each.
        lr: the learning rate of Adam, as a share of each scale; it falls to zero along a cosine.
        loss: `kl` compares outputs as classes' probabilities along the last axis, `mse` as numbers; `auto` takes `kl`
            for what a softmax gives and for logits, as `distill` does.
        precision: the type that layers multiply in while scales learn; what is judged stays in float32. `auto` takes
            bfloat16 where the processor multiplies in it.
    """

    name: ClassVar[str] = "tune-scales"
    effect: ClassVar[Effect] = Effect.LOSSY
    iterations: Annotated[int, Ge(1)] = 60
    lr: Annotated[float, Interval(gt=0, lt=1)] = 5e-4
    loss: Literal["kl", "mse", "auto"] = "kl"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def require(self, context: PassContext) -> None:
        if len(context.calibration) < 2:
            raise UsageError(
                f"{self.name} learns from some batches and is judged by others, and got {len(context.calibration)}; "
                "give calibration data (`data: {calibration: ...}` in a recipe, `-d DATA` on the command line)"
            )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        tuned = [constant for constant in graph.constants.values() if _is_tuned(constant, context)]
        measures = choose_measures(context.source, self.loss)
        if not tuned or not measures:
            return PassResult(misses=["there are no scales of rounded weights, or no floats to match"])
        held_out = context.calibration[:: max(2, len(context.calibration) // _JUDGES)]
        kept = {id(batch) for batch in held_out}
        training = [batch for batch in context.calibration if id(batch) not in kept]
        precision = fast_precision() if self.precision == "auto" else self.precision
        student = _Student(graph, tuned, context.source, measures, precision)
        self._train(student, training, context)
        before, after = student.scores(held_out)
        if not after < before:
            return PassResult(misses=[f"tuning didn't lower the loss on held-out batches, which is {before:.4g}"])
        for constant, array in zip(tuned, student.arrays(), strict=True):
            constant.data = array
        note = f"the loss on held-out batches is {after:.4g}, and was {before:.4g}"
        return PassResult({"scales": len(tuned)}, notes=[note])

    def _train(self, student: "_Student", batches: list[Feeds], context: PassContext) -> None:
        import torch

        optimizer = torch.optim.Adam(student.changes, self.lr, betas=(0.9, 0.95))
        order = np.random.default_rng(context.seed).permutation(len(batches))
        for step in range(self.iterations):
            cosine = (1 + math.cos(math.pi * step / self.iterations)) / 2
            optimizer.param_groups[0]["lr"] = self.lr * min(1, (step + 1) / _WARM_UP) * cosine
            optimizer.zero_grad()
            student.loss(batches[order[step % len(order)]]).backward()
            optimizer.step()
            context.progress(self.name, step + 1, self.iterations)


def _is_tuned(constant: Constant, context: PassContext) -> bool:
    """Whether all nodes that read a constant read it as a scale, and are selected."""
    is_scale = [use.index in _SCALES.get(use.node.operator, ()) and context.selects(use.node) for use in constant.uses]
    return bool(is_scale) and all(is_scale) and constant.dtype.is_trainable


class _Student:
    """A graph whose scales are changed by shares of themselves, beside the graph that it is to match."""

    def __init__(
        self,
        graph: Graph,
        tuned: Sequence[Constant],
        source: Graph,
        measures: Mapping[str, LossKind],
        precision: Precision,
    ) -> None:
        import torch

        from ...ir.interpreter import Interpreter
        from ...ir.module import to_module

        self._inputs = [value.name for value in graph.inputs]
        self._outputs = list(graph.outputs)
        products = getattr(torch, precision)
        self._teacher, self._tutor = Interpreter(source), Interpreter(source, products=products)
        self._parts = OutputParts(source, measures)
        self._module = to_module(graph, training=True).requires_grad_(False)
        self._learning = to_module(graph, training=True, products=products)
        for name, parameter in self._module.named_parameters():
            self._learning.register_parameter(name, parameter)
        places = {constant: f"constant_{place}" for place, constant in enumerate(graph.constants.values())}
        self._before = {places[constant]: self._module.get_parameter(places[constant]) for constant in tuned}
        self.changes = [torch.zeros_like(scale, requires_grad=True) for scale in self._before.values()]

    def _scales(self) -> "dict[str, Tensor]":
        pairs = zip(self._before.items(), self.changes, strict=True)
        return {name: scale * (1 + change) for (name, scale), change in pairs}

    def loss(self, feeds: Feeds) -> "Tensor":
        """How far the outputs are from the teacher's, to learn from."""
        return self._loss(feeds, self._wanted(feeds, self._tutor), self._learning, self._scales())

    def scores(self, batches: Sequence[Feeds]) -> tuple[float, float]:
        """The mean losses over some batches: before any scale was changed, and as they are by now."""
        import torch

        scales, losses = (self._before, self._scales()), np.zeros(2)
        with torch.no_grad():
            for batch in batches:
                wanted = self._wanted(batch, self._teacher)
                losses += [self._loss(batch, wanted, self._module, some).item() for some in scales]
        before, after = losses / len(batches)
        return before, after

    def _wanted(self, feeds: Feeds, teacher: "Interpreter") -> "dict[str, Tensor]":
        """What the teacher yields, in the parts that are compared."""
        from ...ir.ops.dtypes import to_torch

        wanted = {name: to_torch(array) for name, array in teacher.run(feeds).items()}
        self._parts.learn(feeds, wanted)
        return self._parts.split(wanted)

    def _loss(
        self, feeds: Feeds, wanted: "Mapping[str, Tensor]", module: "Module", scales: "Mapping[str, Tensor]"
    ) -> "Tensor":
        from torch.func import functional_call

        from ...ir.ops.dtypes import to_torch

        inputs = tuple(to_torch(np.asarray(feeds[name])) for name in self._inputs)
        found: tuple[Tensor, ...] = functional_call(module, dict(scales), inputs)
        got = dict(zip(self._outputs, found, strict=True))
        return measure(self._parts.measures, self._parts.split(got), wanted, 1.0)

    def arrays(self) -> list[np.ndarray]:
        """The scales as they are by now."""
        return [scale.detach().numpy() for scale in self._scales().values()]
