import numpy as np

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_columns_become_images(agree) -> None:
    def build(op, x, image, block):
        window = {"dilations": (1, 2), "pads": (1, 0, 1, 0), "strides": (2, 1)}
        return [op.Col2Im(x, np.array([5, 6]), np.array([2, 3]), **window), op.Col2Im(x, image, block, **window)]

    agree(build, floats(2, 12, 6), np.array([5, 6]), np.array([2, 3]), dims=[("n", 12, "windows"), (2,), (2,)])


def test_taps_at_computed_offsets(agree) -> None:
    """Some of them lie outside of the image."""
    weight, bias = floats(4, 2, 3, 2), floats(4)

    def build(op, x, offset, mask):
        attributes = {"group": 2, "offset_group": 2, "strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 2)}
        return [
            op.DeformConv(x, weight, offset, bias, mask, **attributes),
            op.DeformConv(x, weight, offset, **attributes),
        ]

    x, offset, mask = floats(1, 4, 6, 5), 3 * floats(1, 24, 3, 4), floats(1, 12, 3, 4)
    symbolic = [("n", 4, "height", "width"), ("n", 24, 3, 4), ("n", 12, 3, 4)]
    agree(build, x, offset, mask, dims=[("n", 4, 6, 5), *symbolic[1:]])
