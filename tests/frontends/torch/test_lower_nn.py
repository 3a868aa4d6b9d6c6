"""Layers: products and convolutions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[..., Any]


def rows(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 5),)


def images(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 8, 9),)


def volumes(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 2, 4, 5, 6),)


def encoded(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 8),)


PRODUCTS: dict[str, Function] = {
    "linear": nn.Linear(5, 7),
    "linear without bias": nn.Linear(5, 7, bias=False),
    "linear of rows": nn.Sequential(nn.Flatten(), nn.Linear(20, 3)),
    "linear of a vector": lambda x: F.linear(x[0, 0], torch.ones(2, 5)),
    "mm": lambda x: torch.mm(x[:, 0], x[0].t()),
    "bmm": lambda x: torch.bmm(x, x.mT),
    "by a vector": lambda x: torch.matmul(x, x[0, 0]),
    "addmm": lambda x: torch.addmm(x[0, 0, :4], x[:, 0], x[0].t(), beta=0.5, alpha=2),
    "baddbmm": lambda x: torch.baddbmm(x[:, :, :4], x, x.mT, beta=0.5, alpha=2),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x),
    "matrix by vector": lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 0], beta=2, alpha=0.5),
    "sum of products": lambda x: torch.addbmm(x[0], x, x.new_ones(x.shape[0], 5, 5), beta=0.5, alpha=2),
    "bilinear": lambda x: F.bilinear(x, x[..., :3], torch.ones(2, 5, 3) / 3, torch.ones(2)),
    "of integers": lambda x: torch.matmul(x.int(), x.int().mT),
}
CONVOLUTIONS: dict[str, Function] = {
    "plain": nn.Conv2d(4, 6, 3),
    "strided": nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
    "dilated groups": nn.Conv2d(4, 6, 3, dilation=2, groups=2),
    "depthwise": nn.Conv2d(4, 4, 3, groups=4, padding=1),
    "same": nn.Conv2d(4, 6, (3, 4), padding="same"),
    "valid": nn.Conv2d(4, 6, 3, padding="valid"),
    "reflecting": nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "circular": nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "one image": lambda x: F.conv2d(x[0], torch.ones(2, 4, 3, 3)),
    "by a computed kernel": lambda x: F.conv2d(x, x[:1, :, :3, :3] * 2),
    "in one dimension": lambda x: F.conv1d(x[:, :, 0], torch.ones(3, 4, 3), stride=2, padding=1),
    "transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed groups": nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, dilation=2),
    "transposed in one dimension": lambda x: F.conv_transpose1d(x[:, :, 0], torch.ones(4, 3, 3), stride=2),
}
FAMILIES: dict[str, tuple[dict[str, Function], Function]] = {
    "products": (PRODUCTS, rows),
    "convolutions": (CONVOLUTIONS, images),
    "convolution in three dimensions": ({"plain": nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1))}, volumes),
    "encoder": (
        {
            "trained": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            "frozen": nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True).requires_grad_(False),
        },
        encoded,
    ),
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_torchs(holds: Function, family: str, is_symbolic: bool) -> None:
    holds(*FAMILIES[family], is_symbolic)


def test_a_linear_of_rows_is_one_gemm_with_the_weight_as_it_is(holds: Function) -> None:
    layer = nn.Linear(20, 3)
    graph = holds({"fc": nn.Sequential(nn.Flatten(), layer)}, rows, True)
    assert [node.operator for node in graph.nodes] == ["Reshape", "Gemm"]
    assert [constant.type.static_shape for constant in graph.constants.values()][:2] == [(3, 20), (3,)]
