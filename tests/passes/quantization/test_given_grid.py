"""Weights that were dequantized are found to lie on their grid, whatever its zero points; others aren't."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.block_weight import BlockScheme
from planish.passes.quantization.given_grid import given_grid

RNG = np.random.default_rng(0)


def dequantized(k: int, n: int, bits: int, block: int, whole: bool) -> np.ndarray:
    """A matrix as llama.cpp's formats have it: scales and offsets in 16 bits, or zero points in the middle."""
    codes = RNG.integers(0, 2**bits, (k, n)).astype(np.float32)
    blocks = np.arange(k) // block
    scales = np.float32(np.float16(RNG.uniform(1e-3, 1, (blocks[-1] + 1, n))))
    offsets = -scales * 2 ** (bits - 1) if whole else np.float32(np.float16(RNG.uniform(-1, 1, scales.shape)))
    return codes * scales[blocks] + offsets[blocks]


@settings(deadline=None, max_examples=40)
@given(
    k=st.integers(1, 100),
    n=st.integers(1, 70),
    bits=st.integers(2, 8),
    block=st.sampled_from([0, 16, 32]),
    whole=st.booleans(),
)
def test_what_was_dequantized_keeps_its_numbers(k: int, n: int, bits: int, block: int, whole: bool) -> None:
    weight = dequantized(k, n, bits, block or k, whole)
    found = given_grid(weight, BlockScheme(bits, block))
    assert found is not None
    assert found.codes.max() < 2**bits
    np.testing.assert_allclose(found.floats, weight, rtol=0, atol=1e-6 * np.abs(weight).max())


def test_zero_points_are_whole_where_they_can_be() -> None:
    whole, floats = (given_grid(dequantized(64, 8, 4, 32, kind), BlockScheme(4, 32)) for kind in (True, False))
    assert whole is not None
    assert floats is not None
    assert (whole.zero_points.dtype, floats.zero_points.dtype) == (np.uint8, np.float32)


def test_blocks_within_those_of_the_format_are_on_its_grid_and_larger_ones_are_not() -> None:
    weight = dequantized(128, 8, 4, 32, whole=False)
    assert given_grid(weight, BlockScheme(4, 16)) is not None
    assert given_grid(weight, BlockScheme(4, 64)) is None
    assert given_grid(weight, BlockScheme(3, 32)) is None


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_one_number_everywhere_is_a_grid(value: float) -> None:
    found = given_grid(np.full((32, 3), value, np.float32), BlockScheme(4, 32))
    assert found is not None
    np.testing.assert_array_equal(found.floats, value)


def test_one_column_off_the_grid_is_enough() -> None:
    weight = dequantized(64, 80, 4, 32, whole=False)
    weight[:, -1] = RNG.standard_normal(64)
    assert given_grid(weight, BlockScheme(4, 32)) is None
    assert given_grid(RNG.standard_normal((64, 8), np.float32), BlockScheme(4, 32)) is None
