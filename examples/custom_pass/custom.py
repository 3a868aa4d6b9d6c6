"""A pass and a rewrite rule of one's own; the recipe beside this file names both."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from planish import Effect, Graph, Pass, PassContext, PassResult, RewriteRule


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Keep only the leading bits of every weight, so that the model file compresses well."""

    name: ClassVar[str] = "round-weights"
    effect: ClassVar[Effect] = Effect.LOSSY
    bits: int = 8

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        weights = [constant for constant in graph.constants.values() if constant.data.dtype == np.float32]
        for weight in weights:
            mantissa, exponent = np.frexp(weight.data)
            weight.data = np.ldexp(np.round(mantissa * 2**self.bits) / np.float32(2**self.bits), exponent)
        return PassResult({"weights": len(weights)})


def over_image(match) -> str:
    return "" if np.array_equal(match.constant("axes"), [2, 3]) else "it isn't the mean over an image"


mean_to_pool = RewriteRule(
    "mean-to-pool",
    pattern=lambda op, x, axes: op.ReduceMean(x, axes, keepdims=0),
    replacement=lambda op, x: op.Flatten(op.GlobalAveragePool(x)),
    check=over_image,
)
