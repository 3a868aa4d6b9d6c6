import numpy as np
import pytest

RNG = np.random.default_rng(0)
SQUARE = {"kernel_shape": (2, 2), "pads": (1, 1, 1, 1)}
SYMBOLIC = [("n", 2, "height", "width")]


def images(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_maxima_of_whatever_there_is(agree) -> None:
    """NaN wins, padding is no maximum beside minus infinity, and the first of equal elements has the position."""
    x = RNG.integers(-3, 3, (1, 2, 6, 7)).astype(np.float32)
    x[0, 0, 2, 2], x[0, 1] = np.nan, -np.inf

    def build(op, x):
        inner = op.MaxPool(x, kernel_shape=(3, 2), strides=(2, 1), dilations=(1, 2), storage_order=1, outputs=2)
        return [op.MaxPool(x, **SQUARE), op.GlobalMaxPool(x), *inner, *op.MaxPool(x, outputs=2, kernel_shape=(2, 2))]

    agree(build, x, dims=SYMBOLIC, again=[[images(2, 2, 5, 5)]])
    for dtype in (np.uint8, np.int8):
        agree(lambda op, x: op.MaxPool(x, **SQUARE), RNG.integers(-128, 128, (1, 1, 3, 3)).astype(dtype))


@pytest.mark.parametrize("mode", [pytest.param("SAME_UPPER", marks=pytest.mark.wide), "SAME_LOWER"])
def test_windows_as_many_as_there_are_strides(agree, mode: str) -> None:
    """Also where a window is smaller than its stride, and needs no padding at all."""
    weight, same = images(3, 2, 3, 2), {"auto_pad": mode, "strides": (2, 3)}
    wide = {"kernel_shape": (3, 2), "dilations": (1, 2), **same}

    def build(op, x):
        pools = [op(name, x, **wide) for name in ("MaxPool", "AveragePool", "LpPool")]
        small = op.MaxPool(x, kernel_shape=(1, 1), **same)
        return [*pools, small, op.AveragePool(x, count_include_pad=1, **wide), op.Conv(x, weight, **same)]

    agree(build, images(1, 2, 6, 7), dims=SYMBOLIC, again=[[images(2, 2, 9, 4)]])


def test_powers_and_neighbours(agree) -> None:
    """The last windows reach beyond the padding; of an even number of channels more lie behind than before."""

    def build(op, x):
        cut = {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1}
        powers = [op.LpPool(x, p=p, **cut) for p in (1, 2, 3)]
        return [*powers, op.AveragePool(x, **cut), op.LRN(x, size=2, alpha=0.1), op.LRN(x, size=3, bias=2.0, beta=0.5)]

    agree(build, images(1, 4, 6, 6), dims=[("n", 4, "height", "width")], again=[[images(2, 4, 7, 5)]])


def test_images_of_other_ranks(agree) -> None:
    def build(op, line, volume):
        pools = [
            op.MaxPool(line, kernel_shape=(3,), auto_pad="SAME_UPPER", strides=(2,)),
            op.LpPool(volume, kernel_shape=(2, 1, 2)),
        ]
        return [*pools, op.LRN(volume, size=3), *op.MaxPool(volume, kernel_shape=(2, 2, 1), outputs=2)]

    agree(build, images(2, 3, 7), images(1, 3, 4, 3, 4), dims=[("n", 3, "length"), ("m", 3, "depth", 3, 4)])
