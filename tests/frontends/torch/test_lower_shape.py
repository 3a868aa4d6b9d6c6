"""Views, slices, joins and padding, of fixed and of symbolic sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[..., Any]


def rows(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 4, 5), torch.randint(-9, 9, (batch, 4, 5))


def ones(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 1, 5, 1),)


def images(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 8, 9),)


VIEWS: dict[str, Function] = {
    "view": lambda x, i: x.view(x.shape[0], 20),
    "view of the rest": lambda x, i: x.view(-1, 5),
    "view of the batch last": lambda x, i: x.view(x.shape[0], 20).t().view(4, 5, x.shape[0])[1:],
    "reshape": lambda x, i: x.transpose(1, 2).reshape(x.shape[0], -1),
    "reshape to rows and back": lambda x, i: x.reshape(-1, 5).exp().reshape(x.shape),
    "flatten": lambda x, i: x.flatten(1),
    "flatten all": lambda x, i: x.flatten(),
    "unflatten": lambda x, i: x.unflatten(1, (2, 2)),
    "nothing": lambda x, i: x[:, :0].reshape(x.shape[0], 0, 3),
    "of a scalar": lambda x, i: (
        x[0, 0, 0].squeeze(0),
        x[0, 0, 0].transpose(0, 0),
        x[0, 0, 0].flip(()),
        x[0, 0, 0].roll(1),
    ),
    "copies": lambda x, i: (torch.view_copy(x, (-1, 5)), torch.permute_copy(x, (2, 0, 1)), torch.unbind_copy(x, 1)[0]),
    "unsqueeze": lambda x, i: (x.unsqueeze(-1), x.unsqueeze(0), x.unsqueeze(-2)),
    "squeeze what isn't one": lambda x, i: x.squeeze(1),
    "permute": lambda x, i: x.permute(2, 0, -2),
    "permute to the same": lambda x, i: x.permute(0, 1, 2),
    "transpose": lambda x, i: x.transpose(-1, 0),
    "t": lambda x, i: (x[0].t(), x[0, 0].t() + 1),
    "move": lambda x, i: x.movedim(0, -1).swapaxes(0, 1),
}
COPIES: dict[str, Function] = {
    "expand": lambda x, i: x[:, :1].expand(-1, 4, 5),
    "expand to more axes": lambda x, i: x[:, :1].expand(2, -1, 4, -1),
    "expand as another": lambda x, i: x[0, 0].expand_as(x),
    "repeat": lambda x, i: x.repeat(2, 1, 3),
    "repeat to more axes": lambda x, i: x.repeat(2, 1, 1, 3),
    "repeat each": lambda x, i: x.repeat_interleave(2, 1),
    "by a size": lambda x, i: x[:1].repeat(x.shape[0], 1, 1),
    "cat": lambda x, i: torch.cat([x, x], -1),
    "cat of two types": lambda x, i: torch.cat([x, i], 0),
    "cat to nothing": lambda x, i: torch.cat([torch.zeros(0), x, x]),
    "stack": lambda x, i: torch.stack([x, i], -1),
    "flip": lambda x, i: x.flip(1, -1),
    "roll": lambda x, i: x.roll((1, -2), (0, 2)),
    "roll all": lambda x, i: x.roll(3),
    "roll round": lambda x, i: x.roll(7, 1),
    "triangles": lambda x, i: (x.tril(), x.triu(1), x.tril(-1), torch.tril(x > 0)),
}
PARTS: dict[str, Function] = {
    "slice": lambda x, i: x[:, 1:3],
    "slice of the batch": lambda x, i: x[1:],
    "from behind": lambda x, i: x[:, -2:],
    "every other": lambda x, i: x[..., ::2],
    "of every axis": lambda x, i: x[:-1, 1:-1, 1:4:2],
    "beyond the end": lambda x, i: x[:, 2:100],
    "all": lambda x, i: x[:, 0:4],
    "narrow": lambda x, i: x.narrow(1, 1, 2),
    "half the batch": lambda x, i: x[: x.shape[0] // 2],
    "last half of the batch": lambda x, i: x[-(x.shape[0] + 1) // 2 :],
    "select": lambda x, i: (x[:, -1], x[0, 1]),
    "select by a size": lambda x, i: x[x.shape[0] - 1],
    "split": lambda x, i: x.split(2, 1),
    "split unevenly": lambda x, i: x.split([1, 4], 2),
    "split with a rest": lambda x, i: x.split(3, -2),
    "split into one": lambda x, i: x.split(9, 1),
    "chunk": lambda x, i: x.chunk(2, -1),
    "unbind": lambda x, i: x.unbind(1),
    "tensor split": lambda x, i: x.tensor_split(3, 1),
}
SQUEEZED: dict[str, Function] = {
    "an axis": lambda x: x.squeeze(1),
    "two axes": lambda x: x.squeeze((1, -1)),
    "one axis": lambda x: x[:1].squeeze(0),
    "no axis": lambda x: x.squeeze(()),
}
PADDED: dict[str, Function] = {
    "zeros": lambda x: F.pad(x, (1, 2)),
    "a number": lambda x: F.pad(x, (1, 2, 0, 3), value=2.0),
    "less than nothing": lambda x: F.pad(x, (-1, 2)),
    "round, less than nothing": lambda x: F.pad(x, (-1, 1, -2, 1), mode="circular"),
    "edges, less than nothing": lambda x: F.pad(x, (-1, 2, 1, -3), mode="replicate"),
    "integers": lambda x: F.pad(x.int(), (1, 2), value=1),
    "up to a length": lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 0, 9 - x.shape[0])),
    **{mode: lambda x, mode=mode: F.pad(x, (1, 2, 2, 1), mode=mode) for mode in ("reflect", "replicate", "circular")},
    "pixel shuffle": nn.PixelShuffle(2),
    "channel shuffle": nn.ChannelShuffle(2),
}
FAMILIES: dict[str, tuple[dict[str, Function], Function]] = {
    "views": (VIEWS, rows),
    "squeezed": (SQUEEZED, ones),
    "copies": (COPIES, rows),
    "parts": (PARTS, rows),
    "padded": (PADDED, images),
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_torchs(holds: Function, family: str, is_symbolic: bool) -> None:
    holds(*FAMILIES[family], is_symbolic)


def test_a_reshape_to_one_unknown_size_needs_no_computed_shape(holds: Function) -> None:
    graph = holds({"heads": lambda x, i: x.view(x.shape[0], 2, 2, 5)}, rows, True)
    assert [node.operator for node in graph.nodes] == ["Reshape"]
