"""Which weights of a matrix go together, and which of them are kept."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from ...ir.errors import UsageError

_BLOCK, _KEPT_OF = re.compile(r"([1-9]\d*)x([1-9]\d*)"), re.compile(r"([1-9]\d*):([1-9]\d*)")

_ROUNDED = 1e-9
"""How far rounding may move a number of weights."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Blocks that are zero or not as a whole; or neighbours along K of which a fixed number is kept.

    Attributes:
        rows: how many rows a block has, along K; the last block may be shorter.
        columns: how many columns a block has, likewise.
        kept: how many weights of each group are kept; 0 where blocks are ranked over the whole matrix.
        group: how many neighbours in a column make up a group.
    """

    rows: int = 1
    columns: int = 1
    kept: int = 0
    group: int = 0

    @classmethod
    def of(cls, text: str, owner: str = "sparsify") -> "Pattern":
        """Read `unstructured`, a block such as `4x16` (rows along K by columns), or `2:4` (two of four are kept).

        Args:
            text: the pattern.
            owner: the name of the pass that has it as an option.

        Raises:
            UsageError: the text is none of these.
        """
        if text == "unstructured":
            return cls()
        if found := _BLOCK.fullmatch(text):
            return cls(*map(int, found.groups()))
        if (found := _KEPT_OF.fullmatch(text)) and int(found[1]) < int(found[2]):
            return cls(kept=int(found[1]), group=int(found[2]))
        raise UsageError(
            f"option pattern of pass {owner} is `unstructured`, a block such as 4x16, or 2:4, not {text!r}"
        )

    @property
    def sparsity(self) -> float:
        """The share of zeros that the pattern fixes; 0 where it fixes none."""
        return 1 - self.kept / self.group if self.group else 0.0

    def sparser(self, share: float) -> "Pattern":
        """The pattern on the way to itself: more of each group are kept while the share of zeros is below its own."""
        return replace(self, kept=max(ceil((1 - share) * self.group - _ROUNDED), self.kept))

    @property
    def period(self) -> int:
        """How many rows have to be chosen together."""
        return self.group or self.rows

    def keeps(self, scores: np.ndarray, sparsity: float, *, by_column: bool = False) -> np.ndarray:
        """Return which weights are kept, bool `[K, N]`.

        Args:
            scores: what it costs to set each weight to zero, `[K, N]`.
            sparsity: the share of blocks that go, unless the pattern fixes it.
            by_column: whether single weights are ranked in each column by themselves.
        """
        k, n = scores.shape
        if self.group:
            padded = np.pad(scores, ((0, -k % self.group), (0, 0)), constant_values=-1)
            groups = padded.reshape(-1, self.group, n)
            ranks = np.argsort(np.argsort(-groups, axis=1, kind="stable"), axis=1)
            return (ranks < self.kept).reshape(-1, n)[:k]
        padded = np.pad(scores, ((0, -k % self.rows), (0, -n % self.columns)))
        blocks = padded.reshape(len(padded) // self.rows, self.rows, -1, self.columns).sum((1, 3))
        ranked = blocks if by_column and self.columns == 1 else blocks.reshape(-1, 1)
        keeps = np.ones(ranked.shape, bool)
        gone = round(sparsity * len(ranked))
        np.put_along_axis(keeps, np.argsort(ranked, axis=0, kind="stable")[:gone], values=False, axis=0)
        keeps = keeps.reshape(blocks.shape)
        return np.repeat(np.repeat(keeps, self.rows, axis=0), self.columns, axis=1)[:k, :n]


def zeros_of(weights: Iterable[np.ndarray]) -> str:
    """A sentence that says how many weights are zero."""
    zeros, size = map(sum, zip(*((np.count_nonzero(it == 0), it.size) for it in weights), strict=True))
    return f"{zeros} of {size} weights are zero now, {100 * zeros / size:.1f} %"
