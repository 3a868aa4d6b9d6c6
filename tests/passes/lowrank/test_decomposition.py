"""Decompositions: what they are the best in, and what they say that a rank loses."""

import numpy as np
import pytest

from planish.passes.lowrank.decomposition import decompose, definite, fitted

RNG = np.random.default_rng(0)


def moment(size: int) -> np.ndarray:
    rows = RNG.standard_normal((4 * size, size)) @ RNG.standard_normal((size, size))
    return rows.T @ rows / len(rows)


def damped(moment: np.ndarray) -> np.ndarray:
    return moment + 0.01 * np.trace(moment) / len(moment) * np.eye(len(moment))


@pytest.mark.parametrize("counts", ["all alike", "diagonal", "metric"])
@pytest.mark.parametrize("has_moment", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(12, 7), (7, 12)])
def test_what_a_rank_loses_is_the_error_in_both_metrics_and_the_least(
    rows: int, columns: int, has_moment: bool, counts: str
) -> None:
    weight, inputs, outputs = RNG.standard_normal((rows, columns)), moment(rows), moment(columns)
    metric = {"all alike": None, "diagonal": outputs.diagonal(), "metric": outputs}[counts]
    parts = decompose(weight, inputs if has_moment else None, metric)

    read = damped(inputs) if has_moment else np.eye(rows)
    counted = np.eye(columns) if metric is None else damped(outputs if metric.ndim == 2 else np.diag(metric))
    singular = np.linalg.svd(np.linalg.cholesky(read).T @ weight @ np.linalg.cholesky(counted), compute_uv=False)
    assert np.allclose(parts.product, weight)
    for rank in range(1, 7):
        change = weight - parts.cut(rank).product
        error = np.trace(change.T @ read @ change @ counted)
        assert error == pytest.approx(parts.losses[rank], rel=1e-6)
        assert error == pytest.approx(np.square(singular[rank:]).sum(), rel=1e-6)


@pytest.mark.parametrize("has_metric", [False, True])
def test_the_second_matrix_is_fitted_to_what_the_first_computes_at_all_places(has_metric: bool) -> None:
    """Places of a window are correlated; a weight that is cut as if they weren't loses more."""
    places, rows, columns = 3, 5, 4
    weight, inputs = RNG.standard_normal((rows, places * columns)), moment(rows * places)
    outputs = moment(columns) if has_metric else None
    shared = np.einsum("apbp->ab", inputs.reshape(rows, places, rows, places))
    whole = decompose(weight.reshape(-1, columns), inputs, outputs).losses[0]
    plain = decompose(weight, shared, outputs)

    parts = fitted(plain, weight, inputs, outputs, whole)

    counted = np.eye(columns) if outputs is None else damped(outputs)

    def error(product: np.ndarray) -> float:
        change = (weight - product).reshape(-1, columns)
        return np.trace(change.T @ damped(inputs) @ change @ counted)

    assert np.allclose(parts.product, weight)
    assert parts.losses[0] == pytest.approx(error(np.zeros_like(weight)))
    for rank in range(1, rows):
        found = error(parts.cut(rank).product)
        assert found == pytest.approx(parts.losses[rank], rel=1e-6)
        assert found < 0.99 * error(plain.cut(rank).product)
        assert np.array_equal(parts.cut(rank).first, plain.cut(rank).first)


def test_ranks_without_energy_are_not_fitted() -> None:
    """A third of the outputs are sums of others, and a sum of float32 products isn't quite symmetric."""
    places, rows, columns = 3, 24, 4
    weight = RNG.standard_normal((rows, places * columns))
    weight[:, 8:] = weight[:, :4] - 2 * weight[:, 4:8]
    inputs = moment(rows * places)
    inputs += 1e-9 * RNG.standard_normal(inputs.shape) * inputs.diagonal().mean()
    arranged = weight.reshape(-1, places * columns)
    shared = np.einsum("apbp->ab", inputs.reshape(rows, places, rows, places))
    spread = np.repeat(arranged, places, axis=0).reshape(rows * places, -1)[:, :columns]
    whole = decompose(spread, inputs).losses[0]

    parts = fitted(decompose(arranged, shared), spread, inputs, None, whole)

    assert len(parts.rows) == 8
    assert np.isfinite(parts.losses).all()
    assert np.isfinite(parts.product).all()


def test_a_moment_that_is_mostly_rounding_gets_no_negative_directions() -> None:
    noise = 1e-20 * np.diag([4.0, -1.0, *[0.0] * 6])
    with pytest.raises(np.linalg.LinAlgError):
        decompose(RNG.standard_normal((8, 4)), noise)
    found = definite(noise)
    assert np.linalg.eigvalsh(found).min() > -1e-33
    assert np.isfinite(decompose(RNG.standard_normal((8, 4)), found).losses).all()
    whole = moment(8)
    assert definite(whole) is whole
