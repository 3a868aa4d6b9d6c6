import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm import IRModule, te

from planish.backends.artifact import load, write_artifact
from planish.backends.tvm.backend import Tvm
from planish.backends.tvm.codegen.library import generated
from planish.backends.tvm.llvm import llvm_target
from planish.backends.tvm.relax.expressions import unraveled
from planish.ir.errors import ModelError
from planish.ir.types import DType
from planish.targets.load import load_target

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def test_shapes_that_are_computed(agree) -> None:
    def build(op, x, sizes, shape, axes):
        padded = op.Pad(x, sizes, np.float32(7), [1])
        tiled, filled = op.Tile(x, op.Add(shape, 3)), op.ConstantOfShape(sizes, value=np.array([2], np.int64))
        cut = op.Slice(x, op.Neg(sizes), [99, 99], axes, [1, 2])
        back = [op.Slice(x, [-1, 1], [-(2**31), -(10**9)], [0, 2], [-1, -2]), op.Slice(x, [99], [0], [2], [-1])]
        wide = op.Expand(x, op.Concat(sizes, [1, 1, 1], axis=0))
        return [op.Reshape(x, shape), wide, padded, tiled, filled, cut, *back]

    shape, axes = np.array([4, -1, 2]), np.array([2, 1])
    agree(build, X, np.array([2, 1]), shape, axes, dims=[("n", 3, "width"), (2,), (3,), (2,)])


def test_kernels_for_many_sizes_that_are_not_known_are_compiled_in_no_more_time() -> None:
    """Graph 11519: TVM's code generator goes through divisions inside of each other again and again."""
    sizes = [te.var(name, dtype="int64") for name in "abcdefg"]
    x = te.placeholder(sizes, name="x")
    y = te.compute((4, 6), lambda *place: x(*unraveled(place[0] * 6 + place[1], sizes)), name="y")
    kernel = te.create_prim_func([x, y]).with_attr("global_symbol", "y")
    generated(IRModule({"y": kernel}), llvm_target(load_target("native")), are_checking=True)


@pytest.mark.wide
def test_many_sizes_that_are_not_known(agree) -> None:
    x = np.arange(72, dtype=np.float32).reshape(1, 2, 3, 4, 3) % 5
    build = lambda op, x: [op.Reshape(x, [-1, 2]), op.Relu(op.Reshape(x, [-1])), op.NonZero(x)]  # noqa: E731
    agree(build, x, dims=[tuple("abcde")])


@pytest.mark.parametrize("shape", [[3, 1], [3, 6]])
def test_an_axis_that_turns_out_to_have_one_element_is_repeated(agree, shape: list[int]) -> None:
    """Graph 4623: to a size that is known, which an axis of a size that only data tells may have or not."""
    agree(
        lambda op, x, shape: [op.Expand(op.Reshape(op.Slice(x, [0], op.ReduceProd(shape)), shape), [2, 1, 6])],
        np.arange(18, dtype=np.float32),
        np.array(shape),
        dims=[("n",), (2,)],
    )


@pytest.mark.parametrize("kept", [[1, 3], [3, 3], [3, 1]])
def test_products_of_as_many_items_as_data_tells(agree, kept: list[int]) -> None:
    """Keypoint R-CNN stretches heat maps by matrices, and only data tells how many there are of either."""

    def build(op, x, right, kept):
        one, other = (op.Slice(value, [0], op.Slice(kept, [i], [i + 1])) for i, value in enumerate((x, right)))
        return op.Relu(op.MatMul(one, other))

    random = np.random.default_rng(0)
    x, right = (random.standard_normal((3, *shape)).astype(np.float32) for shape in ((1, 4, 5), (2, 5, 6)))
    agree(build, x, right, np.array(kept), dims=[("n", 1, "rows", 5), ("m", 2, 5, "columns"), (2,)])


def test_the_first_of_sorted_elements(agree) -> None:
    """Data says how many; equal elements keep their order; unsigned numbers go beyond the signed ones."""
    large = np.array([1, 2**63 + 1, 5, 2**64 - 1, 2**63], np.uint64)

    def build(op, x, large, count):
        ways = [{"axis": 0}, {"axis": -1, "largest": 0}]
        return [
            *(y for way in ways for wanted in (count, np.array([2])) for y in op.TopK(x, wanted, outputs=2, **way)),
            *op.TopK(large, np.array([3]), outputs=2),
        ]

    dims = [("n", "m"), ("large",), (1,)]
    agree(build, np.array([[3, 1, 3, 2], [0, 3, 3, 9], [3, 3, 1, 9]], np.float32), large, np.array([3]), dims=dims)


def test_a_size_times_itself(agree) -> None:
    x = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    agree(lambda op, x: [op.Reshape(x, [-1]), op.ReduceMean(x), op.Hardmax(x)], x, dims=[("n", "side", "side")])


@pytest.mark.parametrize("mode", ["wrap", "edge", "reflect", "constant"])
def test_padding_in_each_way(agree, mode: str) -> None:
    """Also by more than there is where it wraps around, and by less than nothing, which cuts off."""
    amount = 6 if mode == "wrap" else 1

    def build(op, x, pads):
        return [op.Pad(x, [amount, -1, 1, 2], None, [2, 1], mode=mode), op.Pad(x, pads, mode=mode)]

    agree(build, X, np.array([0, 1, 2, 1, 0, 1]), dims=[("n", "rows", "columns"), (6,)])


@pytest.mark.parametrize(
    ("scales", "attributes"),
    [
        ((0.6, 0.6), {}),
        ((0.5, 0.4), {"mode": "linear", "antialias": 1}),
        ((2.0, 2.5), {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
        ((1.5, 0.7), {"mode": "cubic", "exclude_outside": 1}),
    ],
)
def test_images_are_resized_by_any_factor(agree, scales: tuple[float, float], attributes: dict[str, object]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 1, 5, 8)).astype(np.float32)
    scale = np.array([1, 1, *scales], np.float32)
    agree(lambda op, x: op.Resize(x, None, scale, **attributes), x, dims=[("n", 1, 5, 8)], again=[[x[:1]]])


def test_a_shape_of_another_number_of_elements_is_refused(make_graph, target, tmp_path) -> None:
    pytest.importorskip("tvm")

    def build(op, x):
        return op.Reshape(x, op.Cast(op.Concat(op.ReduceMax(x, [0]), [2.0], axis=0), to=DType.int64))

    write_artifact(tmp_path / "dist", make_graph(build, "n"), Tvm(checks_kernels=False), target)
    executable = load(tmp_path / "dist")
    assert executable(np.array([1, 2, 3, 0, 0, 1], np.float32))[0].tolist() == [[1, 2], [3, 0], [0, 1]]
    with pytest.raises(ModelError, match="TVM failed"):
        executable(np.array([1, 4], np.float32))


@pytest.mark.parametrize(("bounds", "least"), [(([0], [16]), 16), (([-3], [10**9]), 3), (([2], [-2]), 2)])
def test_a_slice_beyond_the_end_is_refused(make_graph, target, tmp_path, bounds, least) -> None:
    """The type of a slice takes small bounds to lie inside of an axis whose size is symbolic."""
    graph = make_graph(lambda op, x: op.Slice(op.Neg(x), *bounds, [1]), 2, "length")
    write_artifact(tmp_path / "dist", graph, Tvm(checks_kernels=False), target)
    executable, x = load(tmp_path / "dist"), np.arange(40, dtype=np.float32).reshape(2, 20)
    np.testing.assert_array_equal(executable(x)[0], -x[:, slice(bounds[0][0], bounds[1][0])])
    with pytest.raises(ModelError, match=rf"Slice gets a tensor that is smaller than its bounds .* - {least - 1}"):
        executable(x[:, : least - 1])
