"""What orders, counts and finds elements."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Function = Callable[..., Any]
BOUNDS = torch.tensor([-1.0, 0.0, 0.5, 2.0])


def inputs(batch: int) -> tuple[Tensor, ...]:
    """Floats of which no two are equal, integers, and truth values."""
    floats = torch.randperm(batch * 20).reshape(batch, 4, 5) / 10 - batch
    return floats, torch.randint(-3, 3, (batch, 4, 5)), torch.randn(batch, 4, 5) > 0


def holes(x: Tensor) -> Tensor:
    """Numbers with NaN among those of some rows, and one row without a number."""
    y = x.clone()
    y[0, 0, 1] = math.nan
    y[:, 1] = math.nan
    return y


ORDERED: dict[str, Function] = {
    "two largest": lambda x, i, b: x.topk(2),
    "two smallest": lambda x, i, b: x.topk(2, dim=1, largest=False),
    "largest of a scalar": lambda x, i, b: x[0, 0, 0].topk(1, 0),
    "sorted": lambda x, i, b: x.sort(1),
    "sorted downwards": lambda x, i, b: x.sort(-1, descending=True),
    "sorted as they come": lambda x, i, b: i.sort(stable=True, dim=1),
    "sorted truth": lambda x, i, b: b.sort(stable=True, dim=1),
    "sorted scalar": lambda x, i, b: x[0, 0, 0].sort(),
    "order": lambda x, i, b: x.argsort(1),
    "second": lambda x, i, b: x.kthvalue(2, 1),
    "second kept": lambda x, i, b: x.kthvalue(2, 1, keepdim=True),
    "median": lambda x, i, b: x.median(1),
    "median of integers": lambda x, i, b: i.median(-1, keepdim=True).values,
    "median of all": lambda x, i, b: x.median(),
    "median beside NaN": lambda x, i, b: holes(x).median(2),
    "median of numbers": lambda x, i, b: holes(x).nanmedian(2, keepdim=True).values,
    "quantile": lambda x, i, b: x.quantile(0.3, 1),
}
RUNNING: dict[str, Function] = {
    "sum": lambda x, i, b: x.cumsum(-1),
    "sum of integers": lambda x, i, b: i.cumsum(0),
    "sum of truth": lambda x, i, b: b.cumsum(1),
    "sum of a scalar": lambda x, i, b: x[0, 0, 0].cumsum(0),
    "product": lambda x, i, b: x.cumprod(1),
    "product of integers": lambda x, i, b: i.cumprod(1),
    "maximum": lambda x, i, b: x.cummax(1),
    "minimum with repetitions": lambda x, i, b: i.cummin(2),
    "maximum beside NaN": lambda x, i, b: holes(x).cummax(1)[0],
    "logarithm of the sum": lambda x, i, b: x.logcumsumexp(2),
    "differences": lambda x, i, b: x.diff(dim=1),
}
FOUND: dict[str, Function] = {
    "buckets": lambda x, i, b: torch.bucketize(x, BOUNDS),
    "buckets from the right": lambda x, i, b: torch.bucketize(i, BOUNDS, right=True, out_int32=True),
    "of NaN": lambda x, i, b: torch.bucketize(holes(x), BOUNDS),
    "searched": lambda x, i, b: torch.searchsorted(x.sort(-1).values, x + 0.05),
    "searched by order": lambda x, i, b: torch.searchsorted(x, x, side="right", sorter=x.argsort(-1)),
    "a number": lambda x, i, b: torch.searchsorted(BOUNDS, 0.5),
    "is in": lambda x, i, b: torch.isin(i, torch.tensor([1, -2])),
    "histogram": lambda x, i, b: torch.histc(x, 7, -2, 1),
    "histogram of all": lambda x, i, b: torch.histc(x, 5),
    "different": lambda x, i, b: torch.unique(i, return_inverse=True, return_counts=True),
    "different rows": lambda x, i, b: torch.unique(i[:, :, 0] > 0, dim=1, return_inverse=True, return_counts=True),
    "runs": lambda x, i, b: torch.unique_consecutive(b, return_inverse=True, return_counts=True),
    "runs of rows": lambda x, i, b: torch.unique_consecutive(b, dim=1, return_inverse=True, return_counts=True),
    "distances": lambda x, i, b: torch.cdist(x, x + 1),
    "distances of one norm": lambda x, i, b: torch.cdist(x, x + 1, p=1),
    "many distances": lambda x, i, b: torch.cdist(x.reshape(-1, 5).repeat(9, 1) + 9, x[0]),
    "distances of pairs": lambda x, i, b: torch.pdist(x[0]),
    "distance": lambda x, i, b: torch.dist(x, x + 1, 3),
}
FAMILIES = {"ordered": ORDERED, "found": FOUND}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_torchs(holds: Function, family: str, is_symbolic: bool) -> None:
    holds(FAMILIES[family], inputs, is_symbolic)


def test_running_values_are_torchs(holds: Function) -> None:
    holds(RUNNING, inputs, False)
