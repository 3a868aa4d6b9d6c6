"""What is written in place comes out as eager torch has it, whether or not the program had to be taken apart for it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planish import trace
from planish.frontends.torch import read_pt2
from planish.frontends.torch.inplace import show_dropout, writes_unseen
from planish.ir.errors import ModelError

Function = Callable[[Tensor], tuple[Tensor, ...]]


class Module(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.function(x)


def residual(x: Tensor) -> tuple[Tensor, ...]:
    y = F.relu(x * 2, inplace=True)
    y += x
    return (F.relu(y, inplace=True) + y,)


def read_by_its_first_name(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    z = y.relu_()
    z.add_(1)
    return y, z, y + z


def view_made_afterwards(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    y.mul_(3)
    rows = y.view(-1)
    return rows + 1, y


def narrower_than_the_operand(x: Tensor) -> tuple[Tensor, ...]:
    y = x.half()
    y.add_(torch.ones(4, dtype=torch.float64))
    return (y.masked_fill_(y > 1, 0).fill_(y[0, 0]),)


def copied_into(x: Tensor) -> tuple[Tensor, ...]:
    y = torch.zeros_like(x)
    y.copy_(x[:1])
    return (y,)


def view_read_afterwards(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    row = y[0]
    y.mul_(3)
    return row + 1, y


def written_through_a_view(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    y[:, 1].zero_()
    y[0] += 1
    return (y,)


def halves(x: Tensor) -> tuple[Tensor, ...]:
    a, b = (x * 2).chunk(2)
    a.add_(b)
    return a, b


def idle_dropout(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    z = F.dropout(y, 0.5, training=False)
    z += 1
    return y, z


def view_of_idle_dropout(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    row = F.dropout(y, 0.5, training=False)[0]
    y += 1
    return y, row + 1


def two_ways_of_writing(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    first, second = y.relu_(), y.add_(1)
    return first + 1, second, y


UNSEEN = (
    *(residual, read_by_its_first_name, two_ways_of_writing, view_made_afterwards),
    *(narrower_than_the_operand, copied_into, idle_dropout),
)
SEEN = (view_read_afterwards, written_through_a_view, halves, view_of_idle_dropout)


@pytest.mark.parametrize("function", [*UNSEEN, *SEEN])
def test_results_are_torchs(function: Function, agrees, tmp_path) -> None:
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(Module(function), (x,), strict=False)
    torch.export.save(program, tmp_path / "program.pt2")
    show_dropout(program.graph)
    assert writes_unseen(program.graph) == (function in UNSEEN)
    for graph in (trace(Module(function), (x,)), read_pt2(tmp_path / "program.pt2")):
        agrees(graph, Module(function), (x,))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.count.add_(1)


def test_what_the_caller_sees_changed_is_refused() -> None:
    for module in (Module(lambda x: (x.view(-1).add_(1) + 1,)), Counter()):
        with pytest.raises(ModelError, match="changes"):
            trace(module, (torch.zeros(4),))


def test_dropout_that_is_switched_on_is_refused() -> None:
    with pytest.raises(ModelError, match="dropout"):
        trace(Module(lambda x: (F.dropout(x, 0.5),)), (torch.zeros(4),))
