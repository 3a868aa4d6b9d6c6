"""Ridge regression of what a layer's output lacks on what the layer reads, over rows of calibration data."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

import numpy as np

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_TOGETHER = 4096
"""Rows whose products are summed at once."""

Pairs: TypeAlias = "Iterable[tuple[Tensor, Tensor]]"
"""Rows of what is read, `[rows, K]`, and of what is lacking, `[rows, N]`."""


class Regression(Protocol):
    """The data that changes of a layer's weights and bias, `[K + 1, N]`, are fitted to or judged by."""

    @property
    def arrays(self) -> Sequence[np.ndarray]:
        """The arrays that `regression_of` takes."""
        ...

    @property
    def lacks(self) -> float:
        """The squared error without a change."""
        ...

    def error(self, change: "Tensor") -> float:
        """The squared error that is left after a change."""
        ...

    def changes(self, dampings: Sequence[float], *, has_bias: bool) -> "list[Tensor]":
        """The changes that come closest, one for each damping; first that of the bias alone, if there is one.

        Args:
            dampings: what is added to each second moment, as shares of their mean.
            has_bias: whether the layer has a bias.
        """
        ...


def regression_over(pairs: Pairs, shift: "Tensor") -> Regression:
    """The regression over rows of what is read, less a shift and with a 1 behind it, and of what is lacking.

    Rows are kept where they are fewer than a row is long, and else the sums of their products, whose memory doesn't
    grow with the amount of data.
    """
    import torch

    waiting: list[tuple[Tensor, Tensor]] = []
    sums: Sums | None = None
    for x, lacking in _together(pairs):
        waiting.append((torch.nn.functional.pad(x - shift, (0, 1), value=1.0), lacking))
        if sums is None and sum(len(rows) for rows, _ in waiting) <= len(shift):
            continue
        for held in waiting:
            sums = Sums.over(*held) if sums is None else sums.plus(Sums.over(*held))
        waiting = []
    return sums or Rows(*(torch.cat(parts) for parts in zip(*waiting, strict=True)))


def regression_of(arrays: Sequence[np.ndarray]) -> Regression:
    """The regression that was turned into arrays."""
    import torch

    first, second, third = map(torch.from_numpy, arrays)
    return Sums(first, second, float(third)) if third.numel() else Rows(first, second)


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over rows of what is read, `x`, and of what is lacking, `r`.

    Attributes:
        reads: `x^T x`, float64 `[K + 1, K + 1]`.
        both: `x^T r`, float64 `[K + 1, N]`.
        lacks: `r^2`, summed over outputs as well.
    """

    reads: "Tensor"
    both: "Tensor"
    lacks: float

    @classmethod
    def over(cls, x: "Tensor", lacking: "Tensor") -> Self:
        """The sums over some rows."""
        return cls((x.T @ x).double(), (x.T @ lacking).double(), float(lacking.double().square().sum()))

    def plus(self, other: "Sums") -> Self:
        """The sums over the rows of both."""
        self.reads.add_(other.reads)
        self.both.add_(other.both)
        return replace(self, lacks=self.lacks + other.lacks)

    @property
    def arrays(self) -> list[np.ndarray]:
        return [self.reads.numpy(), self.both.numpy(), np.asarray(self.lacks)]

    def error(self, change: "Tensor") -> float:
        seen = self.reads.float() @ change.float()  # as exact as the sums are
        return self.lacks + float((change * (seen.double() - 2 * self.both)).sum())

    def changes(self, dampings: Sequence[float], *, has_bias: bool) -> "list[Tensor]":
        import torch

        reads, both = self.reads, self.both
        count, changes = len(reads), list[torch.Tensor]()
        if has_bias:
            mean = torch.zeros_like(both)
            mean[-1] = both[-1] / reads[-1, -1]
            changes.append(mean)
        used = count if has_bias else count - 1
        if count > 1:
            energy = float(reads.diagonal()[: count - 1].mean())
            for damping in dampings:
                damped = reads[:used, :used].clone()
                damped.diagonal()[: count - 1] += damping * energy + 1e-12
                root, failed = torch.linalg.cholesky_ex(damped)
                if not failed:
                    change = torch.zeros_like(both)
                    change[:used] = torch.cholesky_solve(both[:used], root)
                    changes.append(change)
        return [change for change in changes if bool(change.isfinite().all())]


@dataclass(frozen=True, slots=True)
class Rows:
    """A few rows, whose products with each other give the same changes (Saunders et al., ICML 1998).

    Attributes:
        x: what is read, with a 1 behind it, `[rows, K + 1]`.
        lacking: what is lacking, `[rows, N]`.
    """

    x: "Tensor"
    lacking: "Tensor"

    @property
    def arrays(self) -> list[np.ndarray]:
        return [self.x.numpy(), self.lacking.numpy(), np.empty(0)]

    @property
    def lacks(self) -> float:
        return float(self.lacking.double().square().sum())

    def error(self, change: "Tensor") -> float:
        return float((self.lacking - self.x @ change.float()).double().square().sum())

    def changes(self, dampings: Sequence[float], *, has_bias: bool) -> "list[Tensor]":
        import torch

        x, lacking = self.x[:, :-1].double(), self.lacking.double()
        energy = float(x.square().sum(0).mean())
        middle, mean = (it.mean(0) * has_bias for it in (x, lacking))
        x, lacking = x - middle, lacking - mean
        products = x @ x.T
        changes = [torch.cat([x.new_zeros(x.shape[1], len(mean)), mean[None]])] if has_bias else []
        for damping in dampings:
            damped = products + (damping * energy + 1e-12) * torch.eye(len(x), dtype=x.dtype)
            root, failed = torch.linalg.cholesky_ex(damped)
            if not failed:
                slope = x.T @ torch.cholesky_solve(lacking, root)
                changes.append(torch.cat([slope, (mean - middle @ slope)[None]]))
        return [change for change in changes if bool(change.isfinite().all())]


def _together(pairs: Pairs) -> "Iterator[tuple[Tensor, Tensor]]":
    """The pairs of tensors, each joined with the next ones until it has enough rows for fast products."""
    import torch

    waiting: list[tuple[Tensor, Tensor]] = []
    for pair in pairs:
        waiting.append(pair)
        if sum(len(rows) for rows, _ in waiting) >= _TOGETHER:
            yield torch.cat([rows for rows, _ in waiting]), torch.cat([others for _, others in waiting])
            waiting = []
    if waiting:
        yield torch.cat([rows for rows, _ in waiting]), torch.cat([others for _, others in waiting])
