"""Views that overlap, or that walk through memory aslant."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planish.frontends.torch import trace
from planish.ir.errors import ModelError

Function = Callable[..., Any]


def squares(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 6),)


def images(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 8, 9),)


WINDOWS: dict[str, Function] = {
    "windows": lambda x: x.unfold(2, 3, 2),
    "windows of the batch": lambda x: x.unfold(0, 1, 1),
    "windows of the first axis": lambda x: x.unfold(1, 2, 1).contiguous() * 2,
    "diagonal": lambda x: x.diagonal(0, 1, 2),
    "diagonal above": lambda x: x.diagonal(2, -2, -1),
    "diagonal below": lambda x: x.diagonal(-1, 1, 2),
    "diagonal of the batch": lambda x: x.diagonal(0, 0, 2),
    "diagonal written": lambda x: x.diagonal_scatter(torch.ones(x.shape[0], 4), 0, 1, 2),
    "diagonal made": lambda x: torch.diag_embed(x),
    "trace": lambda x: x[0].trace(),
}
STRIDED: dict[str, Function] = {
    "overlapping": lambda x: x.as_strided((3, 4), (2, 1)),
    "offset": lambda x: x.as_strided((2, 3), (6, 1), 5),
    "the same": lambda x: x.as_strided((2, 12), (12, 1)),
    "of a transpose": lambda x: x.transpose(1, 2).as_strided((2, 3), (6, 1)),
    "written": lambda x: torch.as_strided_scatter(x, torch.ones(2, 3), (2, 3), (6, 1), 1),
}
COLUMNS: dict[str, Function] = {
    "columns": lambda x: F.unfold(x, (2, 3), dilation=(1, 2), padding=(1, 0), stride=(2, 1)),
    "columns of one image": lambda x: F.unfold(x[0], 3),
    "columns and back": lambda x: F.fold(F.unfold(x, 2, stride=2), (8, 9), 2, stride=2),
    "columns and back, padded": lambda x: F.fold(
        F.unfold(x, 3, padding=1, dilation=2), (8, 9), 3, padding=1, dilation=2
    ),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x[..., :8], 2),
    "pixel shuffle of one image": lambda x: F.pixel_shuffle(x[0], 2),
    "pixel shuffle of integers": lambda x: F.pixel_shuffle(x.int(), 2),
}
FAMILIES = {"windows": (WINDOWS, squares), "columns": (COLUMNS, images)}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_torchs(holds: Function, family: str, is_symbolic: bool) -> None:
    holds(*FAMILIES[family], is_symbolic)


def test_strides_of_what_lies_in_memory_as_it_is(holds: Function) -> None:
    holds(STRIDED, squares, False)


class Beyond(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[0, :, 1:].as_strided((2, 3), (6, 1))


def test_a_view_of_memory_beside_its_operand_is_refused() -> None:
    with pytest.raises(ModelError, match="the view reaches memory beside its operand's elements"):
        trace(Beyond(), (torch.randn(2, 4, 6)[:, :, ::1],))
