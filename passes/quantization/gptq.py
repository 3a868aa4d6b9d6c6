"""GPTQ: a weight is rounded row by row, and the rows that are left make up for the error so far.

So do the columns that are left, where it is known what errors of a layer's outputs have in common for the model's.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
from annotated_types import Interval

from ...ir.block_weight import BlockScheme, BlockWeight
from .directions import Directions
from .round_weights import WeightRounding
from .sweep import Moments

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

DAMPING = 0.001
"""What is added to second moments by default, as a share of their mean."""

_AT_ONCE = 128
"""Rows of a weight whose errors are collected before they reach the rows behind them (the paper's lazy batches)."""

_TILE = 32
"""Rows and columns that are rounded before their errors reach the columns behind them."""

_SIDEWAYS_DAMPING = 0.01
"""What is added to the second moments of gradients, as a share of their mean."""


@dataclass(frozen=True)
class Gptq(WeightRounding):
    """Round the weights of MatMul and Gemm layers to few bits so that their outputs change least on calibration data.

    Each input channel's weights are rounded in turn, and those of the channels that are left are moved to make up for
    the error (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    ICLR 2023). Layers see what the rounded ones before them yield, and make up for a share of what that lacks (Li et
    al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", ICML 2025). Output channels that
    are left make up for errors as well, in as far as the model's outputs can't tell them apart (Tseng et al.,
    "Model-Preserving Adaptive Rounding", 2025). A layer gets the rounding that does best on batches that were held out,
    be it plain or clipped.

    Attributes:
        bits: the bits of a code.
        block: how many weights of a column share a scale and a zero point; a power of two.
        samples: the number of calibration samples that are used; 0 for all.
        asymmetry: the share of what the rounded layers before took from a layer's input that its weights make up for,
            in the mean of all inputs. Making up for all of it would weaken whatever rounding has disturbed, layer after
            layer.
        correct_biases: correct the layers' biases, where they have some, for the shift of each channel's mean that
            rounding causes.
        activation_order: whether the channels with the largest activations are rounded first, while most channels are
            left to make up for the error.
        damping: what is added to the second moments of all channels, as a share of their mean, so that directions
            that calibration hardly shows take up no errors.
        sideways: whether output channels make up for one another's errors, for which gradients are drawn.
    """

    name: ClassVar[str] = "gptq"
    activation_order: bool = True
    damping: Annotated[float, Interval(gt=0, lt=1)] = DAMPING

    def round(
        self, weight: np.ndarray, scheme: BlockScheme, moments: Moments, directions: Directions | None
    ) -> Iterator[BlockWeight]:
        target, inputs = moments.target(weight), moments.shrunk
        task = _Task.of(target, scheme, inputs, activation_order=self.activation_order, damping=self.damping)
        yield task.rounded()
        if directions is not None:
            yield task.rounded(directions.moments)


def gptq(
    weight: np.ndarray,
    scheme: BlockScheme,
    moments: np.ndarray,
    outputs: np.ndarray | None = None,
    *,
    activation_order: bool,
    damping: float,
) -> BlockWeight:
    """Round a matrix; what is zero stays zero, as pruning may have made it.

    Args:
        weight: float32, `[K, N]`.
        scheme: the blocks and codes, whose grids are chosen before any rounding, by the channels' second moments.
        moments: the second moments of the inputs, float32, `[K, K]`.
        outputs: the second moments of the loss's gradients at the outputs, `[N, N]`; None if columns don't make up for
            one another's errors.
        activation_order: whether channels are rounded by falling second moment, instead of as they lie.
        damping: what is added to the second moments, as a share of their mean.
    """
    return _Task.of(weight, scheme, moments, activation_order=activation_order, damping=damping).rounded(outputs)


@dataclass(frozen=True, slots=True)
class _Task:
    """A matrix to round, with all that doesn't depend on how its columns make up for one another's errors.

    Attributes:
        weight: float32, `[K, N]`.
        scheme: the blocks and codes.
        grid: the steps and the zero points of the blocks, `[blocks, N]`.
        order: the rows as they are rounded one after the other.
        upper: how much the error of a row moves the later ones, `[K, K]`, in that order.
    """

    weight: np.ndarray
    scheme: BlockScheme
    grid: tuple[np.ndarray, np.ndarray]
    order: np.ndarray
    upper: "Tensor"

    @classmethod
    def of(
        cls, weight: np.ndarray, scheme: BlockScheme, moments: np.ndarray, *, activation_order: bool, damping: float
    ) -> Self:
        import torch

        energy = np.diagonal(moments)
        order = np.argsort(-energy, kind="stable") if activation_order else np.arange(len(weight))
        upper = torch.from_numpy(compensation(moments[np.ix_(order, order)], damping))
        found = BlockWeight.over(weight, scheme, energy)
        return cls(weight, scheme, (found.scales, found.zero_points.astype(np.float32)), order, upper)

    def rounded(self, outputs: np.ndarray | None = None) -> BlockWeight:
        """The codes, and their grid; columns with the largest gradients come first where they are known."""
        import torch

        k, n = self.weight.shape
        columns = np.arange(n) if outputs is None else np.argsort(-np.diagonal(outputs), kind="stable")
        places = np.ix_(self.order, columns)
        blocks = np.ix_(self.order // (self.scheme.block or k), columns)
        weight, scales, zero_points = map(
            torch.from_numpy, (self.weight[places], *(part[blocks] for part in self.grid))
        )
        stays = weight == 0
        bounds = (part.masked_fill(stays, 0) for part in (-zero_points, self.scheme.codes - 1 - zero_points))
        grid = scales, *bounds
        if outputs is None:
            with _one_thread():
                steps = round_in_order(weight[None], self.upper[None], *(part[None] for part in grid))[0][0]
        else:
            sideways = torch.from_numpy(compensation(outputs[np.ix_(columns, columns)], _SIDEWAYS_DAMPING))
            with _one_thread():
                steps = _round_in_tiles(weight, self.upper, sideways, *grid)
        found = np.empty((k, n), np.uint8)
        steps = steps.masked_fill(stays, 0)  # moments of huge numbers are infinite, and what they move is NaN
        found[places] = (steps + zero_points).numpy().astype(np.uint8)
        return BlockWeight(found, self.grid[0], self.grid[1].astype(np.uint8), self.scheme)


@contextmanager
def _one_thread() -> Generator[None]:
    """Compute with one of torch's threads: for thousands of small steps, others cost more than they bring."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _round_in_tiles(
    weight: "Tensor", upper: "Tensor", sideways: "Tensor", scales: "Tensor", least: "Tensor", greatest: "Tensor"
) -> "Tensor":
    """Round a matrix each of whose columns is rounded as `round_in_order` does, after those before it.

    A column aims at its own weights, moved by the errors of the columns before, so that a tile needs those above it and
    those to its left: tiles of one diagonal are rounded at once.

    Args:
        weight: float32, `[K, N]`.
        upper: how much a row's error moves the later rows, `[K, K]`.
        sideways: how much a column's error moves the later columns, `[N, N]`.
        scales, least, greatest: the scale of each weight, and its bounds in scales, `[K, N]`.

    Returns:
        The rounded weights in scales.
    """
    import torch

    size = [-(-length // _TILE) * _TILE for length in weight.shape]
    down, right = (_enlarged(torch.eye(whole), part) for whole, part in zip(size, (upper, sideways), strict=True))
    near, beside = (_tiles(square).diagonal().movedim(-1, 0) for square in (down, right))
    beside = torch.linalg.solve_triangular(beside, torch.eye(_TILE).expand_as(beside), upper=True)
    down = (down / down.diagonal()[:, None]).T.contiguous()  # how much what is missed moves
    weights, *grid = (_tiles(_enlarged(torch.ones(size), part)) for part in (weight, scales, least, greatest))
    steps, missed, behind = torch.zeros(3, *size)
    rows, columns = weights.shape[:2]
    for place in range(rows + columns - 1):
        row = torch.arange(max(0, place - columns + 1), min(rows, place + 1))
        tiles = row, place - row
        from_left, from_above = torch.empty(2, len(row), _TILE, _TILE)
        for number, (i, j) in enumerate((_TILE * torch.stack(tiles, 1)).tolist()):
            torch.mm(behind[i : i + _TILE, :j], right[:j, j : j + _TILE], out=from_left[number])
            torch.mm(down[i : i + _TILE, :i], missed[:i, j : j + _TILE], out=from_above[number])
        exact, scale, *bounds = (part[tiles] for part in (weights, *grid))
        aims = torch.where(exact != 0, exact - from_left, 0)
        found, errors = round_in_order(aims - from_above, near[row], scale, *bounds)
        _tiles(steps)[tiles], _tiles(missed)[tiles] = found, errors
        _tiles(behind)[tiles] = (aims - found * scale) @ beside[tiles[1]]
    return steps[: len(weight), : weight.shape[1]]


def _enlarged(whole: "Tensor", part: "Tensor") -> "Tensor":
    """A larger matrix whose first rows and columns are another one's."""
    whole[: len(part), : part.shape[1]] = part
    return whole


def _tiles(matrix: "Tensor") -> "Tensor":
    """The tiles of a matrix that has whole ones, `[rows, columns, tile, tile]`, in the same memory."""
    rows, columns = (length // _TILE for length in matrix.shape)
    return matrix.view(rows, _TILE, columns, _TILE).transpose(1, 2)


def round_in_order(
    weights: "Tensor", upper: "Tensor", scales: "Tensor", least: "Tensor", greatest: "Tensor"
) -> "tuple[Tensor, Tensor]":
    """Round matrices whose rows are rounded one after the other.

    Args:
        weights: float32, `[G, K, N]`, overwritten by the values that would be exact, given the earlier errors.
        upper: how much a row's error moves the later rows, for each matrix, `[G, K, K]`; see `compensation`.
        scales, least, greatest: the scale of each weight, and its bounds in scales, `[G, K, N]`: 0 and 0 for zeros.

    Returns:
        The rounded weights in scales, and what each row then missed of its exact values.
    """
    import torch

    moves = upper / upper.diagonal(dim1=1, dim2=2)[..., None]
    steps, missed = torch.empty_like(weights), torch.empty_like(weights)
    rows = list(zip(*(part.unbind(1) for part in (weights, scales, steps, missed, least, greatest)), strict=True))
    for start in range(0, len(rows), _AT_ONCE):
        stop = min(start + _AT_ONCE, len(rows))
        for place in range(start, stop):
            exact, scale, step, miss, low, high = rows[place]
            torch.div(exact, scale, out=step).round_().clamp_(low, high)
            torch.addcmul(exact, step, scale, value=-1, out=miss)
            weights[:, place + 1 : stop].addcmul_(moves[:, place, place + 1 : stop, None], miss[:, None], value=-1)
        weights[:, stop:].baddbmm_(moves[:, start:stop, stop:].mT, missed[:, start:stop], alpha=-1)
    return steps, missed


def compensation(moments: np.ndarray, damping: float) -> np.ndarray:
    """The upper Cholesky factor of the inverse of damped moments: how each channel's error moves the later ones.

    If the moments are `R @ R.T` with an upper triangle R, which is the Cholesky factor of the rows and columns in
    opposite order, it is the inverse of R. Inverting the moments themselves would take three times as long. Where
    channels hardly vary, moments are rounding, and are damped until they have such a factor.
    """
    from scipy.linalg import get_lapack_funcs

    damped = moments[::-1, ::-1].astype(np.float64)
    energy = np.maximum(np.diagonal(damped), 0)
    mean = energy.mean() or 1.0
    while True:
        np.fill_diagonal(damped, np.where(energy > 0, energy, mean) + damping * mean)
        try:
            lower = np.linalg.cholesky(damped)
            break
        except np.linalg.LinAlgError:
            if not np.isfinite(damped).all():
                raise
            damping *= 10
    (inverse,) = get_lapack_funcs(("trtri",), dtype=np.float64)
    return inverse(np.asfortranarray(lower[::-1, ::-1]))[0].astype(np.float32)
