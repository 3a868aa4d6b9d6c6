import numpy as np
import pytest

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.backends.legal import legalized
from planish.backends.tvm.backend import Tvm
from planish.ir.builder import Builder
from planish.ir.fixed_inputs import fix_inputs
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.targets.load import load_target

RNG = np.random.default_rng(0)


def tensor(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CASES = {
    "pointwise": ((1, 32, 7, 5), (48, 32, 1, 1), {}),
    "plain-input": ((2, 3, 19, 23), (40, 3, 7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3)}),
    "odd-channels": ((2, 19, 9, 11), (21, 19, 3, 2), {"strides": (2, 1), "pads": (1, 3, 0, 2)}),
    "padding-beyond-the-kernel": ((1, 17, 5, 5), (3, 17, 3, 3), {"pads": (4, 5, 6, 4)}),
    "dilated": ((1, 33, 13, 9), (24, 33, 2, 3), {"dilations": (3, 2), "strides": (1, 2), "pads": (2, 1, 3, 5)}),
    "wide": ((1, 16, 2, 67), (16, 16, 1, 3), {"auto_pad": "SAME_LOWER", "strides": (1, 2)}),
    "groups-of-blocks": ((1, 64, 6, 6), (128, 32, 3, 3), {"group": 2, "pads": (1, 1, 1, 1)}),
    "groups-of-blocks-and-a-half": ((1, 72, 6, 6), (72, 24, 3, 3), {"group": 3, "pads": (1, 1, 1, 1)}),
    "many-such-groups": ((1, 280, 5, 4), (280, 40, 1, 1), {"group": 7}),
    "groups-of-less": ((2, 12, 6, 6), (8, 3, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER"}),
    "depthwise": ((2, 37, 9, 19), (37, 1, 3, 5), {"group": 37, "strides": (1, 2), "pads": (1, 2, 0, 3)}),
    "depthwise-dilated": ((1, 16, 40, 6), (16, 1, 3, 3), {"group": 16, "dilations": (2, 3), "pads": (2, 3, 2, 3)}),
    "groups-of-half-a-block": ((1, 40, 6, 6), (40, 8, 3, 3), {"group": 5, "pads": (1, 1, 1, 1)}),
    "uneven-groups": ((1, 60, 5, 5), (30, 12, 1, 1), {"group": 5}),
    "multiplied": ((1, 8, 6, 6), (16, 1, 3, 3), {"group": 8}),
    "one-axis": ((2, 20, 31), (18, 20, 5), {"strides": (3,), "pads": (2, 2)}),
    "one-axis-depthwise": ((1, 20, 31), (20, 1, 4), {"group": 20, "auto_pad": "SAME_UPPER"}),
    "three-axes": ((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), {"strides": (1, 2, 1)}),
}


@pytest.mark.parametrize("case", CASES)
def test_convolutions_of_every_kind(agree, case: str) -> None:
    """Sizes divide into nothing, and the batch may be any number."""
    shape, filters, attributes = CASES[case]
    weights, bias = tensor(*filters), tensor(filters[0])

    def build(op, x):
        return [op.Conv(x, weights, bias, **attributes), op.Conv(x, weights, **attributes)]

    agree(build, tensor(*shape), dims=[("n", *shape[1:])], again=[[tensor(3, *shape[1:])]])
    agree(build, tensor(*shape), dims=[(*shape[:2], *"dhw"[5 - len(shape) :])], again=others(shape), tolerance=4e-5)


def others(shape: tuple[int, ...]) -> list[list[np.ndarray]]:
    """Images of other sizes, of which some are narrower than a tile."""
    return [[tensor(*shape[:2], *(max(size + by, 5) for size in shape[2:]))] for by in (-4, 1, 14)]


TRANSPOSED = {
    "doubled": ((2, 24, 7, 5), (24, 20, 2, 2), {"strides": (2, 2)}),
    "overlapping": ((1, 16, 6, 9), (16, 33, 3, 4), {"strides": (2, 2), "pads": (1, 1, 1, 2), "output_padding": (1, 0)}),
    "without-strides": ((1, 32, 8, 8), (32, 16, 3, 3), {"pads": (1, 0, 2, 1)}),
    "gaps": ((1, 3, 4, 5), (3, 5, 2, 5), {"strides": (3, 2), "pads": (0, 3, 1, 0), "output_padding": (2, 1)}),
    "one-axis": ((2, 18, 11), (18, 4, 5), {"strides": (3,), "pads": (2, 1)}),
    "groups": ((1, 16, 4, 4), (16, 3, 3, 3), {"strides": (2, 2), "group": 4, "pads": (1, 1, 1, 1)}),
    "dilated": ((1, 16, 4, 4), (16, 3, 3, 3), {"strides": (2, 2), "dilations": (2, 1), "pads": (1, 1, 1, 1)}),
    "same": ((1, 16, 4, 4), (16, 3, 3, 3), {"strides": (2, 2), "auto_pad": "SAME_UPPER"}),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions_of_every_kind(agree, case: str) -> None:
    """Convolutions with and without a bias, and with what follows them, a residual among it."""
    shape, filters, attributes = TRANSPOSED[case]
    weights, bias = tensor(*filters) / 3, tensor(filters[1] * attributes.get("group", 1))

    def build(op, x):
        y = op.ConvTranspose(x, weights, bias, **attributes)
        z = op.ConvTranspose(op.Neg(x), weights, **attributes)
        return [op.Relu(op.Add(z, op.Sigmoid(y))), y]

    agree(build, tensor(*shape), dims=[("n", *shape[1:])], again=[[tensor(3, *shape[1:])]])
    agree(build, tensor(*shape), dims=[(*shape[:2], *"hw"[4 - len(shape) :])], again=others(shape), tolerance=4e-5)


POOLS = {
    "square": {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    "uneven": {"kernel_shape": (2, 5), "strides": (3, 1), "pads": (1, 4, 0, 2), "dilations": (3, 1)},
    "cut": {"kernel_shape": (3, 2), "strides": (2, 2), "ceil_mode": 1},
    "same": {"kernel_shape": (4, 3), "strides": (1, 2), "auto_pad": "SAME_UPPER"},
}


@pytest.mark.parametrize("case", POOLS)
def test_pools_over_blocks_of_channels(agree, case: str) -> None:
    """Also of NaN and infinity among the maxima."""
    x = tensor(2, 21, 12, 36)
    x[0, 3, 4, 5], x[1, 20] = np.nan, -np.inf
    attributes = POOLS[case]

    def build(op, x):
        averages = [op.AveragePool(x, count_include_pad=counted, **attributes) for counted in (0, 1)]
        return [op.MaxPool(x, **attributes), *averages, op.GlobalAveragePool(x)]

    agree(build, x, dims=[("n", 21, 12, 36)])
    agree(build, x, dims=[(2, 21, "h", "w")], again=others(x.shape))


def test_what_works_on_each_channel_alone_stays_in_blocks(agree) -> None:
    """Among operands that are spread over channels or pixels, have fewer axes, or aren't images at all."""
    weights, row, gate = tensor(19, 3, 3, 3) / 5, tensor(11), tensor(19, 1, 1)

    def build(op, x, plane):
        y = op.Conv(x, weights, pads=(1, 1, 1, 1))
        z = op.Add(op.Mul(op.Clip(y, np.float32(-1), np.float32(2)), gate), op.Sigmoid(op.Sub(plane, row)))
        wide = op.Conv(z, tensor(32, 19, 1, 1) / 5)
        joined = op.Concat(wide, z, axis=-3)
        mean = op.GlobalAveragePool(joined)
        return [
            op.Mul(joined, mean),
            op.Concat(z, y, axis=1),
            op.Concat(wide, plane, axis=1),
            op.Softmax(y, axis=1),
            op.Flatten(mean),
            op.Less(y, z),
        ]

    agree(build, tensor(2, 3, 9, 11), tensor(2, 1, 9, 11), dims=[("n", 3, 9, 11), ("n", 1, 9, 11)])
    agree(build, tensor(2, 3, 9, 11), tensor(2, 1, 9, 11), dims=[(2, 3, "h", 11), (2, 1, "h", 11)])


def test_images_grow_and_shrink_in_blocks(agree) -> None:
    """By the nearest pixels, along rows and columns alone, and to sizes that are known."""

    def build(op, x):
        y, few = op.Conv(x, tensor(24, 3, 3, 3) / 5, pads=(1, 1, 1, 1)), op.Conv(x, tensor(17, 3, 1, 1))
        twice = op.Resize(y, None, np.array([1, 1, 2, 2], np.float32), nearest_mode="floor")
        return [
            op.Conv(op.Relu(twice), tensor(16, 24, 1, 1) / 5),
            op.Resize(y, None, None, np.array([7, 8]), axes=[3, 2], coordinate_transformation_mode="asymmetric"),
            op.Resize(y, None, np.array([1, 2, 1, 1.5], np.float32)),
            op.Resize(y, None, np.array([1, 1, 1.5, 2], np.float32), mode="linear"),
            op.Relu(op.Resize(few, None, np.array([1, 1, 1, 3], np.float32))),
        ]

    agree(build, tensor(2, 3, 9, 11), dims=[("n", 3, 9, 11)], again=[[tensor(1, 3, 9, 11)]])
    agree(build, tensor(2, 3, 9, 11), dims=[(2, 3, "h", "w")], again=others((2, 3, 9, 11)))


def test_means_over_images_are_pools(agree, make_graph, target) -> None:
    """The axes may be kept or not; means over something else stay sums."""

    def build(op, x):
        y = op.Conv(x, tensor(35, 3, 3, 3))
        return [op.ReduceMean(y, [-1, 2]), op.ReduceMean(y, [2, 3], keepdims=0), op.ReduceMean(y, [1, 3])]

    agree(build, tensor(2, 3, 9, 11), dims=[("n", 3, 9, 11)], again=[[tensor(1, 3, 9, 11)]])
    agree(build, tensor(2, 3, 9, 11), dims=[(2, 3, "h", "w")], again=others((2, 3, 9, 11)))

    def operators(axes):
        return {
            node.operator
            for node in legalized(make_graph(lambda op, x: op.ReduceMean(x, axes), 2, 3, 4, 5), target, "tvm").nodes
        }

    assert "GlobalAveragePool" in operators([2, 3])
    assert "GlobalAveragePool" in operators([[2, 3]])  # the standard doesn't say that it is a row
    assert "GlobalAveragePool" not in operators([1, 2]) | operators([3])


def test_normalization_by_constants(agree) -> None:
    """Normalization before what isn't a convolution, with what follows; NaN in one image stays there."""
    scale, bias, mean, variance = (tensor(21) for _ in range(4))

    def build(op, x):
        y = op.BatchNormalization(x, scale, bias, mean, variance**2 + 1, epsilon=0.1)
        return op.Add(op.Relu(y), op.BatchNormalization(op.Sigmoid(x), scale, bias, mean, variance**2))

    x = tensor(2, 21, 5, 7)
    x[0, 20] = np.nan
    agree(build, x, dims=[("n", 21, 5, 7)])


def test_lines_in_blocks(agree) -> None:
    def build(op, x):
        y = op.Relu(op.Conv(x, tensor(16, 5, 3), pads=(1, 1)))
        return op.Add(op.MaxPool(y, kernel_shape=(2,), strides=(2,)), tensor(16, 1))

    agree(build, tensor(1, 5, 24), dims=[("n", 5, 24)], again=[[tensor(3, 5, 24)]])


def test_what_follows_a_convolution_is_done_in_its_kernel(agree) -> None:
    """A residual that another convolution gives, bounds, and curves, where tiles overlap and tasks share rows."""
    first, second, third = (tensor(*shape) / 10 for shape in ((40, 20, 1, 1), (40, 20, 3, 3), (40, 1, 3, 3)))

    def build(op, x):
        shortcut = op.Conv(x, first)
        y = op.Relu(op.Add(op.Conv(x, second, pads=(1, 1, 1, 1)), shortcut))
        y = op.Conv(y, third, tensor(40), group=40, pads=(1, 1, 1, 1))
        y = op.Mul(y, op.Sigmoid(y))
        gate = op.HardSigmoid(op.Conv(op.GlobalAveragePool(y), tensor(40, 40, 1, 1) / 6))
        y = op.Gelu(op.Conv(op.Mul(y, gate), tensor(37, 40, 1, 1) / 6))
        return op.Clip(
            op.Mul(op.Conv(op.HardSwish(y), tensor(19, 37, 1, 1) / 6), tensor(19, 1, 1)), np.float32(-2), np.float32(2)
        )

    agree(build, tensor(1, 20, 13, 17), dims=[("n", 20, 13, 17)], again=[[tensor(3, 20, 13, 17)]])
    agree(build, tensor(1, 20, 13, 17), dims=[(1, 20, "h", "w")], again=others((1, 20, 13, 17)))


@pytest.mark.parametrize("name", ["x86-64", "x86-64-avx2", "x86-64-avx512", "aarch64"])
def test_narrower_vectors_give_the_same(make_graph, target, tmp_path, name: str) -> None:
    """What is built for narrower machines runs on this one, if it has their instructions."""
    other = load_target(name)
    if other.architecture != target.architecture or not other.features <= target.features:
        pytest.skip(f"this machine can't run what is built for {name}")

    def build(op, x):
        y = op.Relu(op.Conv(x, tensor(21, 3, 3, 3) / 5, tensor(21), pads=(1, 1, 1, 1), strides=(2, 2)))
        y = op.HardSwish(op.Conv(y, tensor(21, 1, 3, 3) / 3, group=21, pads=(1, 1, 1, 1)))
        y = op.MaxPool(op.Add(op.Conv(y, tensor(21, 21, 1, 1) / 5), y), kernel_shape=(3, 3), strides=(2, 2))
        return op.Mul(y, op.Sigmoid(op.GlobalAveragePool(y)))

    graph = make_graph(build, 2, 3, 23, 30)
    write_artifact(tmp_path / "dist", graph, Tvm(checks_kernels=False), other)
    x = tensor(2, 3, 23, 30)
    expected = Interpreter(graph).run({"x": x})["y"]
    np.testing.assert_allclose(load(tmp_path / "dist")(x)[0], expected, rtol=1e-4, atol=1e-5)


def test_sizes_of_images_are_asked_for() -> None:
    graph = Graph("image")
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 1, "height", 8)))
    op = Builder(graph)
    graph.outputs["y"] = op.Conv(x, op.constant(np.ones((4, 1, 3, 3), np.float32)))
    assert "as in model.onnx{height=64}," in find_backend("tvm").advice(graph)
    fix_inputs(graph, {"height": 9})
    assert not find_backend("tvm").advice(graph)
