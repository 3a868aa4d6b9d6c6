"""Attention in one go gives what it gives where its scores are kept, which a second output asks for."""

import pytest
import torch

from planish.ir.ops.attention import attention

SIZES = [(2, 4, 4, 5, 7, 8, 8), (2, 4, 2, 5, 7, 8, 6), (1, 2, 2, 70, 600, 64, 64), (2, 2, 2, 4, 0, 8, 8)]
"""Batch, heads, heads of keys, queries, keys, and the sizes of heads of queries and of values."""
MASKS = {
    "none": lambda *_: None,
    "of keys": lambda batch, heads, rows, keys: torch.randn(keys),
    "of queries": lambda batch, heads, rows, keys: torch.randn(rows, keys),
    "of heads": lambda batch, heads, rows, keys: torch.randn(heads, rows, keys),
    "of samples": lambda batch, heads, rows, keys: torch.randn(batch, 1, 1, keys),
    "some hidden": lambda batch, heads, rows, keys: torch.rand(batch, 1, 1, keys) > 0.8,
    "all hidden": lambda batch, heads, rows, keys: torch.zeros(rows, keys, dtype=torch.bool),
}


@pytest.mark.parametrize("window", [{}, {"is_causal": 1}, {"left_window_size": 1, "scale": 0.3}], ids=str)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_is_the_same_whether_scores_are_kept_or_not(sizes: tuple[int, ...], mask: str, window: dict) -> None:
    batch, heads, kept_heads, rows, keys, size, size_of_values = sizes
    torch.manual_seed(0)
    q, k = torch.randn(batch, heads, rows, size), torch.randn(batch, kept_heads, keys, size)
    v, hidden = torch.randn(batch, kept_heads, keys, size_of_values), MASKS[mask](batch, heads, rows, keys)
    kept = attention(q, k, v, hidden, **window, outputs=2)[0]
    torch.testing.assert_close(attention(q, k, v, hidden, **window), kept, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_where_it_is(number: float) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 5, 8)
    k[0, 0, 3], v[0, 1, 4] = number, number
    kept = attention(q, k, v, is_causal=1, outputs=2)[0]
    torch.testing.assert_close(attention(q, k, v, is_causal=1), kept, equal_nan=True)
