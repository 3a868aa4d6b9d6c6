"""Normalizations, by statistics of their own and by those that are given."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[..., Any]


def images(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 8, 9),)


GIVEN: dict[str, Function] = {
    "batch": nn.BatchNorm2d(4),
    "batch without parameters": nn.BatchNorm2d(4, affine=False),
    "batch of rows": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4)),
    "instance": nn.InstanceNorm2d(4, affine=True),
    "instance without parameters": nn.InstanceNorm2d(4),
    "instance with running statistics": nn.InstanceNorm2d(4, track_running_stats=True),
    "layer": nn.LayerNorm(9),
    "layer over two axes": nn.LayerNorm((8, 9), eps=0.1),
    "layer without bias": nn.LayerNorm(9, bias=False),
    "layer without parameters": nn.LayerNorm(9, elementwise_affine=False),
    "root mean square": nn.RMSNorm(9),
    "root mean square with epsilon": nn.RMSNorm((8, 9), eps=0.1, elementwise_affine=False),
    "group": nn.GroupNorm(2, 4),
    "group without parameters": nn.GroupNorm(2, 4, affine=False),
    "local response": nn.LocalResponseNorm(3),
    "unit length": lambda x: F.normalize(x, dim=1),
}
OWN: dict[str, Function] = {
    "batch": nn.BatchNorm2d(4, track_running_stats=False),
    "batch in training": lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4), training=True),
    "layer with statistics": lambda x: torch.native_layer_norm(x, [9], torch.ones(9), None, 1e-5),
    "group with statistics": lambda x: torch.native_group_norm(x, None, torch.ones(4), x.shape[0], 4, 72, 2, 1e-5),
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", [GIVEN, OWN], ids=["given", "own"])
def test_results_are_torchs(holds: Function, family: dict[str, Function], is_symbolic: bool) -> None:
    holds(family, images, is_symbolic)
