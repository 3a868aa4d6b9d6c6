"""Low-rank approximations of a weight that lose the least of what its layer computes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_DAMPING = 0.01
"""The share of the mean second moment that is added to each, as in GPTQ's Hessian (Frantar et al., ICLR 2023)."""
_JITTER = 1e-10
"""The share by which diagonals grow, so that directions without energy do no harm."""
_NO_ENERGY = 1e-12
"""The share of the energy below which all further directions together are rounding in single precision."""


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Two matrices whose product is a weight; their first columns and rows, however many, are the best of that rank.

    Attributes:
        whole: what `first` is made of, `[K, L]`: the weight itself where that is tall, so that it isn't held twice.
        columns: what `whole` is multiplied by for `first`, float64 `[L, R]`.
        rows: what `root` is solved for to get the second matrix, float64 `[R, N]`.
        losses: the squared error, in the metrics that it was made for, of each rank from 0 to R, float64 `[R + 1]`.
        root: an upper triangle, float64 `[R T, R T]` where N is a multiple of T; None where `rows` are the second
            matrix themselves, of whatever rank.
    """

    whole: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    losses: np.ndarray
    root: np.ndarray | None = None

    def cut(self, rank: int) -> "Decomposition":
        """The best approximation of a rank."""
        size = 0 if self.root is None else rank * len(self.root) // len(self.rows)
        root = None if self.root is None else self.root[:size, :size]
        return Decomposition(self.whole, self.columns[:, :rank], self.rows[:rank], self.losses[: rank + 1], root)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight."""
        return len(self.whole), self.rows.shape[1]

    @property
    def first(self) -> np.ndarray:
        """The first matrix, float64 `[K, R]`."""
        return self.whole @ self.columns

    @property
    def second(self) -> np.ndarray:
        """The second matrix, float64 `[R, N]`."""
        if self.root is None:
            return self.rows
        return np.linalg.solve(self.root, self.rows.reshape(len(self.root), -1)).reshape(self.rows.shape)

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
            Where the weight has several times as many columns, it holds for each N of them.
    """
    inner, outer = _root(moment), _root(metric)
    weighed = _times(inner, matrix.astype(np.float64))
    output = _by_group(_times, outer, weighed.T).T
    if output.shape[1] <= output.shape[0]:
        energies, vectors = _eigenvectors(output.T @ output)
        whole, columns = matrix, _by_group(_times, _transposed(outer), vectors)
        second, sizes = _by_group(_solved, outer, vectors).T, energies
    else:
        energies, vectors = _eigenvectors(output @ output.T)
        whole, columns = _solved(inner, vectors), np.eye(len(energies))
        second, sizes = vectors.T @ weighed, 1 / energies
    scales = sizes**0.25  # so that both matrices are equally large
    losses = np.append(np.cumsum(energies[::-1])[::-1], 0.0)
    return Decomposition(whole, columns / scales, scales[:, None] * second, losses)


def definite(moment: np.ndarray | None) -> np.ndarray | None:
    """The moment without negative directions, where it has more of them than damping takes care of.

    Where values hardly vary, single precision leaves little else than rounding of their moment.
    """
    if moment is None or moment.ndim == 1:
        return None if moment is None else np.maximum(moment, 0.0)
    try:
        _root(moment)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh((moment + moment.T) / 2)
        return (vectors * np.maximum(values, 0.0)) @ vectors.T
    return moment


def fitted(
    parts: Decomposition, matrix: np.ndarray, moment: np.ndarray, metric: np.ndarray | None, whole: float
) -> Decomposition:
    """Fit the second matrix, at each rank, to what the first one computes at several places of a window together.

    The first matrix reads K inputs at each of T places, and the second has N columns for each place. `decompose`
    takes places for uncorrelated. With the moment of all inputs, the least squares of all ranks are parts of one
    triangular system. Ranks without energy, as a weight with a filter of zeros has them, are left out: what they read
    is rounding, and depends on what the others read.

    Args:
        parts: the decomposition of the weight in ranks that may be cut to.
        matrix: the weight, `[K, T N]`.
        moment: the moment of all inputs, `[K T, K T]`, places counted fastest.
        metric: the metric of the outputs as in `decompose`.
        whole: the loss of rank 0.
    """
    parts = parts.cut(max(int((parts.losses[:-1] > _NO_ENERGY * parts.losses[0]).sum()), 1))
    rows, first = len(moment), parts.first
    places, rank = rows // len(first), first.shape[1]
    moment = moment + np.eye(rows) * (_DAMPING * np.trace(moment) / rows or 1.0)
    seen = first.T @ moment.reshape(len(first), -1)
    gram = np.tensordot(seen.reshape(rank, places, len(first), places), first, (2, 0)).swapaxes(2, 3)
    gram = gram.reshape(rank * places, -1)
    np.fill_diagonal(gram, (1 + _JITTER) * gram.diagonal() + np.finfo(np.float64).tiny)
    root = np.linalg.cholesky(gram)
    found = np.linalg.solve(root, seen.reshape(-1, rows) @ matrix.reshape(rows, -1))
    gains = energies(found, metric).reshape(rank, places).sum(axis=1)
    losses = np.maximum(whole - np.append(0.0, np.cumsum(gains)), 0.0)
    return Decomposition(parts.whole, parts.columns, found.reshape(rank, -1), losses, root.T)


def energies(matrix: np.ndarray, metric: np.ndarray | None) -> np.ndarray:
    """The energy of each row of a weight by a metric of its outputs (see `decompose`), `[K]`."""
    return np.square(_by_group(_times, _root(metric), matrix.astype(np.float64).T)).sum(axis=0)


def lost(matrix: np.ndarray, approximation: np.ndarray, covariance: np.ndarray | None) -> float:
    """The mean squared error of the output that an approximation makes, summed over output channels.

    Args:
        matrix: the weight, `[K, N]`.
        approximation: the approximation of the weight, `[K, N]`.
        covariance: the covariance of the inputs, `[K, K]`, or its diagonal, `[K]`; None where all directions count the
            same.
    """
    difference = matrix - approximation
    return float(np.vdot(difference, _times(covariance, difference)))


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


def _by_group(
    apply: Callable[[np.ndarray, np.ndarray], np.ndarray], root: np.ndarray | None, matrix: np.ndarray
) -> np.ndarray:
    """Apply a root to each group of a matrix's rows, of which there are as many as the root has."""
    if root is None:
        return matrix
    return apply(root, matrix.T.reshape(-1, len(root)).T).T.reshape(matrix.T.shape).T


def _transposed(root: np.ndarray | None) -> np.ndarray | None:
    return None if root is None else root.T


def _times(root: np.ndarray | None, matrix: np.ndarray) -> np.ndarray:
    """The product of a root, or a moment, with a matrix; each is a matrix, a diagonal, or None for the identity."""
    if root is None:
        return matrix
    return root[:, None] * matrix if root.ndim == 1 else root @ matrix


def _solved(root: np.ndarray | None, matrix: np.ndarray) -> np.ndarray:
    """The matrix whose product with a root, as in `_times`, is the given one."""
    if root is None:
        return matrix
    return matrix / root[:, None] if root.ndim == 1 else np.linalg.solve(root, matrix)
