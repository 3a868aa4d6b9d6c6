"""Reductions, orderings and running sums."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Function = Callable[..., Any]


def inputs(batch: int) -> tuple[Tensor, ...]:
    """Floats of which no two are equal, integers, and truth values."""
    floats = torch.randperm(batch * 20).reshape(batch, 4, 5) / 10 - batch
    return floats, torch.randint(-9, 9, (batch, 4, 5)), torch.randn(batch, 4, 5) > 0


def over_axes(name: str) -> dict[str, Function]:
    reduce = getattr(torch, name)
    return {
        f"{name} of an axis": lambda x, i, b: reduce(x, dim=1),
        f"{name} kept": lambda x, i, b: reduce(x, dim=-1, keepdim=True),
        f"{name} of two axes": lambda x, i, b: reduce(x, dim=(0, -1)),
    }


SUMS: dict[str, Function] = {
    **over_axes("mean"),
    **over_axes("sum"),
    **over_axes("logsumexp"),
    "mean of all": lambda x, i, b: torch.mean(x),
    "sum of all": lambda x, i, b: torch.sum(x),
    "mean in double": lambda x, i, b: x.mean(1, dtype=torch.float64),
    "sum of integers": lambda x, i, b: i.sum(0),
    "sum of truth": lambda x, i, b: b.sum(1),
    "sum of a scalar": lambda x, i, b: x[0, 0, 0].sum() + x[0, 0, 1].mean(),
    "product": lambda x, i, b: x.prod(1),
    "product of integers kept": lambda x, i, b: i.prod(-1, keepdim=True),
    "product of all": lambda x, i, b: x[0, 0].prod(),
    "running sum": lambda x, i, b: x.cumsum(-1),
    "running sum of integers": lambda x, i, b: i.cumsum(0),
    "running sum of truth": lambda x, i, b: b.cumsum(1),
}
EXTREMES: dict[str, Function] = {
    **over_axes("amax"),
    **over_axes("amin"),
    **over_axes("any"),
    **over_axes("all"),
    "max of all": lambda x, i, b: torch.max(x),
    "min of all integers": lambda x, i, b: torch.min(i),
    "any of all": lambda x, i, b: b.any(),
    "all of all": lambda x, i, b: b.all(),
    "any of truth": lambda x, i, b: b.any(1),
    "max with places": lambda x, i, b: x.max(1),
    "min with places kept": lambda x, i, b: x.min(-1, keepdim=True),
    "place of the max": lambda x, i, b: x.argmax(1),
    "place of the min kept": lambda x, i, b: x.argmin(-1, keepdim=True),
    "place among all": lambda x, i, b: x.argmax(),
    "place among all kept": lambda x, i, b: torch.argmax(x, keepdim=True),
    "two largest": lambda x, i, b: x.topk(2),
    "two smallest": lambda x, i, b: x.topk(2, dim=1, largest=False),
    "sorted": lambda x, i, b: x.sort(1),
    "sorted downwards": lambda x, i, b: x.sort(-1, descending=True),
    "order": lambda x, i, b: x.argsort(1),
}
MOMENTS: dict[str, Function] = {
    **over_axes("var"),
    **over_axes("std"),
    "variance of all": lambda x, i, b: x.var(),
    "variance of the population": lambda x, i, b: x.var(1, correction=0),
    "deviation of the population": lambda x, i, b: x.std((0, 1), unbiased=False, keepdim=True),
    "variance of one": lambda x, i, b: x[:, :1].var(1),
    "variance and mean": lambda x, i, b: torch.var_mean(x, 1),
    "deviation and mean of all": lambda x, i, b: torch.std_mean(x),
}
NORMS: dict[str, Function] = {
    f"norm of order {order}": lambda x, i, b, order=order: torch.linalg.vector_norm(
        torch.where(b, x, 0.0), order, dim=1
    )
    for order in (0, 0.5, 1, 2, 3, math.inf, -math.inf)
} | {
    "norm of all": lambda x, i, b: torch.linalg.vector_norm(x),
    "norm of a matrix": lambda x, i, b: torch.linalg.norm(x, dim=(1, 2)),
}
FAMILIES = {"sums": SUMS, "extremes": EXTREMES, "moments": MOMENTS, "norms": NORMS}


@pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0")
@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_torchs(holds: Function, family: str, is_symbolic: bool) -> None:
    holds(FAMILIES[family], inputs, is_symbolic)
