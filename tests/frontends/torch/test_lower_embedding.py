"""Look-ups in tables, one by one and in bags."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[..., Any]
TABLE = torch.randn(9, 4)
MODES = ("sum", "mean", "max")


def ids(batch: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 9, (batch, 5)),)


def bags(batch: int) -> tuple[Tensor, ...]:
    """Indices, where bags of them begin, of which one is empty, and weights."""
    return torch.randint(0, 9, (10,)), torch.tensor([0, 2, 2, 7]), torch.rand(10)


EVEN: dict[str, Function] = {
    "one by one": nn.Embedding(9, 4),
    "padded": nn.Embedding(9, 4, padding_idx=0),
    **{f"{mode} of rows": lambda i, mode=mode: F.embedding_bag(i, TABLE, mode=mode) for mode in MODES},
}
UNEVEN: dict[str, Function] = {
    **{mode: lambda i, o, w, mode=mode: F.embedding_bag(i, TABLE, o, mode=mode) for mode in MODES},
    **{
        f"{mode}, padded": lambda i, o, w, mode=mode: F.embedding_bag(i, TABLE, o, mode=mode, padding_idx=3)
        for mode in MODES
    },
    "weighed": lambda i, o, w: F.embedding_bag(i, TABLE, o, mode="sum", per_sample_weights=w),
    "with the last end": lambda i, o, w: F.embedding_bag(
        i, TABLE, F.pad(o, (0, 1), value=10), include_last_offset=True
    ),
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
def test_results_are_torchs(holds: Function, is_symbolic: bool) -> None:
    holds(EVEN, ids, is_symbolic)


def test_bags_of_any_size_are_torchs(holds: Function) -> None:
    holds(UNEVEN, bags, False)
