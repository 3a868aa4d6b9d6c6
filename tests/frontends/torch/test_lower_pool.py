"""Pooling, where torch and ONNX round sizes and places by rules of their own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from planish.frontends.torch import trace
from planish.ir.errors import ModelError

Function = Callable[..., Any]


def images(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 8, 9),)


def volumes(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 2, 4, 5, 6),)


POOLS: dict[str, Function] = {
    "max": nn.MaxPool2d(2),
    "max padded, up": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max dilated": nn.MaxPool2d((2, 3), 1, dilation=2),
    "max of one image": lambda x: F.max_pool2d(x[0], 2),
    "max in one dimension": lambda x: F.max_pool1d(x[:, 0], 3, padding=1),
    "max with places unread": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max and places": lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True),
    "max and places of one image": lambda x: F.max_pool2d(x[0], 2, dilation=2, return_indices=True),
    "max and back": lambda x: F.max_unpool2d(*F.max_pool2d(x[..., :8], 2, return_indices=True), 2),
    "average by a number": lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=5),
    "average": nn.AvgPool2d(2),
    "average padded": nn.AvgPool2d(3, 2, 1),
    "average without padding": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average up": nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True),
    "average up without padding": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average of one image": lambda x: F.avg_pool2d(x[0], 2),
    "average in one dimension": lambda x: F.avg_pool1d(x[:, 0], 3, 2),
}
ADAPTIVE: dict[str, Function] = {
    "average to one": nn.AdaptiveAvgPool2d(1),
    "average of equal windows": nn.AdaptiveAvgPool2d((4, 3)),
    "average of unequal windows": nn.AdaptiveAvgPool2d((3, 5)),
    "average to more": nn.AdaptiveAvgPool2d(12),
    "average of rows": nn.AdaptiveAvgPool2d((None, 1)),
    "average of columns": nn.AdaptiveAvgPool2d((1, 4)),
    "average to the same": nn.AdaptiveAvgPool2d((8, 9)),
    "average of one image": lambda x: F.adaptive_avg_pool2d(x[0], 1),
    "average in one dimension": lambda x: F.adaptive_avg_pool1d(x[:, 0], 4),
    "max to one": nn.AdaptiveMaxPool2d(1),
    "max of equal windows": nn.AdaptiveMaxPool2d((4, 3)),
    "max of unequal windows": nn.AdaptiveMaxPool2d((3, 5)),
    "max and places of unequal windows": lambda x: F.adaptive_max_pool2d(x, (3, 5), return_indices=True),
    "max in one dimension": lambda x: F.adaptive_max_pool1d(x[:, 0], 3),
}
THREE_DIMENSIONS: dict[str, Function] = {
    "max": nn.MaxPool3d(2),
    "average": nn.AvgPool3d(2),
    "adaptive": nn.AdaptiveAvgPool3d((2, 1, 1)),
    "adaptive to one": nn.AdaptiveAvgPool3d(1),
    "adaptive of unequal windows": nn.AdaptiveAvgPool3d((3, 2, 4)),
    "max and places": lambda x: F.max_pool3d(x, 2, return_indices=True),
    "max of unequal windows": nn.AdaptiveMaxPool3d((3, 2, 4)),
}


FAMILIES = {
    "pools": (POOLS, images),
    "adaptive": (ADAPTIVE, images),
    "three dimensions": (THREE_DIMENSIONS, volumes),
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_torchs(holds: Function, family: str, is_symbolic: bool) -> None:
    holds(*FAMILIES[family], is_symbolic)


@pytest.mark.parametrize("padding", [0, 1])
def test_windows_may_depend_on_a_symbolic_size(padding: int, agrees: Function) -> None:
    module = nn.Sequential(nn.ZeroPad2d(padding), nn.AdaptiveAvgPool2d((3, 3)))
    graph = trace(module, images(2), dynamic_shapes=({2: Dim("height", min=4)},))
    for height in (8, 4, 11):
        agrees(graph, module, (torch.randn(2, 4, height, 9),))


class Largest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(x, (3, 3))


def test_the_largest_of_windows_of_a_symbolic_size_are_refused() -> None:
    with pytest.raises(ModelError, match="the size height of what it pools is symbolic|refuses"):
        trace(Largest(), images(2), dynamic_shapes=({2: Dim("height", min=4)},))
