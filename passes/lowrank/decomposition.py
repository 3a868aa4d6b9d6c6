"""Low-rank approximations of a weight that lose the least of what its layer computes."""

from dataclasses import dataclass

import numpy as np

_DAMPING = 0.01
"""The share of the mean second moment that is added to each, as in GPTQ's Hessian (Frantar et al., ICLR 2023)."""


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Two matrices whose product is a weight, and whose first columns and rows, however many, are the best for a rank.

    Attributes:
        first: float64 `[K, R]`.
        second: float64 `[R, N]`.
    """

    first: np.ndarray
    second: np.ndarray

    def cut(self, rank: int) -> "Decomposition":
        """The approximation of a rank."""
        return Decomposition(self.first[:, :rank], self.second[:rank])

    @property
    def product(self) -> np.ndarray:
        """The weight that it stands for."""
        return self.first @ self.second


def decompose(matrix: np.ndarray, moment: np.ndarray | None = None) -> Decomposition:
    """Decompose a weight so that each rank loses the least squared error of the output.

    The best approximation of rank r is `W V V^T`, where V are the first r eigenvectors of `W^T M W` (Chen et al.,
    "DRONE", NeurIPS 2021; Wang et al., "SVD-LLM", ICLR 2025). Of this and the same problem on the other side, the one
    that has fewer rows is solved: a head has a hundred times as many outputs as inputs.

    Args:
        matrix: the weight, `[K, N]`.
        moment: of its inputs, `[K, K]`; None where all directions count the same.
    """
    matrix = matrix.astype(np.float64)
    root = None if moment is None else np.linalg.cholesky(_damped(moment)).T
    output = matrix if root is None else root @ matrix
    if output.shape[1] <= output.shape[0]:
        kept, vectors = _eigenvectors(output.T @ output)
        first, second = matrix @ vectors, vectors.T
    else:
        kept, vectors = _eigenvectors(output @ output.T)
        first, second = vectors if root is None else np.linalg.solve(root, vectors), vectors.T @ output
        kept = 1 / np.maximum(kept, 1e-30)
    scales = kept**0.25  # so that both matrices are equally large
    return Decomposition(first / scales, scales[:, None] * second)


def lost(matrix: np.ndarray, approximation: np.ndarray, covariance: np.ndarray | None) -> float:
    """The mean squared error of the output that an approximation makes, summed over output channels.

    Args:
        matrix: the weight, `[K, N]`.
        approximation: of it.
        covariance: of the inputs; None where all directions count the same.
    """
    difference = matrix - approximation
    return float(np.vdot(difference, difference if covariance is None else covariance @ difference))


def _eigenvectors(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, none of them 0, and the vectors of them as columns, the largest first."""
    values, vectors = np.linalg.eigh(gram)
    return np.maximum(values[::-1], 1e-30), vectors[:, ::-1]


def _damped(moment: np.ndarray) -> np.ndarray:
    return moment + np.eye(len(moment)) * (_DAMPING * (np.trace(moment) / len(moment) or 1.0))
