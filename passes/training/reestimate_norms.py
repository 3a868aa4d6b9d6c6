"""Re-estimation of batch normalizations: their statistics become those of what they are given now."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...ir.errors import UsageError
from ...ir.graph import Constant, Graph, Node, Value
from ..base import Effect, Feeds, Pass, PassContext, PassResult
from ..judge import Judge, Verdict, divided

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor


@dataclass(frozen=True)
class NormReestimation(Pass):
    """Set the means and variances of batch normalizations to those of the calibration data, as the model is now.

    Pruning, factorization and rounding move what normalizations read away from the statistics that they hold. Put this
    pass before `fuse`, which folds normalizations. While statistics are taken, each normalization goes by those of the
    batch, as in training. The new statistics are kept if outputs on held-out batches come closer to the source's.
    """

    name: ClassVar[str] = "reestimate-norms"
    effect: ClassVar[Effect] = Effect.LOSSY
    max_drift: ClassVar[float] = math.inf  # it may have to undo any damage; held-out data is its judge

    def require(self, context: PassContext) -> None:
        if not context.calibration:
            raise UsageError(f"{self.name} takes statistics of inputs and got none; give calibration data (`-d DATA`)")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        misses: list[str] = []
        found: list[_Statistics] = []
        for node in graph.nodes:
            if node.operator != "BatchNormalization" or not context.selects(node):
                continue
            if fault := _fault(node):
                misses.append(f"{node.location}: {fault}")
            elif context.applies("norm", node):
                found.append(_Statistics(node))
        if not found:
            return PassResult(misses=misses or ["there are no batch normalizations, or they are folded already"])
        fitted, held_out, labelled = divided(context)
        judge = Judge(context.source, held_out, labelled)
        before = judge.judge(graph)
        _observe(graph, fitted, found)
        kept = [(constant, constant.data) for norm in found for constant in norm.constants]
        for norm in found:
            norm.write()
        after = judge.judge(graph)
        if not (after.loss < before.loss and after.drop <= before.drop):
            for constant, data in kept:
                constant.data = data
            return PassResult(
                misses=[*misses, f"new statistics are no better on held-out data: {_told(before, after)}"]
            )
        return PassResult({"norms": len(found)}, misses, [f"on held-out data {_told(before, after)}"])


def _told(before: Verdict, after: Verdict) -> str:
    return (
        f"the loss is {after.loss:.3g} with {after.drop:z.3g} % lost, against {before.loss:.3g} with "
        f"{before.drop:z.3g} % before"
    )


def _fault(node: Node) -> str:
    """Why a normalization keeps its statistics; empty where it doesn't."""
    if node.attributes.get("training_mode"):
        return "it is in training mode, and normalizes by the statistics of each batch"
    held = [node.input(place) for place in (3, 4)]
    if not all(isinstance(value, Constant) and value.use_count == 1 for value in held):
        return "its statistics aren't constants, or another node reads them too"
    return ""


class _Statistics:
    """Sums over what a normalization reads."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.constants = [value for value in node.inputs[3:5] if isinstance(value, Constant)]
        self._count = 0
        self._sum = self._squares = np.zeros(1)

    def normalize(self, x: "Tensor", scale: "Tensor", bias: "Tensor") -> "Tensor":
        """Take a batch in, and normalize it by its own statistics."""
        import torch
        from torch.nn.functional import batch_norm

        axes = [axis for axis in range(x.ndim) if axis != 1]
        variance, mean = (it.double().numpy() for it in torch.var_mean(x.double(), axes, correction=0))
        count = x.numel() // x.shape[1]
        self._count += count
        self._sum = self._sum + count * mean
        self._squares = self._squares + count * (variance + mean**2)
        epsilon = self.node.attributes.get("epsilon", 1e-5)
        return batch_norm(x, None, None, scale.to(x.dtype), bias.to(x.dtype), training=True, eps=epsilon)

    def write(self) -> None:
        """Write the statistics of all batches into the node's constants."""
        mean = self._sum / self._count
        for constant, data in zip(self.constants, (mean, self._squares / self._count - mean**2), strict=True):
            constant.data = data.astype(constant.data.dtype)


def _observe(graph: Graph, batches: Sequence[Feeds], norms: Sequence[_Statistics]) -> None:
    from ...ir.interpreter import Interpreter
    from ...ir.ops.dtypes import to_torch

    yielding = {norm.node.outputs[0]: norm for norm in norms}
    read = {norm.node.operand(0) for norm in norms}
    parts = {
        norm.node: tuple(to_torch(array) for place in (1, 2) if (array := norm.node.constant(place)) is not None)
        for norm in norms
    }
    seen: dict[Value, Tensor] = {}

    def observe(value: Value, tensor: "Tensor") -> "Tensor | None":
        replaced: Tensor | None = None
        if value in yielding:
            norm = yielding[value]
            replaced = norm.normalize(seen[norm.node.operand(0)], *parts[norm.node])
        if value in read:
            seen[value] = tensor if replaced is None else replaced
        return replaced

    interpreter = Interpreter(graph)
    for feeds in batches:
        seen.clear()
        interpreter.run(feeds, observe)
