"""Grids: zero is exact, and rounding stays within half a step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.ir.quantization import QuantParams, quantize_weight
from planish.ir.types import DType

numbers = st.floats(-1e6, 1e6, width=32)


@pytest.mark.parametrize("dtype", [DType.uint8, DType.int8])
@settings(deadline=None)
@given(ends=st.tuples(numbers, numbers))
def test_a_grid_holds_its_range_and_zero(dtype, ends):
    low, high = min(ends), max(ends)
    grid = QuantParams.over(low, high, dtype)
    limits = np.iinfo(dtype.numpy)
    assert limits.min <= grid.zero_point <= limits.max
    ends_held = [(limit - grid.zero_point) * grid.scale for limit in (limits.min, limits.max)]
    assert ends_held[0] <= min(low, 0) + grid.scale / 2 * 1.001
    assert ends_held[1] >= max(high, 0) - grid.scale / 2 * 1.001


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize(("bits", "top"), [(8, 127), (7, 63)])
def test_weights_are_rounded_within_half_a_step_of_their_channel(axis, bits, top):
    weight = np.random.default_rng(0).standard_normal((6, 5, 3)).astype(np.float32)
    found = quantize_weight(weight, axis, bits)
    scale = found.scale if axis is None else np.expand_dims(found.scale, [a for a in range(3) if a != axis])
    assert np.abs(found.data * scale - weight).max() <= (scale.max() / 2) * 1.001
    assert np.abs(found.data.astype(int)).max() == top


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("size", [0, 1e-39])
def test_a_channel_of_zeros_has_a_scale_that_divides(bits, size):
    found = quantize_weight(np.array([[size, -size, 0], [7, 6, 5]], np.float32), axis=0, bits=bits)
    assert found.scale[0] == 1
    assert not found.data[0].any()
    assert found.data[1].any()


def test_scales_grow_where_a_large_bias_needs_it():
    found = quantize_weight(np.full((2, 3), 0.01, np.float32), axis=0, least=np.array([1.0, 0.0]))
    np.testing.assert_allclose(found.scale, [1.0, 0.01 / 127], rtol=1e-6)


def test_a_large_bias_changes_no_other_channel():
    weight = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    free, held = (quantize_weight(weight, 0, 4, least=np.array([least, 0.0])) for least in (0.0, 1.0))
    assert held.scale[0] == 1
    assert held.scale[1] == free.scale[1] < np.abs(weight[1]).max() / 7
    np.testing.assert_array_equal(held.data[1], free.data[1])
