"""GPTQ: a weight is rounded row by row, and the rows that are left make up for the error so far."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from annotated_types import Interval

from ...ir.block_weight import BlockScheme, BlockWeight
from .grid_search import search_grid
from .round_weights import WeightRounding
from .sweep import Moments

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

DAMPING = 0.001
"""What is added to second moments by default, as a share of their mean."""

_AT_ONCE = 128
"""Rows of a weight whose errors are collected before they reach the rows behind them (the paper's lazy batches)."""


@dataclass(frozen=True)
class Gptq(WeightRounding):
    """Round the weights of MatMul and Gemm layers to few bits so that their outputs change least on calibration data.

    Each input channel's weights are rounded in turn, and those of the channels that are left are moved to make up for
    the error (Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    ICLR 2023). Layers see what the rounded ones before them yield, and make up for a share of what that lacks (Li et
    al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", ICML 2025). A layer that plain or
    clipped rounding suits better, on batches that were held out, gets that.

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
    """

    name: ClassVar[str] = "gptq"
    activation_order: bool = True
    damping: Annotated[float, Interval(gt=0, lt=1)] = DAMPING

    def round(self, weight: np.ndarray, scheme: BlockScheme, moments: Moments) -> BlockWeight:
        target = moments.target(weight)
        return gptq(target, scheme, moments.shrunk, activation_order=self.activation_order, damping=self.damping)


def gptq(
    weight: np.ndarray, scheme: BlockScheme, moments: np.ndarray, *, activation_order: bool, damping: float
) -> BlockWeight:
    """Round a matrix; what is zero stays zero, as pruning may have made it.

    Args:
        weight: float32, `[K, N]`.
        scheme: the blocks and codes, whose grids are chosen before any rounding, by the channels' second moments.
        moments: the second moments of the inputs, float32, `[K, K]`.
        activation_order: whether channels are rounded by falling second moment, instead of as they lie.
        damping: what is added to the second moments, as a share of their mean.
    """
    import torch

    energy = np.diagonal(moments)
    grid = search_grid(weight, scheme, energy)
    order = np.argsort(-energy, kind="stable") if activation_order else np.arange(len(weight))
    upper = torch.from_numpy(compensation(moments[np.ix_(order, order)], damping))
    scales, zero_points = (torch.from_numpy(part[order // (scheme.block or len(order))]) for part in grid)
    held = torch.from_numpy(weight[order])
    codes = round_in_order(held[None], upper[None], scales[None], zero_points[None], (0, scheme.codes - 1))
    found = np.empty(weight.shape, np.uint8)
    found[order] = codes[0].numpy().astype(np.uint8)
    return BlockWeight(found, grid[0], grid[1].astype(np.uint8), scheme)


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
