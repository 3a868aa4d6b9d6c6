import numpy as np
import pytest

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("columns", [1, 7, 16, 50])
def test_rows_of_any_length(agree, columns: int) -> None:
    scale, bias = RNG.standard_normal((2, columns)).astype(np.float32)

    def build(op, x):
        norms = [op.LayerNormalization(x, scale, bias, epsilon=1e-3), op.LayerNormalization(x, scale)]
        norms += [op.RMSNormalization(x, scale, epsilon=1e-3), op.RMSNormalization(op.Neg(x), bias, axis=2)]
        return [op.Softmax(x), op.Softmax(x, axis=2), *norms]

    x = (4 + RNG.standard_normal((3, 5, columns))).astype(np.float32)
    agree(build, x, dims=[("batch", "rows", columns)], again=[[x[:1, :1]], [x[:0]]])


def test_what_isn_t_finite(agree) -> None:
    x = RNG.standard_normal((6, 20)).astype(np.float32)
    x[0, 3], x[1, 19], x[2, 0], x[3], x[4], x[5] = np.nan, np.inf, -np.inf, -np.inf, 88, np.linspace(-200, 200, 20)
    ones = np.ones(20, np.float32)
    agree(lambda op, x: [op.Softmax(x), op.LayerNormalization(x, ones, ones), op.RMSNormalization(x, ones)], x)


def test_other_axes_and_element_types(agree) -> None:
    x = RNG.standard_normal((3, 4, 5))
    scale = RNG.standard_normal((4, 5)).astype(np.float32)
    agree(lambda op, x: [op.Softmax(x, axis=1), op.Softmax(x)], x)
    agree(lambda op, x: [op.Softmax(x, axis=0), op.LayerNormalization(x, scale, axis=1)], np.float32(x))
    agree(lambda op, x: [op.RMSNormalization(x, scale, axis=1), op.RMSNormalization(x, scale[0])], np.float32(x))


@pytest.mark.parametrize("quantizer", ["DynamicQuantizeLinear", "planish::DynamicQuantizeRows"])
@pytest.mark.parametrize("columns", [1, 7, 16, 50, 300])
def test_floats_on_grids_that_span_them(agree, quantizer: str, columns: int) -> None:
    """Rows on either side of 0 alone, of zeros, and of many magnitudes; enough of them for all threads."""
    x = np.random.default_rng(1).standard_normal((3, 25, columns)).astype(np.float32)
    x *= np.exp(np.linspace(-20, 20, 25, dtype=np.float32))[:, None]
    x[0, 3], x[1, 4], x[2, 5] = np.abs(x[0, 3]), -np.abs(x[1, 4]), 0
    build = lambda op, x: list(op(quantizer, x, outputs=3))  # noqa: E731
    agree(build, x, dims=[("batch", "rows", columns)], again=[[x[:1, :1]], [x[2:, 5:6]]])


def test_numbers_half_way_between_integers_go_where_the_standard_says(agree) -> None:
    agree(
        lambda op, x: list(op("DynamicQuantizeLinear", x, outputs=3)), np.array([0, 2, -3, -2.5, 1.34, 0.5], np.float32)
    )


def test_rows_that_other_kernels_don_t_quantize(agree) -> None:
    x = np.random.default_rng(1).standard_normal((4, 6))
    agree(lambda op, x: list(op("planish::DynamicQuantizeRows", x, outputs=3)), x)
    agree(
        lambda op, x: list(op("planish::DynamicQuantizeRows", x, outputs=3)), np.float32(x), dims=[("rows", "columns")]
    )
