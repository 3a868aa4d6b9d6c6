"""Results in which backends differ since rounding inside of one operator decides on them.

A kernel is as good as any if its results are off by a unit in the last place of the largest number that it goes
through: sums of numbers that cancel, as in a spectrum, and logistic functions, which go through 1. What is small beside
that number has no digit that is right, and later operators may make it visible: it is sorted, compared or scaled.
Where such a nudge of one operator's results moves what the interpreter itself computes as far as a backend is off, the
graph is counted apart, under the name of that operator.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from planish.ir.errors import PlanishError
from planish.ir.graph import Node, Value, nested
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import Outputs, flattened

from .graphs import Sample

_DRAWS, _SLACK = 8, 4.0
"""The number of nudges, and how many times as far as any of them a backend may be off."""
_RTOL = 1e-4
_THROUGH_ONE = frozenset({"GRU", "LSTM", "Sigmoid"})


def ill_conditioned(sample: Sample, outputs: Sequence[Outputs], names: Collection[str]) -> dict[str, str]:
    """The outputs by name, of some that differ from the sample's, of which rounding inside an operator is the reason.

    Args:
        sample: the graph, and what it computes.
        outputs: what something else computes, for each probe.
        names: of the outputs that differ.

    Returns:
        Each output with the reason.
    """
    found: dict[str, str] = {}
    nodes = [node for part in nested(sample.graph) for node in part.nodes]
    for node in nodes:
        if found.keys() >= set(names) or not any(map(_is_nudged, node.outputs)):
            continue
        runs = [_nudged(sample, node, seed) for seed in range(_DRAWS)]
        for name in names:
            rows = zip(sample.outputs, outputs, *runs, strict=True)
            if all(_is_explained(*(row.get(name) for row in each)) for each in rows):
                found.setdefault(name, f"rounding inside {node.operator} decides")
    return found


def _is_nudged(value: Value) -> bool:
    return value.dtype.is_float and not value.dtype.is_foreign


def _nudged(sample: Sample, node: Node, seed: int) -> Sequence[Outputs]:
    """The outputs of a sample where one node's results are a unit in the last place of their largest off."""
    interpreter = Interpreter(sample.graph)
    try:
        return [flattened(interpreter.run(probe, _Nudge(node, seed))) for probe in sample.probes]
    except PlanishError:
        return [{} for _ in sample.probes]


class _Nudge:
    """Adds to the results of a node half a unit to a whole one, up or down by chance."""

    def __init__(self, node: Node, seed: int) -> None:
        self._outputs = frozenset(filter(_is_nudged, node.outputs))
        self._least = 1.0 if node.operator in _THROUGH_ONE else 0.0
        self._random = np.random.default_rng(seed)

    def __call__(self, value: Value, tensor: Any) -> Any:
        if value not in self._outputs or not tensor.numel():
            return None
        finite = torch.where(tensor.isfinite(), tensor, 0).abs().max().item()
        unit = float(np.finfo(value.dtype.numpy).eps) * max(self._least, finite)
        steps = self._random.uniform(0.5, 1.0, tensor.shape) * self._random.choice([-1.0, 1.0], tensor.shape)
        return tensor + torch.from_numpy(np.asarray(unit * steps)).to(tensor)


def _is_explained(wanted: np.ndarray | None, got: np.ndarray | None, *others: np.ndarray | None) -> bool:
    """Whether an array is as near another as nudges bring it: of what isn't a float, only what they move may differ."""
    arrays = (got, *others)
    if wanted is None or any(each is None or (each.dtype, each.shape) != (wanted.dtype, wanted.shape) for each in arrays):
        return False
    if wanted.dtype.kind != "f":
        is_moved = np.any([other != wanted for other in others], 0)
        return bool(np.all((got == wanted) | is_moved))
    exact, found = wanted.astype(np.float64), np.asarray(got, np.float64)
    with np.errstate(invalid="ignore"):
        moves = np.max([np.abs(np.asarray(other, np.float64) - exact) for other in others], 0)
        near = np.abs(found - exact) <= _SLACK * moves + _RTOL * np.abs(exact)
    return bool(np.all(near | (found == exact) | (np.isnan(found) & np.isnan(exact))))
