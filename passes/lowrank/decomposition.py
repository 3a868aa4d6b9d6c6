"""Low-rank approximations of a weight that lose the least of what its layer computes."""

from dataclasses import dataclass

import numpy as np

_DAMPING = 0.01
"""The share of the mean second moment that is added to each, as in GPTQ's Hessian (Frantar et al., ICLR 2023)."""


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Two matrices whose product is a weight; their first columns and rows, however many, are the best of that rank.

    Attributes:
        whole: what `first` is made of, `[K, L]`: the weight itself where that is tall, so that it isn't held twice.
        columns: what `whole` is multiplied by for `first`, float64 `[L, R]`.
        second: the second matrix, float64 `[R, N]`.
        losses: the squared error, in the metrics that it was made for, of each rank from 0 to R, float64 `[R + 1]`.
    """

    whole: np.ndarray
    columns: np.ndarray
    second: np.ndarray
    losses: np.ndarray

    def cut(self, rank: int) -> "Decomposition":
        """The best approximation of a rank."""
        return Decomposition(self.whole, self.columns[:, :rank], self.second[:rank], self.losses[: rank + 1])

    @property
    def first(self) -> np.ndarray:
        """The first matrix, float64 `[K, R]`."""
        return self.whole @ self.columns

    @property
    def product(self) -> np.ndarray:
        """The product of the two matrices, which stands for the weight."""
        return self.first @ self.second


def decompose(matrix: np.ndarray, moment: np.ndarray | None = None, metric: np.ndarray | None = None) -> Decomposition:
    """Decompose a weight `W` so that each rank loses the least squared error of the output.

    With `M` the moment and `G` the metric, that is the trace of `D^T M D G` for a change `D` of the weight. The best
    approximations are the truncated singular value decompositions of `M^1/2 W G^1/2`: without metric those of Chen et
    al., "DRONE", NeurIPS 2021, and Wang et al., "SVD-LLM", ICLR 2025. Where both hold second moments of the loss's
    gradients, the error is that of the loss. Of two eigenvalue problems that give it the one with fewer rows is solved:
    a head has a hundred times as many outputs as inputs.

    Args:
        matrix: the weight, `[K, N]`.
        moment: the moment of its inputs, `[K, K]`, or its diagonal, `[K]`; None where all directions count the same.
        metric: the metric of its outputs, `[N, N]`, or its diagonal, `[N]`; None where all directions count the same.
    """
    inner, outer = _root(moment), _root(metric)
    weighed = _times(inner, matrix.astype(np.float64))
    output = _times(outer, weighed.T).T
    if output.shape[1] <= output.shape[0]:
        energies, vectors = _eigenvectors(output.T @ output)
        whole, columns, second = matrix, _times(_transposed(outer), vectors), _solved(outer, vectors).T
        sizes = energies
    else:
        energies, vectors = _eigenvectors(output @ output.T)
        whole, columns, second = _solved(inner, vectors), np.eye(len(energies)), vectors.T @ weighed
        sizes = 1 / energies
    scales = sizes**0.25  # so that both matrices are equally large
    losses = np.append(np.cumsum(energies[::-1])[::-1], 0.0)
    return Decomposition(whole, columns / scales, scales[:, None] * second, losses)


def energies(matrix: np.ndarray, metric: np.ndarray | None) -> np.ndarray:
    """The energy of each row of a weight by a metric of its outputs (see `decompose`), `[K]`."""
    return np.square(_times(_root(metric), matrix.astype(np.float64).T)).sum(axis=0)


def lost(matrix: np.ndarray, approximation: np.ndarray, covariance: np.ndarray | None) -> float:
    """The mean squared error of the output that an approximation makes, summed over output channels.

    Args:
        matrix: the weight, `[K, N]`.
        approximation: the approximation of the weight, `[K, N]`.
        covariance: the covariance of the inputs; None where all directions count the same.
    """
    difference = matrix - approximation
    return float(np.vdot(difference, difference if covariance is None else covariance @ difference))


def _eigenvectors(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues, none of them 0, and the eigenvectors as columns, the largest first."""
    values, vectors = np.linalg.eigh(gram)
    return np.maximum(values[::-1], 1e-30), vectors[:, ::-1]


def _root(moment: np.ndarray | None) -> np.ndarray | None:
    """`R` with `R^T R` the damped moment: a triangle, or a diagonal where the moment is one; None for None."""
    if moment is None:
        return None
    if moment.ndim == 1:
        return np.sqrt(moment + (_DAMPING * moment.mean() or 1.0))
    return np.linalg.cholesky(moment + np.eye(len(moment)) * (_DAMPING * np.trace(moment) / len(moment) or 1.0)).T


def _transposed(root: np.ndarray | None) -> np.ndarray | None:
    return None if root is None else root.T


def _times(root: np.ndarray | None, matrix: np.ndarray) -> np.ndarray:
    """The product of a root with a matrix; a root is a matrix, a diagonal, or None for the identity."""
    if root is None:
        return matrix
    return root[:, None] * matrix if root.ndim == 1 else root @ matrix


def _solved(root: np.ndarray | None, matrix: np.ndarray) -> np.ndarray:
    """The matrix whose product with a root, as in `_times`, is the given one."""
    if root is None:
        return matrix
    return matrix / root[:, None] if root.ndim == 1 else np.linalg.solve(root, matrix)
