"""Weights must be numbers: NaN in one makes every comparison that follows meaningless."""

import numpy as np

from .errors import ModelError
from .graph import Graph


def check_finite(graph: Graph) -> None:
    """Refuse a graph with NaN among its weights; infinities are legal, since masks are made of them.

    Raises:
        ModelError: naming the first such weight and a layer that reads it.
    """
    for constant in graph.constants.values():
        # the least element is NaN if any is: unlike isnan, this allocates nothing
        if constant.dtype.is_float and constant.data.size and np.isnan(constant.data.min()):
            layer = constant.uses[0].node.location if constant.uses else "no layer"
            raise ModelError(f"weight {constant.name!r} of {layer} holds NaN: the model is broken or was never trained")
