"""Ranges of images that are a little too small, on purpose: what is cut off costs less than the finer steps gain.

Calibration's ranges hold nearly all that was seen. How much less is better depends on what is made of an image, so that
ranges are judged by the errors of what reads them: a convolution's sums, or an activation function's values.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Constant, Graph, Node, Value
from ...ir.quantization import QuantParams
from ...ir.types import DType
from ..base import Feeds, PassContext
from .clipping import Bounds, widen
from .plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Of each end of a range that are tried, unless it is a bound beyond which readers see no difference."""

_WORTH = 0.9
"""The share of the error that may be left: what is measured on a few batches is not exact."""


def fit_ranges(
    graph: Graph,
    plan: Plan,
    ranges: Mapping[Value, Bounds],
    dtype: DType,
    batches: Sequence[Feeds],
    context: PassContext,
) -> tuple[dict[Value, Bounds], int]:
    """Shorten the ranges of images where that lowers the errors of what their readers make of them.

    Args:
        graph: in float.
        plan: of its quantization.
        ranges: of the plan's values, from calibration.
        dtype: of the integers.
        batches: of inputs, to judge by.
        context: to whom progress is reported.

    Returns:
        All ranges, and how many of them were shortened.
    """
    from ...ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    images = {value for value in ranges if value.type.rank == 4 and value.producer is not None}
    errors = {value: np.zeros(len(_SHARES)) for value in images}

    def judge(value: Value, x: "Tensor") -> None:
        if value not in images:
            return
        readers = [use.node for use in plan.reads[value] if _reads_alone(use.node)]
        exact = [_result(node, value, x) for node in readers] or [x]
        for place, share in enumerate(_SHARES):
            rounded = _rounded(x, _grid(ranges[value], plan.bounds[value], share, dtype))
            found = [_result(node, value, rounded) for node in readers] or [rounded]
            errors[value][place] += sum(relative_error(*pair) for pair in zip(found, exact, strict=True))

    interpreter = Interpreter(graph)
    for done, batch in enumerate(batches if images else ()):
        context.progress("fitting ranges", done, len(batches))
        interpreter.run(batch, judge)
    shares = {value: _best(held) for value, held in errors.items()}
    fitted = {value: _shortened(held, plan.bounds[value], shares.get(value, 1.0)) for value, held in ranges.items()}
    return fitted, sum(share < 1 for share in shares.values())


def relative_error(found: "Tensor", exact: "Tensor") -> float:
    """The squared error as a share of the power."""
    return float((found - exact).square().sum() / exact.square().sum().clamp(min=1e-30))


def _best(errors: np.ndarray) -> float:
    best = int(np.argmin(errors))
    return _SHARES[best] if errors[best] < _WORTH * errors[0] else 1.0


def _shortened(ends: Bounds, bounds: Bounds, share: float) -> Bounds:
    low, high = (end if end == bound else end * share for end, bound in zip(ends, bounds, strict=True))
    return low, high


def _grid(ends: Bounds, bounds: Bounds, share: float, dtype: DType) -> QuantParams:
    return QuantParams.over(*widen(_shortened(ends, bounds, share), bounds), dtype)


def _rounded(x: "Tensor", grid: QuantParams) -> "Tensor":
    import torch

    ends = np.iinfo(grid.dtype.numpy)
    return torch.fake_quantize_per_tensor_affine(
        x.contiguous(), grid.scale, grid.zero_point, int(ends.min), int(ends.max)
    )


def _reads_alone(node: Node) -> bool:
    """Whether a node reads one value beside constants, so that it can be computed anew."""
    return len(node.outputs) == 1 and sum(not isinstance(value, Constant) for value in node.inputs if value) == 1


def _result(node: Node, value: Value, x: "Tensor") -> "Tensor":
    """What a node makes of another tensor in a value's place."""
    from ...ir.infer import find_operator
    from ...ir.interpreter import evaluate
    from ...ir.ops.dtypes import to_torch

    held = {other: to_torch(other.data) for other in node.inputs if isinstance(other, Constant)}
    return evaluate(node, find_operator(node.operator), {**held, value: x})[0]
