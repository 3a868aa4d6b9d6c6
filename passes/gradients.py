"""Random gradients at values inside a graph, whose squares say how much errors there matter to the outputs."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, cast

from ..ir.errors import ModelError
from ..ir.graph import Graph, Value
from .base import Feeds
from .measures import LossKind
from .output_parts import OutputParts
from .precision import Precision

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Generator, Tensor

DRAWS = 4
"""Random gradients for each batch: the variance of a sum over batches falls with their number."""


class Gradients:
    """Random gradients of the loss at some values of a float graph.

    Args:
        graph: the graph to run.
        watched: the values, in float, whose gradients are drawn.
        measures: the kind of loss for each output, by name.
        generator: the generator of random numbers.
        kept: further values whose contents are kept.
        products: the type that products of float32 are computed in.

    Attributes:
        values: the contents of the watched and the kept values on the last batch.
    """

    def __init__(
        self,
        graph: Graph,
        watched: AbstractSet[Value],
        measures: Mapping[str, LossKind],
        generator: "Generator",
        kept: AbstractSet[Value] = frozenset(),
        products: Precision = "float32",
    ) -> None:
        import torch

        from ..ir.interpreter import Interpreter

        self.values: dict[Value, Tensor] = {}
        self._interpreter = Interpreter(graph, products=getattr(torch, products))
        self._watched = watched
        self._kept = kept
        self._parts = OutputParts(graph, measures)
        self._generator = generator

    def draw(self, feeds: Feeds, draws: int = DRAWS) -> "Iterator[dict[Value, Tensor]]":
        """Run a batch now, and draw gradients at all watched values at once, several times; none if the loss has none.

        Each draw is made when it is asked for, so that one of them is held at a time.

        Raises:
            ModelError: an output that stands for classes has no probabilities, since it isn't finite.
        """
        import torch

        leaves: dict[Value, Tensor] = {}

        def observe(value: Value, tensor: "Tensor") -> "Tensor | None":
            if value in self._watched or value in self._kept:
                self.values[value] = tensor.detach()
            if value not in self._watched:
                return None
            leaves[value] = tensor.new_zeros(()).expand_as(tensor).requires_grad_()  # takes no memory
            return tensor + leaves[value]

        arguments = self._interpreter.arguments(feeds)
        with torch.enable_grad():
            results = cast("tuple[Tensor, ...]", self._interpreter.call(arguments, {}, observe))
            outputs = dict(zip(self._interpreter.graph.outputs, results, strict=True))
            self._parts.learn(feeds, outputs)
            outputs = self._parts.split(outputs)
        return self._drawn(leaves, outputs, draws)

    def _drawn(
        self, leaves: "Mapping[Value, Tensor]", outputs: "Mapping[str, Tensor]", draws: int
    ) -> "Iterator[dict[Value, Tensor]]":
        import torch

        for _ in range(draws):
            with torch.enable_grad():
                measures = self._parts.measures.items()
                scores = [_score(name, kind, outputs[name], self._generator) for name, kind in measures]
                score = torch.stack(scores).sum()
            if not score.requires_grad:
                return
            grad = torch.autograd.grad(score, list(leaves.values()), retain_graph=True, allow_unused=True)
            found = cast("Sequence[Tensor | None]", grad)
            yield {value: one for value, one in zip(leaves, found, strict=True) if one is not None}


def _score(name: str, kind: LossKind, output: "Tensor", generator: "Generator") -> "Tensor":
    """A random number: the product of its gradient and a small error has the loss as its mean square."""
    import torch

    if kind is LossKind.NUMBERS:
        signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
        return (signs * output).sum() / output.detach().square().sum().clamp_min(1e-12).sqrt()
    logs = output.clamp_min(1e-12).log() if kind is LossKind.PROBABILITIES else output.log_softmax(-1)
    logs = logs.reshape(-1, logs.shape[-1])
    probabilities = logs.detach().exp()
    if not probabilities.isfinite().all():
        raise ModelError(f"the model's output {name!r} is not finite on the calibration data")
    sums = probabilities.float().cumsum(-1)  # drawn from them, which takes a fraction of what `multinomial` does
    drawn = sums[:, -1:] * torch.rand(len(sums), 1, generator=generator)
    classes = torch.searchsorted(sums, drawn, right=True)
    return logs.gather(1, classes).sum() / (2 * len(logs)) ** 0.5
