"""Recognising group normalisation (Wu and He 2018) in the instance normalisation that exporters write for it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Value
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule
from .channel_constant import per_channel


def _check(match: Match) -> str:
    x, result = match["x"], match.results[0]
    parts = match.node("InstanceNormalization").inputs[0]
    if parts is None or parts.type.rank != 3 or x.type.rank < 3 or result.shape != x.shape:
        return "its input isn't an image cut into groups of channels, and put together again"
    channels, groups = x.shape[1], parts.shape[1]
    if (
        not isinstance(channels, int)
        or not isinstance(groups, int)
        or channels % groups
        or parts.shape[0] != x.shape[0]
    ):
        return "what it normalises are no groups of channels"
    if any(data is None for data in map(match.constant, ("scale", "bias"))):
        return "its scales or biases are not constant"
    return ""


def _group_norm(op: Builder, match: Match) -> Value:
    """GroupNormalization, or InstanceNormalization where each group is one channel."""
    x, groups, epsilon = match["x"], match.data("scale").size, match.attributes["epsilon"]
    channels = x.shape[1]
    assert isinstance(channels, int)
    scale, bias = (np.repeat(match.data(name), channels // groups) for name in ("scale", "bias"))
    if groups == channels:
        return op.InstanceNormalization(x, scale, bias, epsilon=epsilon)
    return op.GroupNormalization(x, scale, bias, num_groups=groups, epsilon=epsilon)


def _is_affine(match: Match) -> str:
    if match.constant("bias") is None or per_channel(match, "scale") is None:
        return "the other operand is not a constant of channels"
    return ""


def _affine(op: Builder, match: Match) -> Value:
    """The same normalisation with the scale or bias `c` merged into its own."""
    node, change, scale, bias = match.nodes[-1], per_channel(match, "scale"), match.data("scale"), match.data("bias")
    assert change is not None  # _is_affine
    if match.root.operator == "Add":
        return op(
            node.operator, match["x"], match["scale"], op.constant(bias + change, match["c"].name), **node.attributes
        )
    scaled = op.constant(scale * change, match["c"].name)
    return op(node.operator, match["x"], scaled, op.constant(bias * change, match["bias"].name), **node.attributes)


def _rule(name: str, outer: str, inner: str) -> RewriteRule:
    def pattern(op: Any, x: Any, scale: Any, bias: Any, c: Any) -> Any:
        return op(outer, op(inner, x, scale, bias), c)

    return RewriteRule(name, pattern, _affine, _is_affine)


@dataclass(frozen=True)
class GroupNormFusion(RewritePass):
    """Write GroupNormalization for InstanceNormalization of groups and fold the scales and biases of channels after it.

    Those after InstanceNormalization are folded as well.
    """

    name: ClassVar[str] = "fuse-group-norm"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = (
        RewriteRule(
            "group-norm",
            pattern=lambda op, x, flat, scale, bias, shape: op.Reshape(
                op.InstanceNormalization(op.Reshape(x, flat), scale, bias, epsilon=op.attribute("epsilon")), shape
            ),
            replacement=_group_norm,
            check=_check,
        ),
        *(
            _rule(name, outer, inner)
            for name, outer in (("scale", "Mul"), ("bias", "Add"))
            for inner in ("GroupNormalization", "InstanceNormalization")
        ),
    )
