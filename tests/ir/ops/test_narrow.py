"""Elements that torch can't compute with are moved about whole, and have types before they have data."""

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify

SMALL = [dtype for dtype in DType if dtype.is_foreign and dtype.bits <= 8]
INTEGERS = [dtype for dtype in SMALL if dtype.is_integer]


def codes(dtype: DType, *shape: int) -> np.ndarray:
    return np.resize(np.arange(2**dtype.bits, dtype=np.uint8), shape).view(dtype.numpy)


@pytest.mark.parametrize("dtype", [dtype for dtype in SMALL if dtype.bits != 6], ids=str)
def test_moving_keeps_every_bit(dtype: DType) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(dtype, ("n", 4, 3)))
    op = Builder(graph)
    turned = op.Transpose(x, perm=[2, 0, 1])
    graph.outputs = {
        "turned": turned,
        "flat": op.Flatten(turned, axis=2),
        "shaped": op.Reshape(turned, [3, -1, 2]),
        "padded": op.Pad(turned, [0, 0, 1, 0, 0, 2], mode="edge"),
        "framed": op.Pad(x, [0, 0, 1, 0, 0, 0], op.constant(codes(dtype, 2)[1])),
        "same": op.Identity(op.Squeeze(op.Unsqueeze(turned, [0]), [0])),
        "filled": op.ConstantOfShape([2, 3], value=codes(dtype, 4)[3:]),
    }
    verify(graph)
    array = codes(dtype, 5, 4, 3)
    back = array.transpose(2, 0, 1)
    wanted = {
        "turned": back,
        "flat": back.reshape(15, 4),
        "shaped": back.reshape(3, -1, 2),
        "padded": np.pad(back, ((0, 0), (0, 0), (1, 2)), "edge"),
        "framed": np.pad(array, ((0, 0), (0, 0), (1, 0)), constant_values=codes(dtype, 2)[1]),
        "same": back,
        "filled": np.full((2, 3), codes(dtype, 4)[3]),
    }
    got = Interpreter(graph).run({"x": array})
    for name, expected in wanted.items():
        assert got[name].dtype == expected.dtype, name
        assert got[name].shape == expected.shape, name
        assert got[name].tobytes() == expected.tobytes(), name
    assert [str(value.type) for value in graph.outputs.values()][:2] == [f"{dtype}[3, n, 4]", f"{dtype}[3 * n, 4]"]


@pytest.mark.parametrize("dtype", [dtype for dtype in SMALL if dtype is not DType.float8_e8m0fnu], ids=str)
@pytest.mark.parametrize("scale", [DType.float32, DType.float16, DType.float8_e8m0fnu], ids=str)
def test_what_is_on_the_grid_survives_quantization(dtype: DType, scale: DType) -> None:
    finite = [code for code in codes(dtype, 2**dtype.bits) if np.isfinite(code)]
    array = np.array(finite, dtype.numpy)
    graph = Graph()
    x = graph.add_input("x", TensorType(dtype, ("n",)))
    op = Builder(graph)
    factor, zero = op.constant(np.array(0.25).astype(scale.numpy)), op.constant(np.zeros((), dtype.numpy))
    y = op.DequantizeLinear(x, factor, zero, output_dtype=DType.float32)
    graph.outputs = {"y": y, "x": op.QuantizeLinear(y, factor, output_dtype=dtype)}
    verify(graph)
    got = Interpreter(graph).run({"x": array})
    assert got["y"].tolist() == (array.astype(np.float32) / 4).tolist()
    np.testing.assert_array_equal(got["x"], array)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_quantization_stops_at_the_ends_of_a_type(dtype: DType) -> None:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, ("n",)))
    graph.outputs["y"] = op.QuantizeLinear(x, np.float32(1), op.constant(np.ones((), dtype.numpy)))
    low, high = dtype.limits
    ends = Interpreter(graph).run({"x": np.array([-1e9, 1e9, 0.5], np.float32)})["y"]
    assert ends.astype(int).tolist() == [low, high, 1]


def test_half_precision_holds_a_zero_point_of_sixteen_bits() -> None:
    graph = Graph()
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float16, (1,)))
    graph.outputs["y"] = op.QuantizeLinear(x, op.constant(np.array(1, np.float16)), op.constant(np.uint16(32767)))
    assert Interpreter(graph).run({"x": np.ones(1, np.float16)})["y"].tolist() == [32768]
