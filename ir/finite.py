"""Weights must be numbers: NaN in one makes every comparison that follows meaningless."""

import numpy as np

from .errors import ModelError
from .graph import Graph, nested


def check_finite(graph: Graph) -> None:
    """Refuse a graph with NaN among its weights; infinities are legal, since masks are made of them.

    A number without axes may be NaN, as a model's own code may write one.

    Raises:
        ModelError: a weight has NaN; the first such weight and a layer that reads it are named.
    """
    for constant in (constant for part in nested(graph) for constant in part.constants.values()):
        if constant.dtype.is_float and constant.type.rank and _has_nan(constant.data):
            layer = constant.uses[0].node.location if constant.uses else "no layer"
            raise ModelError(f"weight {constant.name!r} of {layer} holds NaN: the model is broken or was never trained")


def _has_nan(data: np.ndarray) -> bool:
    """Whether any element is NaN: the least one is then, and unlike `isnan` of all, finding it allocates nothing."""
    with np.errstate(invalid="ignore"):
        return data.size > 0 and bool(np.isnan(data.min()))
