"""Quantization and back in front of, behind and within kernels, held to the interpreter's."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import targets
from torch import nn

import planish

pytest.importorskip("tvm")

from tvm import relax

from planish.backends.artifact import write_artifact
from planish.backends.legal import legalized
from planish.backends.tvm.backend import Tvm
from planish.backends.tvm.kernels.epilogue import Broadcast, Epilogue, Operand, PostOp
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.relax.converters.table import FUSED_KERNELS
from planish.backends.tvm.relax.fusion import find_groups
from planish.backends.tvm.relax.lookup_tables import tabulated
from planish.backends.tvm.relax.lowering import to_relax
from planish.ir.interpreter import Interpreter
from planish.passes.base import PassContext
from planish.passes.cleanup.fold_constants import ConstantFolding
from planish.passes.legalization.origins import Origins
from planish.targets import Target

RNG = np.random.default_rng(0)
EIGHTH = np.float32(0.125)
"""A scale that divides exactly, so that results lie half-way between integers, and are rounded as the standard says."""


target = targets("native", "x86-64-avx2")


@pytest.fixture
def agree(agree: Callable[..., None], target: Target) -> Callable[..., None]:
    """The check of TVM's results, with symbolic sizes for the machine at hand alone: they change no instruction."""

    def with_sizes(*arguments, dims=None, again=(), **others) -> None:
        agree(*arguments, dims=dims if target.name == "native" else None, again=again, **others)

    return with_sizes


def halves(*shape: int) -> np.ndarray:
    """Multiples of half the scale, of which those beyond the grid's ends saturate."""
    return (RNG.integers(-400, 400, shape) / 16).astype(np.float32)


def fake(op, x, zero_point=np.uint8(100), scale=EIGHTH):
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point), scale, zero_point)


@pytest.mark.parametrize("zero_point", [np.uint8(0), np.uint8(131), np.int8(-7), None])
@pytest.mark.parametrize("shape", [(), (3, 37), (2, 70, 61)])
def test_tensors_are_rounded_and_saturated(agree, zero_point, shape: tuple[int, ...]) -> None:
    def build(op, x):
        integers = op.QuantizeLinear(x, EIGHTH, zero_point)
        return [integers, op.DequantizeLinear(integers, EIGHTH, zero_point)]

    dims = [tuple(f"size{axis}" for axis in range(len(shape)))] if shape else None
    agree(build, halves(*shape), dims=dims)


def test_what_is_no_number_becomes_the_lowest_integer(agree) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40], np.float32)
    agree(lambda op, x: op.QuantizeLinear(x, EIGHTH, np.uint8(3)), x)


def test_scales_of_every_size(agree) -> None:
    x = np.array([1e-38, 1e-37, -1e-36, 1.0, 1e36, 1e38], np.float32)
    scales = [np.float32(scale) for scale in (1e-44, 1.2e-38, 1e-30, 1e30, 1e36, 3e38)]
    agree(lambda op, x: [op.QuantizeLinear(x, scale, np.uint8(3)) for scale in scales], x)


CHAINS = {
    "last": (lambda op, x, y, z: op.QuantizeLinear(op.Relu(y), EIGHTH, np.uint8(3)), 3),
    "within": (lambda op, x, y, z: op.Mul(fake(op, y), 0.5), 4),
    "silu": (lambda op, x, y, z: op.QuantizeLinear(op.Mul(a := fake(op, y), op.HardSigmoid(a)), EIGHTH, np.int8(3)), 6),
    "sigmoid": (lambda op, x, y, z: op.QuantizeLinear(op.Sigmoid(op.Add(y, 0.3)), EIGHTH / 8, np.uint8(9)), 4),
    "residual": (lambda op, x, y, z: op.QuantizeLinear(op.Add(fake(op, y), z), EIGHTH, np.uint8(9)), 5),
    "returned": (lambda op, x, y, z: fake(op, y), 2),
}


def chain(name: str, product):
    def build(op, x):
        z = op.DequantizeLinear(op.QuantizeLinear(x, EIGHTH, np.int8(-3)), EIGHTH, np.int8(-3))
        return [z, CHAINS[name][0](op, x, product(op, x), z)]

    return build


@pytest.mark.parametrize("name", CHAINS)
def test_chains_behind_a_product(agree, make_graph, name: str) -> None:
    build = chain(name, lambda op, x: op.MatMul(x, np.eye(37, dtype=np.float32)))
    agree(build, halves(2, 9, 37), dims=[("batch", "rows", 37)])
    groups = find_groups(
        graph := make_graph(lambda op, x: build(op, x)[1], "rows", 37), list(graph.nodes), FUSED_KERNELS
    )
    assert len(groups) == CHAINS[name][1]


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("is_depthwise", [False, True])
def test_chains_behind_a_convolution(agree, name: str, is_depthwise: bool) -> None:
    weights = np.ones((37, 1, 1, 1)) if is_depthwise else np.eye(37)[:, :, None, None]
    group = 37 if is_depthwise else 1
    build = chain(name, lambda op, x: op.Conv(x, weights.astype(np.float32), group=group))
    agree(build, halves(2, 37, 5, 7), dims=[("batch", 37, 5, 7)])


def test_bytes_multiplied_and_stored_as_bytes(agree) -> None:
    """Two layers in integers, with a residual between integers: nothing but bytes lies in memory."""
    weights = RNG.integers(-3, 4, (64, 64)).astype(np.int8)

    def build(op, x):
        x = fake(op, x)
        weight = op.DequantizeLinear(weights, np.full(64, 0.25, np.float32), np.zeros(64, np.int8), axis=1)
        y = fake(op, op.Relu(op.MatMul(x, weight)), np.uint8(0), np.float32(1))
        return op.QuantizeLinear(op.Add(op.MatMul(y, weight), x), np.float32(2), np.uint8(128))

    agree(build, halves(19, 64), dims=[("rows", 64)], again=[[halves(1, 64)]])


CONVOLUTIONS = {
    "pointwise": ((2, 32, 7, 5), (48, 32, 1, 1), {}),
    "first": ((1, 3, 19, 23), (40, 3, 7, 7), {"strides": (2, 2), "pads": (3, 3, 3, 3)}),
    "first-of-one-axis": ((2, 1, 61), (20, 1, 10), {"strides": (5,), "pads": (3, 2)}),
    "first-with-gaps": ((1, 3, 9, 37), (16, 3, 2, 3), {"dilations": (3, 2), "pads": (0, 1, 2, 4)}),
    "first-that-leaves-pixels": ((1, 2, 17, 21), (8, 2, 1, 1), {"strides": (3, 4)}),
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
    "depthwise-square": ((1, 32, 14, 15), (32, 1, 3, 3), {"group": 32, "pads": (1, 1, 1, 1)}),
    "depthwise-strided": ((1, 20, 15, 14), (20, 1, 5, 5), {"group": 20, "pads": (2, 2, 2, 2), "strides": (2, 2)}),
    "depthwise-of-tiny-images": ((1, 20, 3, 2), (20, 1, 5, 5), {"group": 20, "pads": (2, 2, 2, 2)}),
    "multiplied": ((1, 8, 6, 6), (16, 1, 3, 3), {"group": 8}),
    "one-axis": ((2, 20, 31), (18, 20, 5), {"strides": (3,), "pads": (2, 2)}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_of_bytes_are_exact(agree, case: str) -> None:
    """Scales are powers of two, so that float32 holds all sums, and what is rounded is the same."""
    shape, filters, attributes = CONVOLUTIONS[case]
    weights = RNG.integers(-127, 128, filters).astype(np.int8)
    scales = (2.0 ** RNG.integers(-6, -3, filters[0])).astype(np.float32)
    bias = RNG.integers(-1000, 1000, filters[0]).astype(np.float32) / 64

    def build(op, x):
        plain, shifted = (op.DequantizeLinear(x, EIGHTH, np.uint8(zero_point)) for zero_point in (0, 77))
        weight = op.DequantizeLinear(weights, scales, np.zeros(filters[0], np.int8), axis=0)
        y = op.Conv(plain, weight, bias, **attributes)
        return [y, op.QuantizeLinear(op.Relu(op.Conv(shifted, weight, **attributes)), np.float32(4), np.uint8(7))]

    images = RNG.integers(0, 256, shape).astype(np.uint8)
    agree(build, images, dims=[("n", *shape[1:])])
    others = [RNG.integers(0, 256, (*shape[:2], *(size + by for size in shape[2:]))).astype(np.uint8) for by in (3, 16)]
    agree(build, images, dims=[(*shape[:2], *"hw"[4 - len(shape) :])], again=[[other] for other in others])


@pytest.mark.parametrize(("channels", "columns"), [(1, 43), (2, 16), (3, 9), (3, 43), (4, 16)])
def test_first_layers_quantize_what_they_read(agree, channels: int, columns: int) -> None:
    weights = RNG.integers(-127, 128, (24, channels, 3, 5)).astype(np.int8)

    def build(op, x):
        weight = op.DequantizeLinear(weights, np.full(24, 0.25, np.float32), np.zeros(24, np.int8), axis=0)
        return op.Conv(fake(op, x), weight, strides=(2, 1), pads=(1, 2, 0, 3))

    agree(build, halves(2, channels, 6, columns), dims=[("n", channels, 6, columns)])
    agree(build, halves(2, channels, 6, columns), dims=[(2, channels, "h", "w")], again=[[halves(2, channels, 5, 25)]])


POOLS = {
    "square": {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    "uneven": {"kernel_shape": (2, 5), "strides": (3, 1), "pads": (1, 4, 0, 2), "dilations": (3, 1)},
    "cut": {"kernel_shape": (3, 2), "strides": (2, 2), "ceil_mode": 1},
}


@pytest.mark.parametrize(
    ("case", "zero_point", "channels"),
    [
        ("square", np.uint8(0), 37),
        ("square", np.int8(-5), 37),
        ("uneven", np.uint8(77), 5),
        ("uneven", np.int8(-5), 37),
        ("cut", np.uint8(77), 37),
    ],
)
def test_pools_of_bytes(agree, case: str, zero_point, channels: int) -> None:
    """Results lie on the grid that bytes came from, on another one, and are read in float32 as well."""

    def build(op, x):
        x = op.DequantizeLinear(x, EIGHTH, zero_point)
        means = [op.AveragePool(x, count_include_pad=count, **POOLS[case]) for count in (0, 1)]
        maxima = op.MaxPool(x, **POOLS[case])
        again = op.MaxPool(x, **POOLS[case])
        return [
            *means,
            op.GlobalAveragePool(x),
            op.QuantizeLinear(op.MaxPool(x, **POOLS[case]), EIGHTH, zero_point),
            op.QuantizeLinear(op.Relu(maxima), EIGHTH * 2, np.uint8(3)),
            op.Add(fake(op, again, zero_point), again),
        ]

    x = RNG.integers(0, 256, (2, channels, 9, 11)).astype(np.uint8).view(zero_point.dtype)
    agree(build, x, dims=[("n", channels, 9, 11)])
    agree(build, x, dims=[(2, channels, "h", "w")], again=[[np.tile(x, (1, 1, 2, 3))]])


def test_elementwise_between_bytes(agree) -> None:
    """Images of one shape, with numbers by channel, and with what reads or writes no bytes."""
    row = RNG.random((21, 1, 1), np.float32)

    def build(op, x, y, gate):
        a, b = op.DequantizeLinear(x, EIGHTH, np.uint8(7)), op.DequantizeLinear(y, EIGHTH, np.int8(-3))
        scaled = op.QuantizeLinear(op.Mul(op.Sigmoid(gate), a), EIGHTH / 4, np.uint8(9))
        return [
            op.QuantizeLinear(op.Relu(op.Add(a, b)), EIGHTH, np.uint8(0)),
            op.QuantizeLinear(op.Mul(a, row), EIGHTH, np.uint8(1)),
            scaled,
            op.QuantizeLinear(op.HardSwish(gate), EIGHTH, np.uint8(1)),
            op.Mul(op.DequantizeLinear(scaled, EIGHTH / 4, np.uint8(9)), row),
            op.QuantizeLinear(a, EIGHTH * 3, np.int8(5)),
        ]

    def arrays(batch: int) -> list[np.ndarray]:
        x = RNG.integers(0, 256, (2, batch, 21, 5, 9)).astype(np.uint8)
        return [x[0], x[1].view(np.int8), RNG.integers(-8, 9, (batch, 21, 1, 1)).astype(np.float32)]

    dims = [("n", 21, 5, 9), ("n", 21, 5, 9), ("n", 21, 1, 1)]
    agree(build, *arrays(1), dims=dims, again=[arrays(2)])


def test_a_byte_of_a_byte_is_one_step() -> None:
    """And what is left is what the steps made: of every byte, on either side of zero."""
    grid = (("limits", (0, 255)), ("scale", 0.05), ("zero_point", 90))
    signed = (("limits", (-128, 127)), ("scale", 0.02), ("zero_point", -100))
    steps = (
        PostOp("QuantizeLinear", grid, (0,)),
        PostOp("DequantizeLinear", grid, (1,)),
        PostOp("Sigmoid", (), (2,)),
        PostOp("Mul", (), (2, 3)),
        PostOp("QuantizeLinear", signed, (4,)),
    )
    first, table = tabulated(Epilogue((), steps, "int8")).steps
    assert (first, table.operator, table.inputs) == (steps[0], "Table", (1,))
    x = (np.arange(256) - 90) * np.float32(0.05)
    expected = np.clip(np.rint(x / (1 + np.exp(-x)) / np.float32(0.02)) - 100, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(np.frombuffer(dict(table.attributes)["codes"], np.int8), expected)


def test_what_reads_more_than_a_byte_is_left() -> None:
    grid = (("limits", (0, 255)), ("scale", 0.05), ("zero_point", 90))
    steps = (PostOp("DequantizeLinear", grid, (1,)), PostOp("Add", (), (0, 2)), PostOp("QuantizeLinear", grid, (3,)))
    epilogue = Epilogue((Operand(Broadcast.ELEMENTS, "uint8"),), steps, "uint8")
    assert tabulated(epilogue) == epilogue


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    channels=st.integers(1, 40),
    filters=st.integers(1, 40),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 3),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
    zero_point=st.integers(0, 255),
    is_depthwise=st.booleans(),
)
def test_convolutions_of_bytes_of_any_shape(
    agree, channels, filters, kernel, stride, pads, size, zero_point, is_depthwise
) -> None:
    filters, group = (channels, channels) if is_depthwise else (filters, 1)
    weights = RNG.integers(-127, 128, (filters, channels // group, *kernel)).astype(np.int8)

    def build(op, x):
        x = op.DequantizeLinear(x, EIGHTH, np.uint8(zero_point))
        weight = op.DequantizeLinear(weights, np.full(filters, 0.25, np.float32), np.zeros(filters, np.int8), axis=0)
        return op.Conv(x, weight, strides=(stride, stride), pads=pads, group=group)

    agree(build, RNG.integers(0, 256, (1, channels, *size)).astype(np.uint8))


def test_a_quantized_network_stays_in_bytes(target, tmp_path) -> None:
    """The network is as `quantize` writes it: what is as large as an image is bytes alone between layers."""
    network = nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        _Residual(24),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.SiLU(),
        nn.Conv2d(24, 40, 1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, 10),
    ).eval()
    x = RNG.standard_normal((1, 3, 40, 40), np.float32)
    graph = planish.trace(network, (torch.from_numpy(x),))
    name = graph.inputs[0].name
    data = [{name: RNG.standard_normal((4, 3, 40, 40), np.float32)[:1]}, {name: x}]
    quantized = planish.optimize(graph, "cleanup,fuse,quantize{scheme=int8}", data=data).graph
    write_artifact(tmp_path / "dist", quantized, Tvm(checks_kernels=False), target)
    found = planish.load(tmp_path / "dist")(x)[0]
    (expected,) = Interpreter(quantized).run({name: x}).values()
    assert (
        np.abs(found - expected).max() < np.abs(expected).max() / 50
    )  # some bytes lie half-way, and are rounded elsewhere
    if target.int8 is None or not Machine.of(target).has_wide_dots:
        return
    legal = legalized(quantized, target, "tvm")
    ConstantFolding().run(legal, PassContext(target, source=quantized))
    module = to_relax(legal, Origins.of(quantized), target).module
    calls = [binding.value for block in module["main"].body.blocks for binding in block.bindings]
    kernels = [call for call in calls if isinstance(call, relax.Call) and call.op.name == "relax.call_tir"]
    names = Counter(call.args[0].name_hint.rstrip("0123456789") for call in kernels)
    assert names["integer_conv"] == 4
    assert names["integer_depthwise"] == 1
    assert not names.keys() & {"conv", "depthwise", "winograd", "convolution"}


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))
