"""GPTQ: a weight is rounded row by row, and the rows that are left make up for the error so far.

So do the columns that are left, where it is known what errors of a layer's outputs have in common for the model's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
from annotated_types import Interval

from ...ir.block_weight import BlockScheme, BlockWeight
from .directions import Directions
from .grid_search import search_grid
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
        return cls(weight, scheme, search_grid(weight, scheme, energy), order, upper)

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
        ends = (0, self.scheme.codes - 1)
        if outputs is None:
            codes = round_in_order(weight[None], self.upper[None], scales[None], zero_points[None], ends)[0]
        else:
            sideways = torch.from_numpy(compensation(outputs[np.ix_(columns, columns)], _SIDEWAYS_DAMPING))
            codes = _round_in_tiles(weight, self.upper, sideways, scales, zero_points, ends)
        found = np.empty((k, n), np.uint8)
        found[places] = codes.numpy().astype(np.uint8)
        return BlockWeight(found, self.grid[0], self.grid[1].astype(np.uint8), self.scheme)


def _round_in_tiles(
    weight: "Tensor",
    upper: "Tensor",
    sideways: "Tensor",
    scales: "Tensor",
    zero_points: "Tensor",
    ends: tuple[int, int],
) -> "Tensor":
    """The codes of a matrix each of whose columns is rounded as `round_in_order` does, after those before it.

    A column aims at its own weights, moved by the errors of the columns before, so that a tile needs those above it and
    those to its left: tiles of one diagonal are rounded at once.

    Args:
        weight: float32, `[K, N]`.
        upper: how much a row's error moves the later rows, `[K, K]`.
        sideways: how much a column's error moves the later columns, `[N, N]`.
        scales, zero_points: the scale and the zero point of each weight, `[K, N]`.
        ends: the least and the greatest code.
    """
    import torch

    codes, down, right = (torch.empty_like(weight) for _ in range(3))  # codes, and errors that move what is left
    for tiles in _diagonals(*weight.shape):
        exact, near, beside, scale, zero_point = (
            torch.stack([part[place] for place in places])
            for part, places in (
                (weight, tiles),
                (upper, [(rows, rows) for rows, _ in tiles]),
                (sideways, [(columns, columns) for _, columns in tiles]),
                (scales, tiles),
                (zero_points, tiles),
            )
        )
        from_left = [right[rows, : columns.start] @ sideways[: columns.start, columns] for rows, columns in tiles]
        from_above = [upper[: rows.start, rows].mT @ down[: rows.start, columns] for rows, columns in tiles]
        aims = torch.where(exact != 0, exact - torch.stack(from_left), 0)
        moved = torch.where(exact != 0, aims - torch.stack(from_above), 0)
        found = round_in_order(moved.clone(), near, scale, zero_point, ends)
        floats = (found - zero_point) * scale
        below = torch.linalg.solve_triangular(near.mT, moved - floats, upper=False)
        behind = torch.linalg.solve_triangular(beside, aims - floats, upper=True, left=False)
        for place, *parts in zip(tiles, found, below, behind, strict=True):
            for whole, part in zip((codes, down, right), parts, strict=True):
                whole[place] = part
    return codes


def _diagonals(k: int, n: int) -> Iterator[list[tuple[slice, slice]]]:
    """The tiles of a matrix `[k, n]`, those on a diagonal together if they have the same shape."""
    rows, columns = ([slice(start, min(start + _TILE, size)) for start in range(0, size, _TILE)] for size in (k, n))
    for place in range(len(rows) + len(columns) - 1):
        diagonal = [
            (rows[down], columns[place - down]) for down in range(len(rows)) if 0 <= place - down < len(columns)
        ]
        for _, tiles in groupby(diagonal, key=lambda tile: [part.stop - part.start for part in tile]):
            yield list(tiles)


def round_in_order(
    weights: "Tensor", upper: "Tensor", scales: "Tensor", zero_points: "Tensor", ends: tuple[int, int]
) -> "Tensor":
    """The codes of matrices whose rows are rounded one after the other; what is zero stays zero.

    Args:
        weights: float32, `[G, K, N]`, overwritten by the values that would be exact, given the earlier errors.
        upper: how much a row's error moves the later rows, for each matrix, `[G, K, K]`; see `compensation`.
        scales, zero_points: the scale and the zero point of each weight, `[G, K, N]`.
        ends: the least and the greatest code.
    """
    import torch

    kept, codes = weights != 0, torch.empty_like(weights)
    for start in range(0, weights.shape[1], _AT_ONCE):
        rows = range(start, min(start + _AT_ONCE, weights.shape[1]))
        near = upper[:, start : rows.stop, start : rows.stop]
        errors = torch.empty_like(weights[:, start : rows.stop])
        for place, row in enumerate(rows):
            exact = weights[:, row].div(scales[:, row]).round_().add_(zero_points[:, row])
            codes[:, row] = torch.where(kept[:, row], exact.clamp_(*ends), zero_points[:, row])
            missed = weights[:, row] - (codes[:, row] - zero_points[:, row]) * scales[:, row]
            errors[:, place] = missed / near[:, place, place, None]
            moves = near[:, place, place + 1 :, None]
            weights[:, row + 1 : rows.stop].addcmul_(moves, errors[:, place, None], value=-1)
        weights[:, rows.stop :].baddbmm_(upper[:, start : rows.stop, rows.stop :].mT, errors, alpha=-1)
    return codes


def compensation(moments: np.ndarray, damping: float) -> np.ndarray:
    """The upper Cholesky factor of the inverse of damped moments: how each channel's error moves the later ones.

    If the moments are `R @ R.T` with an upper triangle R, which is the Cholesky factor of the rows and columns in
    opposite order, it is the inverse of R. Inverting the moments themselves would take three times as long.
    """
    from scipy.linalg import get_lapack_funcs

    damped = moments[::-1, ::-1].astype(np.float64)
    energy = np.diagonal(damped).copy()
    mean = energy.mean() or 1.0
    np.fill_diagonal(damped, np.where(energy > 0, energy, mean) + damping * mean)
    lower = np.linalg.cholesky(damped)
    (inverse,) = get_lapack_funcs(("trtri",), dtype=np.float64)
    return inverse(lower[::-1, ::-1])[0].astype(np.float32)
