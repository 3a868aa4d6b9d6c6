"""The share of rows that choose another class, estimated from more than the few rows that were seen to do so."""

from typing import TYPE_CHECKING

import numpy as np

from .measures import LossKind

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_LIKE = 4
"""One in so many rows, those with the nearest leads, tell how the lead of a row may move."""
_FEWEST = 8
_FARTHEST = 1e4
"""The largest lead, as a class has over masked ones; outputs that are no numbers are as far behind."""


def leads(kind: LossKind, wanted: "Tensor", got: "Tensor") -> tuple[np.ndarray, np.ndarray]:
    """How far ahead of all others each row's likeliest class is, and how far the same class is in other outputs.

    Args:
        kind: what the outputs hold; probabilities are compared by their logarithms.
        wanted: the outputs, `[..., classes]`, whose largest element in a row is the row's class.
        got: the other outputs, of the same shape.
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
    """The share of rows that choose another class: the share seen, or the share to be expected, if that is more.

    A hundred rows don't show a percent. But each row tells how far its lead has moved. So the chance that a row changes
    its class is taken from the rows whose leads were about as large before, as if these moved by a normal distribution.
    Its mean and its spread are known from these few rows alone, so the next one follows Student's distribution.

    Args:
        before: how far ahead of all others the class of each row was, float[rows].
        after: how far ahead the same class is now; below 0 where another class is chosen.
    """
    from scipy.special import stdtr

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
    free = max(like - 1, 1)
    spread = np.sqrt(np.maximum(square - mean**2 * (like > 1), 0) * (like + 1) / free)
    is_close = (before > 0) & (spread > 0)  # elsewhere classes were level, or all moved alike
    chance = np.where(is_close, stdtr(free, -(before + mean) / np.where(is_close, spread, 1)), after < 0)
    return float(max(chance.mean(), (after < 0).mean()))
