"""SparseGPT: weights are set to zero row by row, and the rows that are left make up for the error so far.

What is left is fitted in the end, all of it at once.
"""

import numpy as np

from ..quantization.gptq import compensation
from .patterns import Pattern

_AT_ONCE = 128
"""Rows among which weights are chosen, and whose errors are collected before they reach the rows behind them."""

_STEPS, _TINY = 20, 1e-30
"""The steps that conjugate gradients take, and what a divisor is at least."""


def sparsegpt(weight: np.ndarray, pattern: Pattern, sparsity: float, moments: np.ndarray, damping: float) -> np.ndarray:
    """Set weights of a matrix to zero and move the others (Frantar and Alistarh, "SparseGPT", ICML 2023).

    Rows in front can't make up for those behind them, so that in the end all are fitted (Meng et al., "ALPS", NeurIPS
    2024).

    What it costs to set a weight to zero, if the rows behind it make up for that, is its square over that of the
    inverse's Cholesky factor; a block costs the sum.

    Args:
        weight: the weight, float32, `[K, N]`.
        pattern: the pattern of weights that are set to zero together.
        sparsity: the share of zeros.
        moments: the second moments of the inputs, float32, `[K, K]`.
        damping: what is added to the second moments, as a share of their mean.
    """
    import torch

    upper = torch.from_numpy(compensation(moments, damping))
    left = torch.from_numpy(weight.astype(np.float32))  # a copy
    costs = upper.diagonal().square()[:, None]
    at_once = max(_AT_ONCE // pattern.period, 1) * pattern.period
    chosen = pattern.period if pattern.group else at_once
    for start in range(0, len(left), at_once):
        stop = min(start + at_once, len(left))
        near = upper[start:stop, start:stop]
        errors, keeps = torch.empty(stop - start, weight.shape[1]), torch.empty(0)
        for place, row in enumerate(range(start, stop)):
            if place % chosen == 0:
                ranked = slice(row, min(row + chosen, stop))
                scores = left[ranked].square() / costs[ranked]
                keeps = torch.from_numpy(pattern.keeps(scores.numpy(), sparsity))
            kept = left[row] * keeps[place % chosen]
            errors[place] = (left[row] - kept) / near[place, place]
            left[row] = kept
            left[row + 1 : stop].addr_(near[place, place + 1 :], errors[place], alpha=-1)
        left[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return refit(weight, left.numpy(), moments, damping)


def refit(weight: np.ndarray, sparse: np.ndarray, moments: np.ndarray, damping: float) -> np.ndarray:
    """Fit the nonzero elements of a sparse matrix to a whole one, by least squares of the outputs.

    The equations are solved by conjugate gradients.

    Args:
        weight: the whole matrix, float32, `[K, N]`.
        sparse: the sparse matrix to begin with.
        moments: the second moments of the inputs, float32, `[K, K]`.
        damping: what is added to the second moments, as a share of their mean.
    """
    import torch

    found, kept = torch.from_numpy(sparse.copy()), torch.from_numpy(sparse != 0)
    curvature = torch.from_numpy(
        moments + damping * np.diagonal(moments).mean() * np.eye(len(moments), dtype="float32")
    )
    scale = curvature.diagonal().clamp(min=_TINY)[:, None]
    left = (curvature @ (torch.from_numpy(weight) - found)) * kept
    step = left / scale
    size = (left * step).sum(0)
    for _ in range(_STEPS):
        bent = (curvature @ step) * kept
        rate = size / (step * bent).sum(0).clamp(min=_TINY)
        found += rate * step
        left -= rate * bent
        scaled = left / scale
        before, size = size, (left * scaled).sum(0)
        step = scaled + size / before.clamp(min=_TINY) * step
    return found.numpy()
