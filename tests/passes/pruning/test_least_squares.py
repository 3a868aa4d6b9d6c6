"""Least squares: few rows say the same as sums of their products do."""

import pytest
import torch

from planish.passes.pruning.least_squares import Rows, Sums, regression_of, regression_over

DAMPINGS = (1e-4, 1e-2, 1.0)


def rows(count: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, width, generator=generator) + 3
    return x, x[:, :3] + 0.1 * torch.randn(count, 3, generator=generator)


@pytest.mark.parametrize("has_bias", [True, False])
def test_few_rows_give_the_changes_that_sums_give(has_bias: bool) -> None:
    x, lacking = rows(20, 30)
    found = regression_over([(x[:5], lacking[:5]), (x[5:], lacking[5:])], 0.5 * x.mean(0))
    assert isinstance(found, Rows)
    sums = Sums.over(found.x.double(), found.lacking.double())

    for held in (found, regression_of(found.arrays)):
        pairs = list(
            zip(held.changes(DAMPINGS, has_bias=has_bias), sums.changes(DAMPINGS, has_bias=has_bias), strict=True)
        )
        assert len(pairs) == len(DAMPINGS) + has_bias
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
            assert held.error(one) == pytest.approx(sums.error(other), rel=1e-3, abs=1e-3 * sums.lacks)
        assert held.lacks == pytest.approx(sums.lacks)


@pytest.mark.parametrize("count", [30, 31, 9000])
def test_of_many_rows_sums_alone_are_kept(count: int) -> None:
    x, lacking = rows(count, 30)
    found = regression_over([(x[:4], lacking[:4]), (x[4:], lacking[4:])], x.mean(0))
    assert isinstance(found, Rows) == (count == 30)
    exact = Sums.over(torch.nn.functional.pad(x - x.mean(0), (0, 1), value=1.0).double(), lacking.double())
    for one, other in zip(found.changes(DAMPINGS, has_bias=True), exact.changes(DAMPINGS, has_bias=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
