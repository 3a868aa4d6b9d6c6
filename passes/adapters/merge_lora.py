"""Merging: what an adapter computes becomes part of its layer's weight."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.graph import Constant, Graph
from ..base import Effect, Pass, PassContext, PassResult
from .adapter import Adapter, find_adapters, gain, matrix_of, remove_adapter, replace_weight


@dataclass(frozen=True)
class LoraMerging(Pass):
    """Fold adapters into the weights of their layers, so that they cost nothing more.

    What is left of their effect after the model is quantized is measured and told; an adapter that rounding has erased
    is an error.
    """

    name: ClassVar[str] = "merge-lora"
    effect: ClassVar[Effect] = Effect.ROUNDING
    needs: ClassVar[frozenset[str]] = frozenset({"float"})

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        misses: list[str] = []
        count = 0
        for adapter in list(find_adapters(graph)):
            if not context.selects(adapter.layer):
                continue
            if fault := _fault(adapter):
                misses.append(f"{adapter.layer.location}: {fault}")
            elif context.applies("merge", adapter.layer):
                matrix = matrix_of(adapter.layer)
                assert matrix is not None
                replace_weight(graph, adapter.layer, matrix + update(adapter))
                remove_adapter(graph, adapter)
                count += 1
        return PassResult({"adapters": count}, misses)


def _fault(adapter: Adapter) -> str:
    """Why an adapter can't be merged, or nothing."""
    if not all(isinstance(weight, Constant) for weight in adapter.weights):
        return "its adapter's weights are inputs of the model"
    if matrix_of(adapter.layer) is None:
        return "its weight is not a float constant: merge after cleanup, and before the model is quantized"
    if adapter.layer.operand(0) is not adapter.narrow.operand(0):
        return "its adapter and the layer itself read different values"
    return ""


def update(adapter: Adapter) -> np.ndarray:
    """What an adapter adds to its layer's weight, shape [inputs, outputs]."""
    down, up = (matrix_of(node) for node in (adapter.narrow, adapter.wide))
    assert down is not None
    assert up is not None
    return down.astype(np.float64) @ up.astype(np.float64) * (adapter.scale / gain(adapter.layer))
