"""Layers: products, convolutions, normalisations, attention, embeddings."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[..., Any]
attention = F.scaled_dot_product_attention


def rows(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 5),)


def images(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 4, 8, 9),)


def volumes(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 2, 4, 5, 6),)


def ids(batch: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 9, (batch, 5)),)


def heads(batch: int) -> tuple[Tensor, ...]:
    """Queries of 4 heads, keys and values of 2, and a mask with a query that may look at nothing."""
    mask = torch.randn(batch, 1, 5, 7) > 0
    mask[0, 0, 1] = False
    return torch.randn(batch, 4, 5, 8), torch.randn(batch, 2, 7, 8), torch.randn(batch, 2, 7, 8), mask


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
NORMS: dict[str, Function] = {
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
ATTENTIONS: dict[str, Function] = {
    "plain": lambda q, k, v, m: attention(q[:, :2], k, v),
    "causal": lambda q, k, v, m: attention(q[:, :2], k, v, is_causal=True),
    "scaled": lambda q, k, v, m: attention(q[:, :2], k, v, scale=0.3),
    "masked": lambda q, k, v, m: attention(q[:, :2], k, v, m),
    "biased": lambda q, k, v, m: attention(q[:, :2], k, v, torch.where(m, 0.5, -math.inf)),
    "grouped": lambda q, k, v, m: attention(q, k, v, enable_gqa=True),
    "of three axes": lambda q, k, v, m: attention(q[:, 0], k[:, 0], v[:, 0]),
}
FAMILIES: dict[str, tuple[dict[str, Function], Function]] = {
    "products": (PRODUCTS, rows),
    "convolutions": (CONVOLUTIONS, images),
    "convolution in three dimensions": ({"plain": nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1))}, volumes),
    "norms": (NORMS, images),
    "attentions": (ATTENTIONS, heads),
    "embeddings": ({"plain": nn.Embedding(9, 4), "padded": nn.Embedding(9, 4, padding_idx=0)}, ids),
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
