from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from planish.frontends.onnx import read_onnx
from planish.ir.interpreter import Interpreter

TEXTS = np.array([["the cat, the dog", ""], ["größe: 12;34", "a"]], dtype=object)


def model(path: Path, shape: list[str | int], **attributes: Any) -> Path:
    held = {"mark": 0, "mincharnum": 1, "pad_value": "#", **attributes}
    node = onnx.helper.make_node("Tokenizer", ["x"], ["y"], domain="com.microsoft", name="words", **held)
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.STRING, shape)
    graph = onnx.helper.make_graph([node], "model", [given], [onnx.ValueInfoProto(name="y")])
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:, 0], TEXTS[:1, 1:]])
@pytest.mark.parametrize(
    "attributes",
    [
        {"tokenexp": "[a-z0-9]+"},
        {"tokenexp": r"\w+", "mincharnum": 2, "mark": 1},
        {"tokenexp": "t|th|[a-z]"},
        {"tokenexp": "."},
        {"separators": [""], "mark": 1},
        {"separators": [" ", "[,;]"], "pad_value": ""},
        {"separators": [", ", "t"], "mincharnum": 3},
    ],
)
def test_tokens_are_those_of_onnx_runtime(texts: np.ndarray, attributes: dict[str, Any], tmp_path: Path) -> None:
    path = model(tmp_path / "model.onnx", ["row", *texts.shape[1:]], **attributes)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"x": texts})
    graph = read_onnx(path)
    assert graph.outputs["y"].type.rank == expected.ndim
    assert Interpreter(graph).run({"x": texts})["y"].tolist() == expected.tolist()
