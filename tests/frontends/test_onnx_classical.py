"""Classical models from ONNX files to artifacts, as converters write them: maps, labels of text, old versions."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import planish
from planish.ir.errors import ModelError, TargetError
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import flattened
from planish.ir.text import parse_graph, print_graph, weights
from planish.ir.types import Container
from planish.passes.probes import run_graph
from planish.passes.yardstick import Yardstick

ML = "ai.onnx.ml"
X = np.array([[-1.0, 2.0], [0.5, 0.25], [3.0, -4.0]], np.float32)
WORDS = np.array([["long", "red"], ["short", "blue"], ["short", "red"]], dtype=object)

STUMPS: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 0, 1, 2],
    "nodes_featureids": [0, 0, 0, 1, 0, 0],
    "nodes_values": [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * 2,
    "nodes_truenodeids": [1, 0, 0, 1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0, 2, 0, 0],
    "class_treeids": [0, 0, 0, 1, 1, 1],
    "class_nodeids": [1, 1, 2, 1, 2, 2],
    "class_ids": [0, 1, 2, 2, 0, 1],
    "class_weights": [0.5, 0.25, 0.75, 0.5, 0.125, 0.25],
}


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    arrays: dict[str, np.ndarray],
    outputs: list[str],
    imports: tuple[tuple[str, int], ...] = (("", 21), (ML, 3)),
) -> Path:
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), ["row", *array.shape[1:]]
        )
        for name, array in arrays.items()
    ]
    graph = onnx.helper.make_graph(nodes, "model", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
    opsets = [onnx.helper.make_opsetid(*entry) for entry in imports]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    domain = "" if operator in ("Cast", "Concat", "MatMul") else ML
    return onnx.helper.make_node(operator, inputs, outputs, domain=domain, name=f"my_{outputs[-1]}", **attributes)


def with_maps(path: Path, **labels: Any) -> Path:
    """Trees whose scores become maps, as converters write classifiers."""
    keys = {name.replace("_ints", "_int64s"): value for name, value in labels.items()}
    nodes = [
        node("TreeEnsembleClassifier", ["x"], ["label", "scores"], **STUMPS, **keys),
        node("ZipMap", ["scores"], ["maps"], **keys),
    ]
    return write(path, nodes, {"x": X}, ["label", "maps"])


def built(path: Path, feeds: dict[str, np.ndarray], passes: str = "cleanup") -> list[Any]:
    """What the artifact for ONNX Runtime returns, after passes whose numeric check has to hold."""
    graph = planish.optimize(planish.read(path), passes).graph
    return planish.compile(graph, backend="onnxruntime")(**feeds)


def source(path: Path, feeds: dict[str, np.ndarray]) -> list[Any]:
    return onnxruntime.InferenceSession(path).run(None, feeds)


@pytest.mark.parametrize("labels", [{"classlabels_ints": [3, 5, 8]}, {"classlabels_strings": ["a", "ß", ""]}])
def test_maps_are_returned_as_the_source_returns_them(labels: dict[str, Any], tmp_path: Path) -> None:
    path = with_maps(tmp_path / "model.onnx", **labels)
    expected = source(path, {"x": X})
    assert isinstance(expected[1][0], dict)
    for label, maps in (built(path, {"x": X}), Interpreter(planish.read(path)).run({"x": X}).values()):
        assert label.tolist() == expected[0].tolist()
        assert maps == expected[1]


def test_maps_have_a_type_in_text_and_in_files(tmp_path: Path) -> None:
    graph = planish.read(with_maps(tmp_path / "model.onnx", classlabels_strings=["a", "b", "c"]))
    assert graph.outputs["maps"].type.container is Container.MAPS_OF_TEXTS
    text = print_graph(graph)
    assert "sequence(map_string(float32[]))" in text
    assert print_graph(parse_graph(text, weights(graph))) == text
    planish.write(graph, tmp_path / "again.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "again.onnx"))
    assert source(tmp_path / "again.onnx", {"x": X})[1] == source(tmp_path / "model.onnx", {"x": X})[1]


def test_maps_are_compared_by_key() -> None:
    flat = flattened({"maps": [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}], "y": X})
    assert {name: array.tolist() for name, array in flat.items()} == {
        "maps['a']": [1, 3],
        "maps['b']": [2, 4],
        "y": X.tolist(),
    }


def test_maps_of_quantized_models_may_be_rounded_otherwise(tmp_path: Path) -> None:
    labels = list(range(16))
    generator = np.random.default_rng(0)
    x, weight = (generator.standard_normal(shape).astype(np.float32) for shape in ((3, 64), (64, 16)))
    nodes = [
        node("MatMul", ["x", "w"], ["scores"]),
        node("ZipMap", ["scores"], ["maps"], classlabels_int64s=labels),
    ]
    path = write(tmp_path / "model.onnx", nodes, {"x": x}, ["maps"])
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, path)
    graph = planish.optimize(planish.read(path), "quantize{scheme=int8-dynamic}").graph
    rounding = Yardstick(graph, [{"x": x}], run_graph(graph, [{"x": x}])).rounding
    assert rounding.keys() == {f"maps[{label}]" for label in labels}
    (maps,) = planish.compile(graph)(x)
    assert [list(row) for row in maps] == [labels] * 3
    np.testing.assert_allclose([list(row.values()) for row in maps], x @ weight, atol=0.5)


def test_tvm_refuses_maps_by_name(tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    graph = planish.read(with_maps(tmp_path / "model.onnx", classlabels_ints=[0, 1, 2]))
    with pytest.raises(
        TargetError, match=r"my_maps: tvm can't run ai\.onnx\.ml::ZipMap: it computes with sequence\(map"
    ):
        planish.compile(graph, backend="tvm")


def test_encoders_of_the_first_version_number_their_classes(tmp_path: Path) -> None:
    names = ["red", "blue", "long"]
    nodes = [
        node("LabelEncoder", ["words"], ["numbers"], classes_strings=names, default_int64=7),
        node("LabelEncoder", ["numbers"], ["back"], classes_strings=names, default_string="?"),
    ]
    path = write(tmp_path / "model.onnx", nodes, {"words": WORDS}, ["numbers", "back"], (("", 21), (ML, 1)))
    expected = source(path, {"words": WORDS})
    for got, wanted in zip(built(path, {"words": WORDS}), expected, strict=True):
        assert got.tolist() == wanted.tolist()


def test_an_opset_may_be_named_twice_but_not_in_two_versions(tmp_path: Path) -> None:
    nodes = [node("LinearRegressor", ["x"], ["y"], coefficients=[1.0, 2.0])]
    path = write(tmp_path / "model.onnx", nodes, {"x": X}, ["y"], ((ML, 1), ("", 21), ("", 21)))
    np.testing.assert_allclose(built(path, {"x": X})[0], X @ [[1.0], [2.0]])
    write(path, nodes, {"x": X}, ["y"], ((ML, 1), ("", 21), ("", 20)))
    with pytest.raises(ModelError, match="names the operators of the standard in two versions"):
        planish.read(path)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_trees_of_all_versions_are_built(version: int, tmp_path: Path) -> None:
    nodes = [
        node("TreeEnsembleClassifier", ["x"], ["label", "scores"], **STUMPS, classlabels_strings=["a", "b", "c"]),
        node("LabelEncoder", ["label"], ["code"],
             **({"classes_strings": ["b", "c"]} if version == 1
                else {"keys_strings": ["b", "c"], "values_int64s": [0, 1]})),
    ]  # fmt: skip
    path = write(tmp_path / "model.onnx", nodes, {"x": X}, ["scores", "code"], (("", 21), (ML, version)))
    for got, wanted in zip(built(path, {"x": X}), source(path, {"x": X}), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_models_of_known_categories_alone_are_checked(tmp_path: Path) -> None:
    """Each column of a table has categories of its own, and nothing else may be in it."""
    nodes = [
        node("ArrayFeatureExtractor", ["words", "first"], ["lengths"]),
        node("ArrayFeatureExtractor", ["words", "second"], ["colours"]),
        node("OneHotEncoder", ["lengths"], ["a"], cats_strings=["long", "short"], zeros=0),
        node("OneHotEncoder", ["colours"], ["b"], cats_strings=["blue", "green", "red"], zeros=0),
        node("Cast", ["kind"], ["whole"], to=onnx.TensorProto.INT64),
        node("OneHotEncoder", ["whole"], ["c"], cats_int64s=[4, 6], zeros=0),
        node("Concat", ["a", "b", "c"], ["y"], axis=2),
    ]
    feeds = {"words": WORDS, "kind": np.array([[4], [6], [4]], np.float32)}
    path = write(tmp_path / "model.onnx", nodes, feeds, ["y"])
    model = onnx.load(path)
    for name, place in (("first", 0), ("second", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([place]), name))
    onnx.save(model, path)
    np.testing.assert_array_equal(built(path, feeds)[0], source(path, feeds)[0])


def test_texts_are_compared_by_passes_that_round(tmp_path: Path) -> None:
    nodes = [node("LabelEncoder", ["words"], ["y"], keys_strings=["red"], values_strings=["rot"])]
    path = write(tmp_path / "model.onnx", nodes, {"words": WORDS}, ["y"])
    got = built(path, {"words": WORDS}, "cleanup,legalize")[0]
    assert got.tolist() == source(path, {"words": WORDS})[0].tolist()
