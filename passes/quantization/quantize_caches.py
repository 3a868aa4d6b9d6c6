"""Rounding of the keys and values that a decoder keeps of earlier tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from annotated_types import Ge

from ...ir.builder import Builder
from ...ir.graph import Graph, Value
from ...ir.quantization import QuantParams
from ...ir.types import DType
from ..base import Effect, Pass, PassContext, PassResult
from ..judge import Reference, split
from .caches import Cache, find_caches, other_readers
from .calibrate import first_batches_of, show
from .round_weights import require_calibration

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor


@dataclass(frozen=True)
class CacheQuantization(Pass):
    """Round the caches of keys and values that a decoder takes in and returns to int8.

    A cache is an input that is joined to what the model computes of new tokens, and returned with it. It gets one grid,
    or one for each head, whichever loses less on held-out batches. The model still takes and returns floats, on those
    grids; `planish.integer_caches` then makes its inputs and outputs int8, which take a quarter of the memory.
    Calibration data may hold caches without any token, beside longer texts.

    There are no grids for features that lie behind the tokens in memory, by which keys would lose less (Liu et al.,
    "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", ICML 2024): ONNX Runtime dequantizes those so
    slowly that a model takes up to twice the time.

    Attributes:
        samples: the number of calibration samples that are used.
    """

    name: ClassVar[str] = "quantize-caches"
    effect: ClassVar[Effect] = Effect.LOSSY
    samples: Annotated[int, Ge(1)] = 128

    required: bool = field(default=True, kw_only=True)

    def require(self, context: PassContext) -> None:
        require_calibration(self.name, context)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        self.require(context)
        found = [cache for cache in find_caches(graph) if not cache.is_rounded and context.selects(cache.join)]
        misses = [
            f"{node.location}: Attention joins its caches by itself, where they can't be rounded"
            for node in graph.nodes
            if node.operator == "Attention" and node.input(4) is not None
        ]
        if not (found or misses):
            misses.append("no input is joined to what the model computes, and returned with it")
        readers = {cache: other_readers(cache) for cache in found}
        misses += [
            _left(cache, f"{others[0].operator} at {others[0].location} reads it by itself")
            for cache, others in readers.items()
            if others
        ]
        caches = [cache for cache, others in readers.items() if not others]
        count = 0
        for cache, grid in zip(caches, self._grids(graph, caches, context), strict=True):
            if grid is None:
                misses.append(_left(cache, "calibration data hold no tokens of it, or numbers that aren't finite"))
            elif context.applies("cache", cache.join):
                grid.put_on(graph, cache)
                count += 1
        return PassResult({"caches": count}, misses)

    def _grids(self, graph: Graph, caches: Sequence[Cache], context: PassContext) -> list["_Grid | None"]:
        """The best grid of each cache; None where calibration data don't tell."""
        watched = {cache.returned: _Watch(cache) for cache in caches}
        batches = first_batches_of(context.calibration, self.samples) if caches else []
        fitted, held_out = ([batches[place] for place in places] for places in split(len(batches), len(batches)))

        def widen(_batch: int, value: Value, tensor: "Tensor") -> None:
            if value in watched and tensor.numel():
                watched[value].widen(tensor.numpy())

        def judge(_batch: int, value: Value, tensor: "Tensor") -> None:
            if value in watched:
                watched[value].judge(tensor.numpy())

        for inputs, sees in ((fitted, [widen]), (held_out, [judge, widen])):
            show(Reference(graph), inputs, sees, context, "looking at caches")
        return [it.best for it in watched.values()]


class _Watch:
    """What calibration data tell of a cache.

    Args:
        cache: the cache.
    """

    def __init__(self, cache: Cache) -> None:
        shape = cache.join.output.shape
        channels = [axis for axis in range(1, cache.axis) if isinstance(shape[axis], int)]
        self._others = tuple(axis for axis in range(len(shape)) if axis not in channels)
        self._low, self._high = np.array(np.inf, np.float32), np.array(-np.inf, np.float32)
        self._errors = dict.fromkeys([None, *channels], 0.0)

    def widen(self, array: np.ndarray) -> None:
        """Take the range of a batch into account."""
        self._low = np.minimum(self._low, array.min(self._others, keepdims=True))
        self._high = np.maximum(self._high, array.max(self._others, keepdims=True))

    def judge(self, array: np.ndarray) -> None:
        """Add up the errors that grids over the ranges so far make on a batch."""
        for axis in self._errors:
            if grid := self._grid(axis):
                self._errors[axis] += grid.error(array)

    @property
    def best(self) -> "_Grid | None":
        """The grid whose error was least, over all that was seen; None where the ends of that aren't finite."""
        return self._grid(min(self._errors, key=lambda axis: self._errors[axis]))

    def _grid(self, axis: int | None) -> "_Grid | None":
        if not (np.isfinite(self._low).all() and np.isfinite(self._high).all()):
            return None
        others = tuple(other for other in range(self._low.ndim) if other != axis)
        low, high = self._low.min(others), self._high.max(others)
        ends = zip(low.reshape(-1).tolist(), high.reshape(-1).tolist(), strict=True)
        params = [QuantParams.over(*pair, DType.int8) for pair in ends]
        scale, zero_point = ([it.arrays()[part] for it in params] for part in range(2))
        return _Grid(np.stack(scale).reshape(low.shape), np.stack(zero_point).reshape(low.shape), axis)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The int8 that stand for a cache's floats.

    Attributes:
        scale: the distance between neighbours, float32: one, or one for each place along `axis`.
        zero_point: the integers that stand for 0, int8, in the shape of `scale`.
        axis: the axis whose places have grids of their own; None for one grid.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None

    def error(self, array: np.ndarray) -> float:
        """The sum of the squared errors of what is rounded."""
        shape = [-1 if axis == self.axis else 1 for axis in range(array.ndim)]
        scale, zero_point = self.scale.reshape(shape).astype(np.float64), self.zero_point.reshape(shape)
        codes = np.clip(np.rint(array / scale) + zero_point, -128, 127)
        return float(np.square((codes - zero_point) * scale - array).sum())

    def put_on(self, graph: Graph, cache: Cache) -> None:
        """Round what a cache holds, and let the graph return and read that."""
        join = cache.join
        op = Builder(graph, join, join.location)
        scale, zero_point = op.constant(self.scale, "scale"), op.constant(self.zero_point, "zero_point")
        joined = op.Concat(*(join.operand(place) for place in range(2)), axis=cache.axis)
        codes = op.QuantizeLinear(joined, scale, zero_point, axis=self.axis, name="codes")
        graph.replace_uses(join.output, real := op.DequantizeLinear(codes, scale, zero_point, axis=self.axis))
        graph.erase(join)
        graph.rename(real, join.output.name)


def _left(cache: Cache, reason: str) -> str:
    return f"the cache {cache.past.name} stays in float: {reason}"
