"""Reading and writing at computed places, with masks, gaps and repetitions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[..., Any]
PLACES = torch.tensor([[0, 2], [-1, 1]])
ROW = torch.tensor([2, 0, 2])
REDUCTIONS = ("sum", "prod", "mean", "amax", "amin")


def rows(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 4, 5), torch.randint(-9, 9, (batch, 4, 5))


def chosen(batch: int) -> tuple[Tensor, ...]:
    """Rows, and for each some of its places."""
    return torch.randn(batch, 4, 5), torch.randint(0, 4, (batch, 2, 5)), torch.randn(batch, 2, 5)


def scalars(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch), torch.tensor(0), torch.tensor(2.5)


def written(x: Tensor, where: Any, value: Any) -> Tensor:
    y = x.clone()
    y[where] = value
    return y


def added(x: Tensor, where: tuple[Any, ...], value: Tensor) -> Tensor:
    return x.index_put(where, value, accumulate=True)


READ: dict[str, Function] = {
    "by one tensor": lambda x, i: x[:, PLACES],
    "of the batch": lambda x, i: x[PLACES % 1],
    "by two tensors": lambda x, i: x[:, PLACES, PLACES],
    "by two that broadcast": lambda x, i: x[:, PLACES[:, :1], PLACES[:1]],
    "by two apart": lambda x, i: x[PLACES % 1, :, PLACES],
    "by all": lambda x, i: x[PLACES % 1, PLACES, PLACES],
    "by int32": lambda x, i: x[:, PLACES.int()],
    "with a slice": lambda x, i: x[:, 1:3, PLACES],
    "by a list": lambda x, i: x[:, [2, 0]],
    "one of each row": lambda x, i: x[torch.arange(x.shape[0]), i[:, 0, 0] % 4],
    "select": lambda x, i: x.index_select(1, torch.tensor([2, 0])),
    "one hot": lambda x, i: F.one_hot(i % 6, 6),
    "of all": lambda x, i: x.take(PLACES),
}
MASKED: dict[str, Function] = {
    "elements": lambda x, i: x[x > 0],
    "rows": lambda x, i: x[x[:, 0, 0] > 0] * 2,
    "matrices": lambda x, i: x[i[:, :, 0] > 0].sum(0),
    "columns": lambda x, i: x[:, torch.tensor([True, False, True, True])],
    "rows and places": lambda x, i: x[:, torch.tensor([True, False, True, False]), torch.tensor([0, 3])],
    "selected": lambda x, i: x.masked_select(i > 2),
    "places": lambda x, i: (i > 2).nonzero(),
    "places by axis": lambda x, i: torch.where(i > 2),
    "counted places": lambda x, i: torch.ops.aten.nonzero_static(i > 2, size=7),
    "reshaped": lambda x, i: x[i[:, :, 0] > 0].reshape(-1, 5, 1).transpose(0, 1),
    "scattered": lambda x, i: x.masked_scatter(i > 0, i.float()),
    "copied": lambda x, i: written(x, i > 0, x[i > 0] * 2),
    "copied rows": lambda x, i: written(x, i[:, 0, 0] > 0, x[i[:, 0, 0] > 0] * 2),
}
WRITTEN: dict[str, Function] = {
    "gather": lambda x, p, s: x.gather(1, p),
    "scatter": lambda x, p, s: x.scatter(1, p[:, :1], s[:, :1]),
    "scatter a part": lambda x, p, s: x.scatter(1, p[:, :1, :3], s),
    "scatter a number": lambda x, p, s: x.scatter(1, p, 2.0),
    "scatter sums": lambda x, p, s: x.scatter_add(1, p, s),
    "scatter products": lambda x, p, s: x.scatter(1, p, s, reduce="multiply"),
    **{
        f"scatter {how}{' anew' * anew}": lambda x, p, s, how=how, anew=anew: x.scatter_reduce(
            1, p, s, how, include_self=not anew
        )
        for how in REDUCTIONS
        for anew in (False, True)
    },
    "reduce rows": lambda x, p, s: x.index_reduce(1, torch.tensor([1, 1]), s, "amax"),
    "a slice": lambda x, p, s: written(x, (slice(None), slice(1, 3)), s),
    "the first": lambda x, p, s: written(x, (slice(None), slice(2)), 7.0),
    "the last": lambda x, p, s: written(x, (slice(None), slice(-2, None)), 7.0),
    "every other": lambda x, p, s: written(x, (slice(None), slice(0, 4, 2)), s),
    "all but the first of the batch": lambda x, p, s: written(x, slice(1, None), 7.0),
    "all": lambda x, p, s: written(x, slice(None), 7.0),
    "one": lambda x, p, s: written(x, (slice(None), 0), s[:, 0]),
    "where": lambda x, p, s: written(x, x > 0, 1.0),
    "rows where": lambda x, p, s: written(x, x[:, :, 0] > 0, 1.0),
    "columns where": lambda x, p, s: written(x, (slice(None), torch.tensor([True, False, True, False])), 1.0),
    "a row where": lambda x, p, s: written(x, x[:, :, 0] > 0, s[0, 0]),
    "added where": lambda x, p, s: added(x, (x > 0,), torch.tensor(2.0)),
    "rows": lambda x, p, s: written(x, (slice(None), [0, 2]), s),
    "a row's elements": lambda x, p, s: written(x, (slice(None), 1, [0, 2]), 1.0),
    "two by two": lambda x, p, s: written(x, (slice(None), PLACES, PLACES), 5.0),
    "apart": lambda x, p, s: written(x, (PLACES % 1, slice(None), PLACES), s[0, 0, :4, None, None]),
    "added": lambda x, p, s: added(x, (None, ROW), s[:, :1]),
    "added rows": lambda x, p, s: x.index_add(1, ROW, s[:, :1].expand(-1, 3, -1), alpha=2),
    "copied rows": lambda x, p, s: x.index_copy(1, ROW[:2], s),
    "filled rows": lambda x, p, s: x.index_fill(2, ROW, 3.0),
    "put": lambda x, p, s: x.put(ROW, s[0, 0, :3]),
    "put and added": lambda x, p, s: x.put(ROW, s[0, 0, :3], accumulate=True),
}
SCALARS: dict[str, Function] = {
    "gather": lambda x, i, v: v.gather(0, i),
    "scatter": lambda x, i, v: v.scatter(0, i, x[0]),
    "scatter sums": lambda x, i, v: v.scatter_add(0, i, x[0]),
    "select": lambda x, i, v: (v.index_select(0, i), x.index_select(0, i)),
    "take": lambda x, i, v: x.take(i),
    "places": lambda x, i, v: v.nonzero(),
}
FAMILIES: dict[str, tuple[dict[str, Function], Function]] = {
    "read": (READ, rows),
    "masked": (MASKED, rows),
    "written": (WRITTEN, chosen),
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_torchs(holds: Function, family: str, is_symbolic: bool) -> None:
    holds(*FAMILIES[family], is_symbolic)


def test_tensors_without_axes_are_rows_of_one(holds: Function) -> None:
    holds(SCALARS, scalars, False)
