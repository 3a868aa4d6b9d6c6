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
from planish.ir.graph import Node, Value, nested_nodes
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import Outputs, flattened

from .graphs import Sample

_DRAWS, _SLACK = 8, 4.0
"""The number of nudges, and how many times as far as any of them a backend may be off."""
_RTOL = 1e-4
_THROUGH_ONE = frozenset({"GRU", "LSTM", "Sigmoid"})


def ill_conditioned(sample: Sample, outputs: Sequence[Outputs], names: Collection[str]) -> dict[str, str]:
    """The outputs, of the named ones, whose difference from the sample's is due to rounding inside an operator.

    Args:
        sample: the graph, and what it computes.
        outputs: the outputs that something else computes, for each probe.
        names: the names of the outputs that differ.

    Returns:
        The outputs by name, each with the reason.
    """
    found: dict[str, str] = {}
    nodes = list(nested_nodes(sample.graph))
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


def _is_explained(wanted: np.ndarray | None, *arrays: np.ndarray | None) -> bool:
    """Whether an array, the first of some, is as near what is wanted as nudges bring the others.

    What isn't a float must be what is wanted or what some nudge makes of it, element by element.
    """
    alike = [array for array in arrays if array is not None and wanted is not None and _is_alike(wanted, array)]
    if wanted is None or len(alike) < len(arrays):
        return False
    if wanted.dtype.kind != "f":
        found, *others = alike
        return bool(np.all(np.any([found == other for other in (wanted, *others)], 0)))
    exact, found, *others = (array.astype(np.float64) for array in (wanted, *alike))
    with np.errstate(invalid="ignore"):
        move = np.max([np.nan_to_num(np.abs(other - exact), posinf=np.inf) for other in others], 0)
        is_near = np.abs(found - exact) <= _SLACK * move + _RTOL * np.abs(exact)
    is_nan = np.isnan(found) & np.any(np.isnan([exact, *others]), 0)  # the root of what may be below 0, for one
    return bool(np.all(is_near | (found == exact) | is_nan))


def _is_alike(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape)
