"""Training a graph's weights: the steps of an optimizer, and a state to go on from."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import floor, isfinite, log2
from statistics import median
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ...ir.errors import ModelError
from ...ir.graph import Constant, Graph
from ..precision import Precision
from .gradual import GradualPruning
from .lessons import TrainingBatch
from .vectorized import Vectorized

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

    Outputs: TypeAlias = Mapping[str, Tensor]

Optimizer: TypeAlias = Literal["adamw", "sgd"]

_SETTINGS = {
    "BatchNormalization": (3, 4),  # statistics: a variance must not fall below zero
    "Clip": (1, 2),
    "DequantizeLinear": (1, 2),
    "Pad": (2,),
    "QuantizeLinear": (1, 2),
    "Resize": (1, 2),
    "com.microsoft::DynamicQuantizeLSTM": (8, 10),
}
"""Inputs that are floats, but no weights."""

_MOMENTUM = 0.9
"""The share of a step of stochastic gradient descent that the next one repeats."""

_LEAST = 1e-3
"""The size that a weight counts as at least, since one of zeros would never move."""


def _size(weight: "Tensor") -> float:
    """The root mean square of a weight; for a matrix of zeros, as adapters begin with, that of a random one."""
    if weight.ndim > 1 and not weight.any():
        return (max(weight.shape) / weight.numel()) ** 0.5
    return max(float(weight.detach().double().square().mean().sqrt()), _LEAST)


class Trainer:
    """A student in training.

    A step of AdamW moves a weight by a share of the size that it has at first, the root mean square of its elements, as
    in Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", ICML 2018, section 8: one
    rate fits layers whose weights differ by orders of magnitude, as those of folded normalizations do. A step of
    stochastic gradient descent is the rate times the gradient, with Nesterov's momentum.

    Args:
        student: the graph; its constants change only by `finish`.
        weights: the student's constants that are trained.
        compare: the loss of the student's outputs against what they should be.
        optimizer: what makes a step of gradients.
        decay: how much of each of the `decayed` weights goes in a step, as a multiple of the rate, apart from what
            gradients ask for: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
        decayed: the weights that decay.
        clip: the most that the norm of all gradients together may be, as a multiple of its median in the steps so far,
            as in Seetharaman et al., "AutoClip: Adaptive Gradient Clipping for Source Separation Networks", MLSP 2020;
            0 for no bound.
        average: the share of itself that a moving average of the weights keeps at a step; 0 for no average. Where there
            is one, it is what outputs are computed with, copied and written.
        pruned: the weights whose zeros stay zero.
        pruning: makes more weights zero, whose zeros stay as well.
        precision: the type that layers multiply in while they learn; outputs that are judged are those of float32.
    """

    def __init__(
        self,
        student: Graph,
        weights: Sequence[Constant],
        compare: "Callable[[Outputs, Outputs], Tensor]",
        *,
        optimizer: Optimizer = "adamw",
        decay: float = 0.0,
        decayed: Collection[Constant] = (),
        clip: float = 0.0,
        average: float = 0.0,
        pruned: Collection[Constant] = (),
        pruning: GradualPruning | None = None,
        precision: Precision = "float32",
    ) -> None:
        import torch

        from ...ir.module import to_module

        self._student = student
        self._compare = compare
        self._kind: Optimizer = optimizer
        self._decay, self._clip, self._share = decay, clip, average
        self._module = learning = to_module(student, training=True)
        self._module.requires_grad_(False)
        chosen = set(weights)
        self._weights = [
            self._module.get_parameter(f"constant_{index}").requires_grad_()
            for index, constant in enumerate(student.constants.values())
            if constant in chosen
        ]
        if precision == "bfloat16":
            learning = to_module(student, training=True, products=torch.bfloat16)
            for name, parameter in self._module.named_parameters():
                learning.register_parameter(name, parameter)
        self._run, self._learn = Vectorized(self._module), Vectorized(learning)
        self._sizes = [_size(weight) for weight in self._weights]
        self._pruning = pruning
        sparse = {} if pruning is None else pruning.layers
        trained = [constant for constant in student.constants.values() if constant in chosen]
        self._gradual = {place: constant for place, constant in enumerate(trained) if constant in sparse}
        self._masked = [place for place, it in enumerate(trained) if it in pruned or it in sparse]
        self._decaying = [place for place, it in enumerate(trained) if it in decayed]
        self._start()

    def prune(self, share: float) -> None:
        """Set the smallest weights to zero, until a share of them is."""
        import torch

        for place, constant in self._gradual.items():
            assert self._pruning is not None
            kept = torch.from_numpy(self._pruning.keeps(constant, self._weights[place].detach().numpy(), share))
            for held in (self._weights[place].detach(), *self._averages[place : place + 1]):
                held.mul_(kept)

    def weights(self) -> "list[Tensor]":
        """A copy of the weights as they are, or of their averages."""
        return [weight.detach().clone() for weight in self._averages or self._weights]

    def restore(self, weights: "Sequence[Tensor]") -> None:
        """Go back to weights that were copied, and forget the steps that were taken."""
        for weight, held in zip(self._weights, weights, strict=True):
            weight.data.copy_(held)
        self._start()

    def state(self) -> "dict[str, Tensor]":
        """All that the next step depends on, by name: no weight is copied."""
        import torch

        found = {f"weight.{place}": weight.detach() for place, weight in enumerate(self._weights)}
        found |= {f"average.{place}": average for place, average in enumerate(self._averages)}
        for place, weight in enumerate(self._weights):
            found |= {f"optimizer.{place}.{name}": held for name, held in self._optimizer.state[weight].items()}
        return found | {"norms": torch.tensor(self._norms, dtype=torch.float64)}

    def resume(self, state: "Mapping[str, Tensor]") -> None:
        """Go on from a state.

        Raises:
            KeyError, RuntimeError: the state is that of other weights.
        """
        for place, weight in enumerate(self._weights):
            weight.data.copy_(state[f"weight.{place}"])
            prefix = f"optimizer.{place}."
            held = {name.removeprefix(prefix): one.clone() for name, one in state.items() if name.startswith(prefix)}
            self._optimizer.state[weight].update(held)
        for place, average in enumerate(self._averages):
            average.copy_(state[f"average.{place}"])
        self._norms = state["norms"].tolist()

    def _start(self) -> None:
        import torch

        if self._kind == "sgd":
            whole = [{"params": self._weights, "size": 1.0}]
            self._optimizer = torch.optim.SGD(whole, momentum=_MOMENTUM, nesterov=True)
        else:
            groups: defaultdict[int, list[Tensor]] = defaultdict(list)
            for weight, size in zip(self._weights, self._sizes, strict=True):
                groups[floor(log2(size))].append(weight)
            alike = [{"params": weights, "size": 1.5 * 2.0**power} for power, weights in groups.items()]
            self._optimizer = torch.optim.AdamW(alike, weight_decay=0.0)
        self._norms: list[float] = []
        self._averages = [weight.detach().clone() for weight in self._weights] if self._share else []

    @property
    def is_stuck(self) -> bool:
        """Whether no gradient has been a number since the weights were restored, so that no step has moved them."""
        return not self._norms

    def step(self, draws: Iterable[Sequence[TrainingBatch]], rows: int, rate: float) -> float:
        """Learn from some samples; returns the loss before it, and changes nothing if it or a gradient is no number.

        Args:
            draws: the samples, as many batches at a time as are run together; their gradients are averaged over all
                samples.
            rows: the number of samples in all draws together.
            rate: how far weights move: as a share of their size, or for each unit of gradient.

        Raises:
            ModelError: the outputs don't depend on the weights by anything that has a gradient.
        """
        self._optimizer.zero_grad()
        total = 0.0
        for batches in draws:
            for found in self._learn.parts([batch.inputs for batch in batches]):
                losses = [
                    self._compare(self._named(outputs), batches[place].wanted) * (batches[place].rows / rows)
                    for place, outputs in found.items()
                ]
                loss = sum(losses[1:], start=losses[0])
                if not loss.requires_grad:
                    raise ModelError("no gradient reaches the weights from the outputs that are compared")
                loss.backward()
                total += loss.item()
        if not (isfinite(total) and self._clipped()):
            return total
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["size"]
        kept = {place: self._weights[place].detach() != 0 for place in self._masked}
        for place in self._decaying:
            self._weights[place].data.mul_(1 - rate * self._decay)
        self._optimizer.step()
        for place, mask in kept.items():
            self._weights[place].data.mul_(mask)
        for average, weight in zip(self._averages, self._weights, strict=False):
            average.lerp_(weight.detach(), 1 - self._share)
        return total

    def _clipped(self) -> bool:
        """Whether gradients are numbers; their norm is brought within its bound."""
        import torch

        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if not isfinite(norm):
            return False
        self._norms.append(norm)
        most = self._clip * median(self._norms)
        if 0 < most < norm:
            for gradient in gradients:
                gradient.mul_(most / norm)
        return True

    def outputs(self, batches: Sequence[TrainingBatch]) -> "list[Outputs]":
        """The student's outputs for each batch, by name."""
        import torch

        self._exchange()
        try:
            with torch.no_grad():
                return list(map(self._named, self._run([batch.inputs for batch in batches])))
        finally:
            self._exchange()

    def _named(self, outputs: "Sequence[Tensor]") -> "Outputs":
        return dict(zip(self._student.outputs, outputs, strict=True))

    def finish(self) -> None:
        """Write the weights, or their averages, into the graph."""
        from ...ir.module import update_constants

        self._exchange()
        update_constants(self._student, self._module)
        self._exchange()

    def _exchange(self) -> None:
        """Let weights and their averages, if there are any, change places."""
        for place, weight in enumerate(self._weights if self._averages else ()):
            weight.data, self._averages[place] = self._averages[place], weight.data


def is_weight(constant: Constant) -> bool:
    """Whether a constant is something to learn: floats, more than one, and no mask or setting of an operator."""
    if not constant.dtype.is_trainable or constant.data.size < 2 or not np.isfinite(constant.data).all():
        return False
    return not any(use.index in _SETTINGS.get(use.node.operator, ()) for use in constant.uses)
