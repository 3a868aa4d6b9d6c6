"""Padding that a convolution or a pooling does itself."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Value
from ..base import Effect
from ..rewrite import Match, RewritePass, RewriteRule


def _padded(op: Any, x: Any, widths: Any, value: Any, axes: Any) -> Any:
    return op.Pad(x, op.constant(widths), value, axes, mode="constant")


def _conv(op: Any, x: Any, widths: Any, value: Any, axes: Any, weight: Any, bias: Any) -> Any:
    return op.Conv(_padded(op, x, widths, value, axes), weight, bias)


def _max_pool(op: Any, x: Any, widths: Any, value: Any, axes: Any) -> Any:
    return op.MaxPool(_padded(op, x, widths, value, axes), ceil_mode=0, outputs=1)


def _average_pool(op: Any, x: Any, widths: Any, value: Any, axes: Any) -> Any:
    return op.AveragePool(_padded(op, x, widths, value, axes), ceil_mode=0)


def _check(match: Match) -> str:
    pool = match.root
    if pool.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "its own padding depends on the size"
    if (match.values["value"] is not None and match.constant("value") is None) or _value(match) != _neutral(match):
        return "what is padded isn't what it pads with itself"
    if (match.values["axes"] is not None and match.constant("axes") is None) or _widths(match) is None:
        return "other axes are padded than those that windows move along, or some are cut"
    if pool.operator != "Conv" and any(pad >= size for pad, size in zip(_pads(match), _kernel(match), strict=True)):
        return "a window would lie in the padding altogether"
    if pool.operator == "AveragePool" and any(_own(match)) and not pool.attributes.get("count_include_pad", 0):
        return "of the padding it would count one part, and not the other"
    return ""


def _value(match: Match) -> float:
    data = match.constant("value")
    return 0.0 if data is None else float(data.reshape(-1)[0])


def _neutral(match: Match) -> float:
    return -np.inf if match.root.operator == "MaxPool" else 0.0


def _widths(match: Match) -> np.ndarray | None:
    """The padding before and after each axis that windows move along, int64[2, axes]; None if other axes are padded."""
    rank = match["x"].type.rank
    axes = match.constant("axes")
    widths = np.zeros((2, rank), np.int64)
    widths[:, slice(None) if axes is None else axes] = match.data("widths").reshape(2, -1)
    return None if np.any(widths < 0) or np.any(widths[:, :2]) else widths[:, 2:]


def _own(match: Match) -> tuple[int, ...]:
    own = match.root.attributes.get("pads")
    if isinstance(own, tuple):
        return own  # pyright: ignore[reportReturnType] -- ints, by the schema
    return (0,) * 2 * (match["x"].type.rank - 2)


def _kernel(match: Match) -> tuple[int, ...]:
    sizes = match.root.attributes["kernel_shape"]  # ints, as above
    return 2 * sizes  # pyright: ignore[reportOperatorIssue, reportReturnType]


def _pads(match: Match) -> list[int]:
    widths = _widths(match)
    assert widths is not None
    return [own + more for own, more in zip(_own(match), widths.reshape(-1).tolist(), strict=True)]


def _fused(op: Builder, match: Match) -> Value:
    node = match.root
    attributes: dict[str, Any] = {**node.attributes, "auto_pad": None, "pads": _pads(match)}
    if node.operator == "AveragePool":
        attributes["count_include_pad"] = 1
    return op(node.operator, match["x"], *node.inputs[1:], **attributes)


@dataclass(frozen=True)
class PadFusion(RewritePass):
    """Let Conv, MaxPool and AveragePool pad themselves, where a Pad before them does what they would.

    TensorFlow's asymmetric padding comes as such Pads, in models that were converted and in those that imitate it.
    """

    name: ClassVar[str] = "fuse-pads"
    effect: ClassVar[Effect] = Effect.ROUNDING
    rules: ClassVar = tuple(
        RewriteRule("pad", pattern, _fused, _check) for pattern in (_conv, _max_pool, _average_pool)
    )
