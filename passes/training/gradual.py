"""Pruning that goes on while weights are trained: more and more of the smallest become zero, and the others adapt.

Source: Zhu and Gupta, "To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression", 2017. The
share of zeros rises fast at first, and slowly in the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...ir.graph import Constant
from ..quantization.layers import Layer
from ..sparsity.patterns import Pattern

_RENEWALS = 50
"""How many times more weights become zero."""


@dataclass(frozen=True, slots=True)
class GradualPruning:
    """Weights that become zero in a pattern during the first half of a training.

    Attributes:
        pattern: the pattern of zeros.
        sparsity: the share of zeros in the end.
        layers: the layers that lose weights, by the constants that are trained.
    """

    pattern: Pattern
    sparsity: float
    layers: Mapping[Constant, Layer]

    def is_whole(self, step: int, steps: int) -> bool:
        """Whether there are as many zeros at a step as in the end."""
        return step >= steps // 2

    def share(self, step: int, steps: int) -> float | None:
        """The share of zeros from a step on; None where it is that of the step before."""
        last = steps // 2
        if step > last or (step < last and step % max(last // _RENEWALS, 1)):
            return None
        return self.sparsity * (1 - (1 - step / max(last, 1)) ** 3) if step < last else self.sparsity

    def keeps(self, constant: Constant, array: np.ndarray, share: float) -> np.ndarray:
        """Return which elements of a weight stay while a share of them is zero, bool in its shape.

        Args:
            constant: the constant that is trained.
            array: the weight as it is.
            share: the share of zeros.
        """
        layer = self.layers[constant]
        sizes = np.square(array if layer.axis == 1 else array.reshape(len(array), -1).T)
        return np.ascontiguousarray(layer.laid_out(self.pattern.sparser(share).keeps(sizes, share)))
