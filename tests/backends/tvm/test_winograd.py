"""Convolutions of 3x3 taps by fewer multiplications."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm")

import tvm

from planish.backends.artifact import load, write_artifact
from planish.backends.tvm.backend import Tvm
from planish.backends.tvm.kernels.convolution import Convolution
from planish.backends.tvm.kernels.epilogue import Broadcast, Epilogue, Operand, PostOp
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.windows import Window
from planish.backends.tvm.kernels.winograd import Plan, form, ways, winograd_kernel
from planish.backends.tvm.llvm import llvm_target
from planish.backends.tvm.relax.layouts import blocked
from planish.backends.tvm.runtime.packing import matrices, packed
from planish.backends.tvm.runtime.weights import FILE, read_weights
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
MACHINE = Machine(16, 32, 2)
TARGET = llvm_target(load_target("native"))
FOLLOWING = Epilogue(
    (Operand(Broadcast.ELEMENTS), Operand(Broadcast.CHANNELS)),
    (PostOp("Add", (), (0, 1)), PostOp("Mul", (), (3, 2)), PostOp("Relu", (), (4,))),
)


def tensor(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def square(size: int, channels: int, filters: int, *, groups: int = 1, stride: int = 1) -> Convolution:
    result = (size - 1) // stride + 1 if size else 0
    window = Window((size, size), (result, result), (3, 3), (stride, stride), (1, 1), (1, 1), (1, 1))
    return Convolution(1, channels, filters, groups, channels // groups, window, MACHINE.lanes)


def convolved(x: np.ndarray, weights: np.ndarray, bias: np.ndarray, pads: tuple[int, int, int, int]) -> np.ndarray:
    """The convolution in float64."""
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    return torch.nn.functional.conv2d(
        padded, torch.from_numpy(weights).double(), torch.from_numpy(bias).double()
    ).numpy()


@pytest.mark.parametrize("side", [2, 4])
def test_transforms_make_sums_of_shifted_products(side: int) -> None:
    image, weights, back = matrices(side)
    x, taps = RNG.standard_normal(side + 2), RNG.standard_normal(3)
    np.testing.assert_allclose(back @ ((weights @ taps) * (image @ x)), np.correlate(x, taps), rtol=1e-12)


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, Window, Convolution, Plan]:
    """Images and their convolution: channels fill no block, tiles reach beyond images, and runs of tiles overlap.

    Some convolutions don't know the batch, and some don't know a size of the images, which may be less than a task's.
    """
    image, pads = draw(st.tuples(*[st.integers(1, 15)] * 2)), draw(st.tuples(*[st.integers(1, 3)] * 4))
    result = tuple(size + pads[axis] + pads[2 + axis] - 2 for axis, size in enumerate(image))
    side, blocks, panels = (draw(st.sampled_from(sizes)) for sizes in ((2, 4), (1, 2), (1, 2)))
    unknown = draw(st.sets(st.integers(0, 1)))
    tiles = draw(st.integers(1, 9 if unknown else min(9, -(-result[0] // side) * -(-result[1] // side))))
    plan = Plan(side, tiles, draw(st.integers(1, tiles)), blocks, draw(st.integers(1, panels)))
    batch, channels, beyond = (draw(st.integers(*bounds)) for bounds in ((1, 2), (1, 35), (0, 15)))
    window = Window(image, result, (3, 3), (1, 1), (1, 1), pads[:2], pads[2:])
    known, filters = draw(st.sampled_from([None, batch])), 16 * blocks * panels - beyond
    sizes = [tuple(0 if axis in unknown else size for axis, size in enumerate(pair)) for pair in (image, result)]
    kept = replace(window, image=sizes[0], result=sizes[1])
    return batch, window, Convolution(known, channels, filters, 1, channels, kept, MACHINE.lanes), plan


@pytest.mark.wide
@settings(max_examples=5, deadline=None)
@given(cases())
def test_any_plan_gives_the_convolution_and_what_follows(case: tuple[int, Window, Convolution, Plan]) -> None:
    batch, window, sizes, plan = case
    channels, filters = sizes.channels, sizes.filters
    x, weights, bias, scale = (
        tensor(*shape)
        for shape in ((batch, channels, *window.image), (filters, channels, 3, 3), (filters,), (filters, 1, 1))
    )
    weights /= np.float32(3 * channels**0.5)
    residual = tensor(batch, filters, *window.result)
    expected = np.maximum(scale * (convolved(x, weights, bias, (*window.begins, *window.ends)) + residual), 0)

    images = blocked(x, 16)
    images[:, -1, ..., (channels - 1) % 16 + 1 :] = np.nan
    rows = [blocked(row.reshape(1, -1, 1), 16).reshape(-1) for row in (bias, scale)]
    y = tvm.runtime.tensor(np.full_like(blocked(residual, 16), np.nan))
    kernel = winograd_kernel(sizes, plan, MACHINE, FOLLOWING).with_attr("global_symbol", "main")
    run = tvm.compile(tvm.IRModule({"main": kernel}), target=TARGET)["main"]
    arguments = (images, packed(weights, form(plan, MACHINE)), rows[0], blocked(residual, 16), rows[1])
    run(*map(tvm.runtime.tensor, arguments), y)
    found = y.numpy().transpose(0, 1, 4, 2, 3).reshape(batch, -1, *window.result)[:, :filters]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_it_is_taken_where_it_saves_time() -> None:
    """Large tiles for many pixels, small ones for many weights, and neither where there is little to save."""

    def side(size: int, channels: int, machine: Machine = MACHINE, **others: int) -> int | None:
        way = ways(square(size, channels, channels, **others), machine)[0]
        return way.side if isinstance(way, Plan) else None

    assert [side(56, 64), side(28, 128), side(14, 256), side(7, 512)] == [4, 4, 4, 2]
    assert side(0, 64) == 4
    assert side(7, 512, Machine(16, 32, 8)) is None
    assert side(4, 32) is None
    assert side(56, 64, stride=2) is None
    assert side(56, 64, groups=2) is None


def test_filters_are_stored_plain(make_graph, tmp_path) -> None:
    """Transformed ones are four times as large; they are made when the artifact is loaded."""
    target, weights = load_target("native"), tensor(64, 64, 3, 3) / 24
    way = ways(square(28, 64, 64), Machine.of(target))[0]
    assert isinstance(way, Plan)
    graph = make_graph(lambda op, x: op.Conv(x, weights, pads=(1, 1, 1, 1)), 1, 64, 28, 28)
    write_artifact(tmp_path, graph, Tvm(checks_kernels=False), target)
    assert (tmp_path / FILE).stat().st_size == weights.nbytes
    (held,) = read_weights(tmp_path)
    np.testing.assert_array_equal(np.from_dlpack(held), packed(weights, form(way, Machine.of(target))))
    x = tensor(1, 64, 28, 28)
    expected = convolved(x, weights, np.zeros(64, np.float32), (1, 1, 1, 1))
    np.testing.assert_allclose(load(tmp_path)(x)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.wide
def test_networks_of_it(agree) -> None:
    """Padding of every kind, long epilogues, groups beside them, and a batch of any number."""
    first, second, third = tensor(64, 24, 3, 3) / 15, tensor(64, 32, 3, 3) / 17, tensor(40, 64, 3, 3) / 24
    assert isinstance(ways(square(17, 64, 64), MACHINE)[0], Plan)

    def build(op, x):
        y = op.Conv(x, first, tensor(64), pads=(1, 1, 1, 1))
        y = op.Mul(y, op.Sigmoid(y))
        z = op.Relu(op.Add(op.Conv(y, second, auto_pad="SAME_UPPER", group=2), y))
        return [op.Conv(z, third), op.Conv(z, third, pads=(2, 0, 1, 2)), y]

    agree(build, tensor(1, 24, 17, 26), dims=[("n", 24, 17, 26)], again=[[tensor(2, 24, 17, 26)]])


def test_what_is_not_finite_stays_within_its_tiles(make_graph, target, tmp_path) -> None:
    """It makes NaN of the tiles that its taps lie in: at most 5 pixels away, where it would be 1."""
    graph = make_graph(lambda op, x: op.Conv(x, tensor(64, 64, 3, 3), pads=(1, 1, 1, 1)), 1, 64, 24, 24)
    write_artifact(tmp_path / "dist", graph, Tvm(checks_kernels=False), target)
    x = tensor(1, 64, 24, 24)
    x[0, 40, 9, 14] = np.inf
    is_finite = np.isfinite(load(tmp_path / "dist")(x)[0]).all(axis=(0, 1))
    assert not is_finite[8:11, 13:16].any()
    is_finite[4:15, 9:20] = True
    assert is_finite.all()


@pytest.mark.wide
def test_errors_are_small_beside_the_results(make_graph, target, tmp_path) -> None:
    """Sums of 1152 products lose a few of their last bits: twice what summing in order loses."""
    weights = tensor(128, 128, 3, 3) * np.float32((2 / 1152) ** 0.5)
    graph = make_graph(lambda op, x: op.Conv(x, weights, pads=(1, 1, 1, 1)), 1, 128, 28, 28)
    write_artifact(tmp_path / "dist", graph, Tvm(checks_kernels=False), target)
    x = np.maximum(tensor(1, 128, 28, 28), 0)
    expected = convolved(x, weights, np.zeros(128, np.float32), (1, 1, 1, 1))
    errors = np.abs(load(tmp_path / "dist")(x)[0] - expected)
    assert errors.max() < 2e-5 * expected.std()
    assert np.sqrt((errors**2).mean()) < 1.5e-6 * expected.std()
