"""Observers see the same range however the data are cut into batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planish.passes.quantization.observers import OBSERVERS

batches = st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50), min_size=1, max_size=5)


@pytest.mark.parametrize("name", OBSERVERS)
@settings(deadline=None, max_examples=50)
@given(values=batches)
def test_a_range_holds_zero_and_lies_within_what_was_seen(name, values):
    observer = OBSERVERS[name]()
    for batch in values:
        observer.update(np.array(batch, np.float32))
    low, high = observer.range()
    everything = np.concatenate([np.array(batch, np.float32) for batch in values])
    assert min(everything.min(), 0) <= low <= 0 <= high <= max(everything.max(), 0)


@pytest.mark.parametrize(("name", "reach"), [("percentile", 100), ("mse", 999)])
def test_an_outlier_among_a_million_is_cut(name, reach):
    values = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    values[0] = 1000.0
    observer = OBSERVERS[name]()
    for batch in np.split(values, 10):
        observer.update(batch)
    assert observer.range()[1] < reach


def test_minmax_keeps_the_outlier():
    observer = OBSERVERS["minmax"]()
    observer.update(np.array([1.0, 1000.0, -2.0], np.float32))
    assert observer.range() == (-2.0, 1000.0)


@pytest.mark.parametrize("name", OBSERVERS)
def test_infinities_of_a_mask_are_ignored(name):
    observer = OBSERVERS[name]()
    observer.update(np.array([1.0, -np.inf, -1.0], np.float32))
    assert np.isfinite(observer.range()).all()


@pytest.mark.parametrize("name", OBSERVERS)
def test_nothing_seen_is_an_empty_range(name):
    observer = OBSERVERS[name]()
    observer.update(np.zeros(4, np.float32))
    assert observer.range() == (0.0, 0.0)
