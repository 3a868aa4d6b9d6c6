"""The share of rows that choose another class, from more than the few that were seen to do it."""

from typing import TYPE_CHECKING

import numpy as np

from .measures import LossKind

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_LIKE = 4
"""A row is taken to move as the quarter of the rows does that were about as sure of their class."""
_FEWEST = 8
_FARTHEST = 1e4
"""How far ahead of masked classes another one is; outputs that are no numbers are as far behind."""


def leads(kind: LossKind, wanted: "Tensor", got: "Tensor") -> tuple[np.ndarray, np.ndarray]:
    """How far ahead of all others the likeliest class of each row is, and how far it is in other outputs.

    Args:
        kind: of the outputs; probabilities are compared by their logarithms.
        wanted: outputs, `[..., classes]`, that say which class it is.
        got: the others.
    """
    own = wanted.argmax(-1, keepdim=True)
    return _lead(kind, wanted, own), _lead(kind, got, own)


def _lead(kind: LossKind, outputs: "Tensor", own: "Tensor") -> np.ndarray:
    outputs = outputs.double()
    if kind is LossKind.PROBABILITIES:
        outputs = outputs.clamp_min(1e-12).log()
    if outputs.shape[-1] < 2:
        return np.ones(own.numel())
    two, places = outputs.topk(2, -1)
    other = two[..., :1].where(places[..., :1] != own, two[..., 1:])
    lead = (outputs.gather(-1, own) - other).flatten().numpy()
    return np.clip(np.nan_to_num(lead, nan=-_FARTHEST), -_FARTHEST, _FARTHEST)


def share_moved(before: np.ndarray, after: np.ndarray) -> float:
    """The share of rows that choose another class: of those seen, or to be expected of rows like them, if that is more.

    A hundred rows don't show a percent. But each tells how far its choice has moved, and is as likely to move as those
    show that were about as sure of their class before: by their mean, give or take a normal spread.

    Args:
        before: how far ahead of all others the class of each row was, float[rows].
        after: how far ahead of them it is now; below 0 where another one is chosen.
    """
    from scipy.special import ndtr

    rows = len(before)
    if not rows:
        return 0.0
    order = np.argsort(before)
    before, after = before[order], after[order]
    like = min(max(rows // _LIKE, _FEWEST), rows)
    first = np.clip(np.arange(rows) - like // 2, 0, rows - like)
    mean, square = (
        np.diff(np.concatenate([[0.0], np.cumsum(moved)])[np.stack([first, first + like])], axis=0)[0] / like
        for moved in (after - before, (after - before) ** 2)
    )
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    is_close = (before > 0) & (spread > 0)  # not of classes that are level, or that all move alike
    chance = np.where(is_close, ndtr(-(before + mean) / np.where(is_close, spread, 1)), after < 0)
    return float(max(chance.mean(), (after < 0).mean()))
