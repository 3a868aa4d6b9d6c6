"""ONNX Runtime's own operators, held against ONNX Runtime."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from planish.ir.ops import operators
from planish.ir.ops.dtypes import to_numpy, to_torch

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def integers(dtype: type[np.generic], *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def scalar(value: float, dtype: type[np.generic] = np.float32) -> np.ndarray:
    return np.array(value, dtype)


A, B = integers(np.uint8, 3, 8), integers(np.int8, 8, 5) // 2  # 7 bits: more saturate on machines without VNNI
SCALES = np.linspace(0.01, 0.02, 5).astype(np.float32)
NIBBLES = {"K": 80, "N": 5, "bits": 4, "block_size": 32}
NIBBLE_WEIGHTS = integers(np.uint8, 5, 3, 16)
COLUMNS = [np.random.default_rng(k).integers(-63, 64, (1, k, 16)).astype(np.int8) for k in (3, 4)]
BY_DIRECTION = (np.full(1, 0.004, np.float32), np.zeros(1, np.int8)) * 2
BY_COLUMN = (np.linspace(0.002, 0.006, 16, dtype=np.float32)[None], np.zeros((1, 16), np.int8)) * 2
CASES: dict[str, tuple[list[np.ndarray | None], dict[str, Any]]] = {
    "FusedMatMul": ([normal(2, 3, 4), normal(2, 4, 5)], {"alpha": 0.5}),
    "FusedMatMul, transposed": ([normal(2, 4, 3), normal(2, 5, 4)], {"transA": 1, "transB": 1}),
    "FusedMatMul, batch behind rows": ([normal(3, 2, 4), normal(2, 4, 5)], {"transBatchA": 1}),
    "FusedMatMul, both": ([normal(4, 2, 3), normal(2, 4, 5)], {"transBatchA": 1, "transA": 1}),
    "Gelu": ([normal(3, 4)], {}),
    "BiasGelu": ([normal(3, 4), normal(4)], {}),
    "FastGelu": ([normal(3, 4)], {}),
    "FastGelu, bias": ([normal(3, 4), normal(4)], {}),
    "QuickGelu": ([normal(3, 4)], {"alpha": 1.5}),
    "SkipLayerNormalization": ([normal(2, 3, 4), normal(2, 3, 4), normal(4), normal(4), normal(4)], {}),
    "SkipLayerNormalization, no bias": ([normal(2, 3, 4), normal(2, 3, 4), normal(4)], {"epsilon": 1e-3}),
    "MatMulIntegerToFloat": ([A, B, scalar(0.02), SCALES, scalar(7, np.uint8), np.zeros(5, np.int8), normal(5)], {}),
    "DynamicQuantizeMatMul": ([normal(3, 8), B, SCALES, None, normal(5)], {}),
    "MatMulNBits": ([normal(2, 3, 80), NIBBLE_WEIGHTS, normal(5, 3)], NIBBLES),
    "MatMulNBits, a row": ([normal(1, 80), NIBBLE_WEIGHTS, normal(15), integers(np.uint8, 10)], NIBBLES),
    "MatMulNBits, bias": (
        [normal(9, 80), NIBBLE_WEIGHTS, normal(5, 3), integers(np.uint8, 5, 2), None, normal(5)],
        NIBBLES,
    ),
    "MatMulNBits, zero points in floats": ([normal(4, 80), NIBBLE_WEIGHTS, normal(5, 3), normal(5, 3)], NIBBLES),
    "MatMulNBits, 8 bits": (
        [normal(4, 64), integers(np.uint8, 6, 2, 32), normal(6, 2), integers(np.uint8, 6, 2)],
        {"K": 64, "N": 6, "bits": 8, "block_size": 32},
    ),
    "MatMulNBits, 2 bits": (
        [normal(4, 64), integers(np.uint8, 6, 4, 4), normal(6, 4), integers(np.uint8, 6, 1)],
        {"K": 64, "N": 6, "bits": 2, "block_size": 16},
    ),
    "QGemm": (
        [
            A,
            scalar(0.02),
            scalar(7, np.uint8),
            B,
            SCALES,
            np.zeros(5, np.int8),
            integers(np.int16, 5).astype(np.int32),
            scalar(0.5),
            scalar(120, np.uint8),
        ],
        {},
    ),
    "QGemm, to float": (
        [A, scalar(0.02), scalar(7, np.uint8), B.T.copy(), scalar(0.01), scalar(3, np.int8)],
        {"transB": 1, "alpha": 2.0},
    ),
    "DynamicQuantizeLSTM": ([normal(5, 2, 3), *COLUMNS, *[None] * 5, *BY_DIRECTION], {"hidden_size": 4}),
    "DynamicQuantizeLSTM, all of it": (
        [normal(5, 2, 3), *COLUMNS, normal(1, 32), None, *normal(2, 1, 2, 4), normal(1, 12), *BY_COLUMN],
        {"hidden_size": 4, "direction": "reverse", "clip": 0.5, "input_forget": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnx_runtime(name: str) -> None:
    arrays, attributes = CASES[name]
    operator = operators()[f"com.microsoft::{name.split(',', maxsplit=1)[0]}"]
    arguments = [None if array is None else to_torch(array) for array in arrays]
    result = operator.function(*arguments, **attributes)
    wanted = _onnx_runtime(name.split(",", maxsplit=1)[0], arrays, attributes)
    assert to_numpy(result).dtype == wanted.dtype
    np.testing.assert_allclose(to_numpy(result), wanted, rtol=1e-5, atol=2e-6)


def test_skip_layer_normalization_returns_the_sum() -> None:
    x, skip, bias = normal(2, 3, 4), normal(2, 3, 4), normal(4)
    function = operators()["com.microsoft::SkipLayerNormalization"].function
    results = function(*map(to_torch, (x, skip, normal(4), normal(4), bias)), outputs=4)
    np.testing.assert_allclose(to_numpy(results[3]), x + skip + bias, rtol=1e-6)


def _onnx_runtime(name: str, arrays: list[np.ndarray | None], attributes: Mapping[str, Any]) -> np.ndarray:
    feeds = {f"x{index}": array for index, array in enumerate(arrays) if array is not None}
    names = ["" if array is None else f"x{index}" for index, array in enumerate(arrays)]
    node = onnx.helper.make_node(name, names, ["y"], domain="com.microsoft", **attributes)
    inputs = [
        onnx.helper.make_tensor_value_info(key, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for key, array in feeds.items()
    ]
    output = onnx.helper.make_empty_tensor_value_info("y")
    graph = onnx.helper.make_graph([node], "case", inputs, [output])
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # threads that share a batch put its states on grids of their own
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]
