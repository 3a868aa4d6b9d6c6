"""Losses, which models exported for training carry, spelled out."""

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, attribute, cast


def _negative_log_likelihood(op: Builder, node: Node) -> Value:
    return _picked_loss(op, node, node.operand(0))


def _cross_entropy(op: Builder, node: Node) -> tuple[Value, ...]:
    logarithms = op.LogSoftmax(node.operand(0), axis=1)
    return _picked_loss(op, node, logarithms), logarithms


def _picked_loss(op: Builder, node: Node, logarithms: Value) -> Value:
    """The loss at the classes `[batch, ...]`, picked from `[batch, class, ...]`, weighted by class and reduced."""
    classes, weights = cast(op, node.operand(1), DType.int64), node.input(2)
    nothing, ignored = op.constant(np.zeros((), logarithms.dtype.numpy)), None
    if (ignore := attribute(node, "ignore_index", None)) is not None:
        ignored = op.Equal(classes, int(ignore))
        classes = op.Where(ignored, op.constant(0), classes)
    losses = op.Neg(op.Squeeze(op.GatherElements(logarithms, op.Unsqueeze(classes, [1]), axis=1), [1]))
    shares = None if weights is None else op.Gather(weights, classes)
    if ignored is not None:
        everyone = op.constant(np.ones((), logarithms.dtype.numpy))
        shares = op.Where(ignored, nothing, everyone if shares is None else shares)
    if shares is not None:
        losses = op.Mul(losses, shares)
    if ignored is not None:
        losses = op.Where(ignored, nothing, losses)  # what is ignored may be infinite
    match attribute(node, "reduction", "mean"):
        case "none":
            return losses
        case "mean" if shares is None:
            return op.ReduceMean(losses, keepdims=0)
        case "mean":
            return op.Div(op.ReduceSum(losses, keepdims=0), op.ReduceSum(shares, keepdims=0))
        case _:
            return op.ReduceSum(losses, keepdims=0)


EXPANSIONS: dict[str, Expansion] = {
    "NegativeLogLikelihoodLoss": _negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": _cross_entropy,
}
