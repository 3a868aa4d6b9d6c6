"""Conversions between element types that the standard defines match the interpreter's on every backend, bit for bit."""

import numpy as np
import pytest

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.backends.tvm.backend import Tvm
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType

LACKED = {"onnxruntime": (DType.float4_e2m1fn, DType.float6_e2m3fn, DType.float6_e3m2fn), "tvm": ()}
NUMBERS = [
    0,
    0.25,
    0.5,
    0.75,
    1,
    1.5,
    2.5,
    2.75,
    3.5,
    5,
    7.75,
    17,
    464,
    465,
    480,
    57344,
    61439,
    61440,
    65535,
    2**24 + 1,
]
PAYLOADS = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)  # of NaN


def inputs(source: DType) -> np.ndarray:
    """Numbers where roundings turn, and what isn't finite."""
    if source.is_integer:
        return np.array([*NUMBERS, *(-number for number in NUMBERS)]).astype(source.numpy)
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = [*NUMBERS, np.inf, *(-number for number in NUMBERS), -np.inf]
        return np.concatenate([np.array(numbers).astype(source.numpy), PAYLOADS.astype(source.numpy)])


def is_defined(array: np.ndarray, to: DType) -> np.ndarray:
    """Which numbers have a conversion defined by the standard: to an integer those that fit, to any other type all."""
    if not to.is_integer or DType.of(array.dtype).is_integer:
        return np.ones(array.shape, bool)
    with np.errstate(invalid="ignore"):
        whole = np.trunc(array.astype(np.float64))
    return (whole >= to.limits[0]) & (whole <= to.limits[1])


@pytest.mark.parametrize(
    ("backend", "source"),
    [
        pytest.param(
            backend, source, marks=[pytest.mark.wide] if backend == "tvm" and source is not DType.bfloat16 else []
        )
        for backend in LACKED
        for source in (DType.float32, DType.float16, DType.bfloat16, DType.float8_e5m2, DType.int32)
    ],
    ids=str,
)
def test_conversions_are_the_interpreters(backend: str, source: DType, target, tmp_path) -> None:
    graph = Graph()
    op = Builder(graph, location=Location("layer"))
    array = inputs(source)
    x = graph.add_input("x", TensorType(source, array.shape))
    for to in (to for to in DType if (to.bits <= 16 or to is DType.int64) and to not in (source, *LACKED[backend])):
        graph.outputs[str(to)] = op.Cast(x, to=to)
        if to.is_float and to.bits == 8:
            graph.outputs[f"{to} unsaturated"] = op.Cast(x, to=to, saturate=0)
    wanted = Interpreter(graph).run({"x": array})
    compiler = Tvm(checks_kernels=False) if backend == "tvm" else find_backend(backend)
    write_artifact(tmp_path / "dist", graph, compiler, target)
    for name, got in zip(graph.outputs, load(tmp_path / "dist")(array), strict=True):
        assert got.dtype == wanted[name].dtype, name
        one, other = (result.astype(np.float64) for result in (got, wanted[name]))
        defined = is_defined(array, DType.of(got.dtype))
        np.testing.assert_array_equal(one[defined], other[defined], err_msg=name)
        zeros = (other == 0) & (array == array)
        np.testing.assert_array_equal(np.signbit(one[zeros]), np.signbit(other[zeros]), err_msg=name)
