"""Attention in every form that torch has for it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from planish.frontends.torch import trace
from planish.ir.errors import ModelError

Function = Callable[..., Any]
aten: Any = torch.ops.aten
attention = F.scaled_dot_product_attention


def heads(batch: int) -> tuple[Tensor, ...]:
    """Queries of 4 heads, keys and values of 2, and a mask with a query that may look at nothing."""
    mask = torch.randn(batch, 1, 5, 7) > 0
    mask[0, 0, 1] = False
    return torch.randn(batch, 4, 5, 8), torch.randn(batch, 2, 7, 8), torch.randn(batch, 2, 7, 8), mask


ATTENTIONS: dict[str, Function] = {
    "plain": lambda q, k, v, m: attention(q[:, :2], k, v),
    "causal": lambda q, k, v, m: attention(q[:, :2], k, v, is_causal=True),
    "scaled": lambda q, k, v, m: attention(q[:, :2], k, v, scale=0.3),
    "masked": lambda q, k, v, m: attention(q[:, :2], k, v, m),
    "biased": lambda q, k, v, m: attention(q[:, :2], k, v, torch.where(m, 0.5, -math.inf)),
    "grouped": lambda q, k, v, m: attention(q, k, v, enable_gqa=True),
    "of three axes": lambda q, k, v, m: attention(q[:, 0], k[:, 0], v[:, 0]),
}
KERNELS: dict[str, Function] = {
    "on a CPU": lambda q, k, v, m: aten._scaled_dot_product_flash_attention_for_cpu(q[:, :2], k, v, 0.0, True)[0],
    "on a CPU, biased": lambda q, k, v, m: aten._scaled_dot_product_flash_attention_for_cpu(
        q[:, :2], k, v, attn_mask=m.float(), scale=0.2
    )[0],
    "by its definition": lambda q, k, v, m: aten._scaled_dot_product_attention_math(q, k, v, m, enable_gqa=True)[0],
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("family", [ATTENTIONS, KERNELS], ids=["attentions", "kernels"])
def test_results_are_torchs(holds: Function, family: dict[str, Function], is_symbolic: bool) -> None:
    holds(family, heads, is_symbolic)


class Dropping(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
        return attention(q[:, :2], k, v, dropout_p=0.5)


def test_dropout_is_refused() -> None:
    with pytest.raises(ModelError, match="it drops out at random: give a dropout of 0"):
        trace(Dropping(), heads(2))
