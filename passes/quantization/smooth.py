"""Smoothing: channels that reach far beyond the others are divided by a factor that multiplies their rows of weights.

One grid for an activation is as coarse as its widest channel asks for, and transformers have a few that are ten times
as wide as the rest. x W = (x / s) (s W) for any positive s, a number for each channel (Xiao et al., "SmoothQuant:
Accurate and Efficient Post-Training Quantization for Large Language Models", 2023).

Some channels reach far for one token of a text alone, as for the separator of BERT's (Sun et al., "Massive Activations
in Large Language Models", 2024). So those that reach beyond a bound may also be divided down to it, and no others.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Value
from ..base import Feeds, PassContext
from ..judge import Reference
from .calibrate import show
from .channel_sources import ChannelSource, channel_source, divide, replace_constant
from .clipping import Bounds
from .layers import Layer
from .repeat_channels import channel_path

if TYPE_CHECKING:
    from torch import Tensor

_EXPONENTS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""How much of the channels' differences may go into the weights; of these, the best predicted one is taken."""

_BOUNDS = 12
"""How many bounds are tried, from what the widest channel reaches to what the median one does."""

_LEFT = 0.5
"""The share of the predicted squared error that may be left: the division takes time where no other node absorbs it."""

_LEFT_BY_ROW = 0.8
"""The same where each row has a grid of its own: few divisions halve its error, but many small gains add up."""

_SHARE = 64
"""One in as many channels may be repeated, if the channels come from a product."""

_LANES = 16
"""How many channels kernels take at once; repeated ones are added by multiples of that."""

_LEFT_BY_GPTQ = 0.3
"""The share of the squared error of rounding weights that GPTQ leaves (MiniLM: 0.2 to 0.6)."""

_ROWS = 128
"""How many rows tell what grids of their own are like."""

_LEAST = 1e-5
"""The least that a channel is taken to reach, relative to the widest."""


@dataclass(slots=True)
class _Channels:
    """What calibration sees of an activation's channels.

    Attributes:
        by_row: whether each row has a grid of its own. Rows count relative to their size then: the layers behind
            normalize them, and few rows may be a hundred times as large as the others.
        low: the least of each channel, float[K].
        high: the largest of each channel, float[K].
        squares: the sum of squares of each channel over rows, float[K].
        rows: how many rows were seen.
        drawn: rows to try grids of their own on, float32[rows drawn, K].
        lots: the random numbers by which these rows were drawn, the least of all rows' numbers.
    """

    by_row: bool = False
    low: np.ndarray | float = 0.0
    high: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0
    rows: int = 0
    drawn: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    lots: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def update(self, batch: "Tensor") -> None:
        rows = batch.reshape(-1, batch.shape[-1]).double().numpy()
        if self.by_row:
            sizes = np.sqrt(np.square(rows).mean(axis=1))
            rows = rows[sizes > 0] / sizes[sizes > 0, None]
            self._draw(rows)
        if len(rows):
            self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
            self.squares, self.rows = self.squares + np.square(rows).sum(0), self.rows + len(rows)

    def _draw(self, rows: np.ndarray) -> None:
        """Draw anew from all rows so far, each as likely as any other.

        The first and last tokens of texts reach further than others. At set places of a batch, they count too much.
        """
        held = len(self.lots)
        lots = np.concatenate([self.lots, np.random.default_rng(self.rows).random(len(rows))])
        kept = np.sort(np.argsort(lots)[:_ROWS])
        old, new = kept[kept < held], kept[kept >= held] - held
        before = self.drawn.reshape(held, rows.shape[1])[old]
        self.drawn, self.lots = np.concatenate([before, rows[new].astype(np.float32)]), lots[kept]

    def square_step(self, scale: np.ndarray) -> float:
        """The square of the step of the grid for channels that are divided, or its mean over rows."""
        low, high = (self.drawn, self.drawn) if self.by_row else (self.low, self.high)
        steps = ((high / scale).max(axis=-1) - (low / scale).min(axis=-1)) / 255
        return float(np.square(steps).mean())


@dataclass(frozen=True, slots=True)
class _Division:
    """What becomes of an activation's channels.

    Attributes:
        scale: what each channel is divided by, and its row of the weights multiplied by, float[K].
        copies: how often each channel is computed, each time with an equal share of its row, int[K].
    """

    scale: np.ndarray
    copies: np.ndarray

    @property
    def channels(self) -> np.ndarray:
        """The channels by their numbers, each as often as it is computed."""
        return np.repeat(np.arange(len(self.copies)), self.copies)


@dataclass(frozen=True, slots=True)
class Smoothed:
    """What was done about an activation.

    Attributes:
        x: the activation as it was.
        range: the whole range of what is read in its place, as calibration saw it.
        scale: float[K], what a node of its own divides the activation by; None where the activation itself has changed.
    """

    x: Value
    range: Bounds
    scale: np.ndarray | None


class Smoothing:
    """Smooths what MatMul and Gemm layers read, where that is predicted to lower the error enough.

    Args:
        graph: the graph in float.
        layers: its layers that may compute in integers.
        by_row: whether each row of an activation has a grid of its own.
    """

    def __init__(self, graph: Graph, layers: Sequence[Layer], *, by_row: bool = False) -> None:
        self._graph = graph
        self._seen = {layer.x: _Channels(by_row) for layer in layers if _is_eligible(layer)}

    def see(self, batch: int, value: Value, tensor: "Tensor") -> None:
        """Take a tensor into account."""
        if value in self._seen and tensor.numel():
            self._seen[value].update(tensor)

    def fit(self, batches: Sequence[Feeds], context: PassContext) -> None:
        """Run batches whose tensors nobody else has shown."""
        show(Reference(self._graph), batches if self._seen else (), [self.see], context, "observing channels")

    def apply(
        self, layers: Sequence[Layer], integers: Collection[Value], context: PassContext, *, gptq: bool
    ) -> tuple[list[Layer], dict[Value, Smoothed]]:
        """Smooth in place.

        Args:
            layers: the layers that will compute in integers after all.
            integers: the values that are in integers before they are read, and stay as they are.
            context: the context that is asked before each rewrite.
            gptq: whether GPTQ will round the weights.

        Returns:
            The layers as they are now, and for each value that smoothed layers read now, what it was made from.
        """
        groups: dict[Value, list[Layer]] = {}
        for layer in layers:
            if _is_eligible(layer) and layer.x not in integers:
                groups.setdefault(layer.x, []).append(layer)
        found: dict[Value, Smoothed] = {}
        weight_share = _LEFT_BY_GPTQ if gptq else 1.0
        for x, readers in groups.items():
            seen = self._seen[x]
            weight = np.concatenate([_current(layer).matrix for layer in readers], axis=1)
            source = channel_source(readers)
            path = channel_path(readers) if isinstance(source, str) else None
            best = _best(seen, weight, weight_share, 0 if path is None else len(weight) // _SHARE // _LANES * _LANES)
            if best is not None and context.applies("smooth", readers[0].node):
                if path is not None and best.copies.max() > 1:
                    path.repeat(self._graph, best.channels)
                read = _apply(self._graph, x, readers, best)
                ends = float((seen.low / best.scale).min()), float((seen.high / best.scale).max())
                found[read] = Smoothed(x, ends, None if read is x or best.copies.max() > 1 else best.scale)
        return [layer if layer.is_turned else _current(layer) for layer in layers], found


def _is_eligible(layer: Layer) -> bool:
    return layer.node.operator != "Conv" and not layer.shares_weight


def _current(layer: Layer) -> Layer:
    """A layer with the input and the weight that its node reads by now."""
    weight = layer.node.inputs[1]
    assert isinstance(weight, Constant)
    return replace(layer, x=layer.node.operand(0), weight=weight)


def _best(channels: _Channels, weight: np.ndarray, weight_share: float, more: int) -> _Division | None:
    """The division with the least predicted error; None where it isn't worth it.

    Args:
        channels: what calibration sees of the activation's channels.
        weight: the readers' weights side by side, `[K, N]`.
        weight_share: the share of the squared error of rounding weights that is left.
        more: how many channels may be added to the K, as copies.
    """
    reach = np.maximum(channels.high, np.negative(channels.low))
    if not channels.rows or not np.all(np.isfinite(reach)) or not np.max(reach):
        return None
    reach = np.maximum(reach, _LEAST * np.max(reach))
    rows = np.abs(weight).max(axis=1).astype(np.float64)
    rows = np.maximum(rows, max(_LEAST * rows.max(), np.finfo(np.float32).tiny))
    bounds = np.geomspace(reach.max(), np.median(reach), _BOUNDS + 1)[1:]
    once = np.ones(len(weight), np.int64)
    scales = [reach**exponent / rows ** (1 - exponent) for exponent in _EXPONENTS]
    tried = [_Division(scale / np.exp(np.log(scale).mean()), once) for scale in scales]
    divided = [np.maximum(reach / bound, 1) for bound in bounds]
    tried += [_Division(scale, _copies(rows * scale, more)) for scale in divided]
    errors = [_error(channels, weight, division, weight_share) for division in tried]
    best = int(np.argmin(errors))
    whole = _error(channels, weight, _Division(once, once), weight_share)
    return tried[best] if errors[best] <= (_LEFT_BY_ROW if channels.by_row else _LEFT) * whole else None


def _copies(rows: np.ndarray, more: int) -> np.ndarray:
    """How often each channel is computed, if `more` copies make the largest share of a row least."""
    copies = np.ones(len(rows), np.int64)
    for _ in range(more):
        copies[np.argmax(rows / copies)] += 1
    return copies


def _error(channels: _Channels, weight: np.ndarray, division: _Division, weight_share: float) -> float:
    """The expected squared error of a product from rounding the activation to 256 levels and the weight by columns."""
    scale, copies = division.scale, division.copies
    steps = np.abs(weight * (scale / copies)[:, None]).max(axis=0) / 127
    power = copies * channels.squares / channels.rows
    of_activation = (
        channels.square_step(scale) * (np.square(scale) * np.square(weight.astype(np.float64)).sum(axis=1)).sum()
    )
    return float(of_activation + weight_share * np.square(steps).sum() * (power / np.square(scale)).sum())


def _apply(graph: Graph, x: Value, readers: Sequence[Layer], division: _Division) -> Value:
    """Divide an activation for its readers and multiply their weights; returns what they read then."""
    channels = division.channels
    scale = division.scale[channels].astype(np.float32)
    factor = scale / division.copies[channels].astype(np.float32)
    source = channel_source(readers)
    if isinstance(source, ChannelSource) and source.size == len(scale):
        divide(graph, source, scale)
    else:
        op = Builder(graph, readers[0].node, readers[0].node.location)
        x = op.Mul(x, op.constant(1 / scale, f"{x.name}.smoothing"))
    for layer in readers:
        weight = _current(layer).weight.data
        turned = np.take(weight, channels, 1 - layer.axis) * (factor[:, None] if layer.axis else factor)
        graph.set_input(layer.node, 0, x)
        replace_constant(graph, layer.node, 1, turned)
    return x
