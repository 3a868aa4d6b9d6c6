"""Quantization-aware training: weights and scales of a quantized graph learn together what rounding takes."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import ClassVar

from ...ir.errors import UsageError
from ...ir.graph import Graph
from ..training.learned_scales import ScalePlan, plan_scales
from .distill import Distillation


@dataclass(frozen=True)
class QuantizationAwareTraining(Distillation):
    """Train a quantized graph with rounding in place: its weights, and the scales of weights and activations with them.

    Scales are learned as in Esser et al., "Learned Step Size Quantization", ICLR 2020, and those of biases stay the
    products that integer kernels take them for. What is trained is what is deployed: integers on the grids that there
    were, whose scales have moved. Everything else is as `distill` does it.
    """

    name: ClassVar[str] = "qat"

    def _scales(self, graph: Graph, frozen: AbstractSet[str]) -> ScalePlan:
        plan = plan_scales(graph, frozen)
        if not plan.free:
            raise UsageError(f"{self.name}: the model has no scales to train; quantize it before, or use distill")
        return plan
