"""Ensembles of trees before version 5 of `ai.onnx.ml`, and support vectors, against ONNX Runtime on random models."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from planish.backends.legal import legalized
from planish.frontends.onnx import read_onnx
from planish.ir.builder import Builder
from planish.ir.errors import ModelError, TargetError
from planish.ir.graph import Graph, Location
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.targets.load import load_target

FEATURES = 4
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")

Attributes = dict[str, Any]


def forest(generator: np.random.Generator, trees: int) -> Attributes:
    """Random trees, some of a leaf alone, with numbers of nodes that aren't their places."""
    rows: list[dict[str, Any]] = []
    for tree in range(trees):
        inner = int(generator.integers(0, 5))
        names = generator.permutation(2 * inner + 1)
        for index, name in enumerate(names):
            is_leaf = index >= inner
            rows.append(
                {
                    "treeids": tree * 7,
                    "nodeids": int(name),
                    "featureids": 0 if is_leaf else int(generator.integers(FEATURES)),
                    "modes": "LEAF" if is_leaf else str(generator.choice(MODES)),
                    "values": 0.0 if is_leaf else float(generator.integers(-1, 2)),
                    "truenodeids": 0 if is_leaf else int(names[2 * index + 1]),
                    "falsenodeids": 0 if is_leaf else int(names[2 * index + 2]),
                    "missing_value_tracks_true": int(not is_leaf and generator.random() < 0.5),
                }
            )
    return {f"nodes_{name}": [row[name] for row in rows] for name in rows[0]}


def weights(
    generator: np.random.Generator, nodes: Attributes, targets: list[int], prefix: str, least: float
) -> Attributes:
    """A weight for each of some targets in every leaf."""
    leaves = [
        (tree, node)
        for tree, node, mode in zip(nodes["nodes_treeids"], nodes["nodes_nodeids"], nodes["nodes_modes"], strict=True)
        if mode == "LEAF"
    ]
    pairs = [(*leaf, target) for leaf in leaves for target in targets]
    return {
        f"{prefix}_treeids": [tree for tree, _, _ in pairs],
        f"{prefix}_nodeids": [node for _, node, _ in pairs],
        f"{prefix}_ids": [target for _, _, target in pairs],
        f"{prefix}_weights": generator.uniform(least, 0.5, len(pairs)).astype(np.float32).tolist(),
    }


def rows(generator: np.random.Generator) -> np.ndarray:
    """Numbers of which some are those that trees compare with, and some are missing."""
    x = generator.integers(-2, 3, (12, FEATURES)).astype(np.float32)
    x[generator.random(x.shape) < 0.1] = np.nan
    return x


def held_to_runtime(operator: str, attributes: Attributes, x: np.ndarray, outputs: int, folder: Any) -> None:
    names = [f"y{index}" for index in range(outputs)]
    node = onnx.helper.make_node(operator, ["x"], names, domain="ai.onnx.ml", name="model", **attributes)
    kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    given = onnx.helper.make_tensor_value_info("x", kind, ["row", x.shape[1]])
    graph = onnx.helper.make_graph([node], "case", [given], [onnx.ValueInfoProto(name=name) for name in names])
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    made = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    expected = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})
    onnx.save(made, folder / "case.onnx")
    read = read_onnx(folder / "case.onnx")
    verify(read)
    for (label, got), want in zip(Interpreter(read).run({"x": x}).items(), expected, strict=True):
        assert (got.dtype, got.shape[1:]) == (read.outputs[label].type.dtype.numpy, read.outputs[label].shape[1:])
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, 1e-4, 1e-5)
        else:
            assert got.tolist() == want.tolist()


@pytest.mark.parametrize("seed", range(40))
def test_regressors(seed: int, tmp_path: Any) -> None:
    generator = np.random.default_rng(seed)
    nodes, count = forest(generator, int(generator.integers(1, 6))), int(generator.integers(1, 4))
    attributes = {
        **nodes,
        **weights(generator, nodes, sorted(generator.choice(count, max(1, count - 1), replace=False).tolist()),
                  "target", -0.5),
        "n_targets": count,
        "aggregate_function": str(generator.choice(["SUM", "AVERAGE", "MIN", "MAX"])),
        "post_transform": str(generator.choice(["NONE", "LOGISTIC", "SOFTMAX"])),
    }  # fmt: skip
    if generator.random() < 0.5:
        attributes["base_values"] = generator.normal(size=count).tolist()
    held_to_runtime("TreeEnsembleRegressor", attributes, rows(generator), 1, tmp_path)


@pytest.mark.parametrize("seed", range(60))
def test_classifiers(seed: int, tmp_path: Any) -> None:
    generator = np.random.default_rng(seed)
    nodes, count = forest(generator, int(generator.integers(1, 6))), int(generator.integers(2, 5))
    scored = [int(generator.integers(2))] if count == 2 and seed % 2 else list(range(count))
    names = [f"class {index}" for index in range(count)]
    attributes = {
        **nodes,
        **weights(generator, nodes, scored, "class", float(generator.choice([0.0, -0.5]))),
        **({"classlabels_strings": names} if seed % 3 else {"classlabels_int64s": [3, 5, 8, 9][:count]}),
        "post_transform": str(generator.choice(["NONE", "LOGISTIC", "SOFTMAX"])),
    }
    if generator.random() < 0.5:
        attributes["base_values"] = generator.normal(size=1 if count == 2 and seed % 5 == 0 else count).tolist()
    held_to_runtime("TreeEnsembleClassifier", attributes, rows(generator), 2, tmp_path)


def test_trees_of_doubles(tmp_path: Any) -> None:
    generator = np.random.default_rng(0)
    nodes = forest(generator, 4)
    attributes = {**nodes, **weights(generator, nodes, [0, 1, 2], "class", -0.5), "classlabels_int64s": [0, 1, 2]}
    for name in ("nodes_values", "class_weights"):
        held = np.array(attributes.pop(name), np.float64)
        attributes[f"{name}_as_tensor"] = onnx.numpy_helper.from_array(held, name)
    held_to_runtime("TreeEnsembleClassifier", attributes, rows(generator).astype(np.float64), 2, tmp_path)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("is_odds", [False, True])
def test_support_vectors_of_classes(kernel: str, count: int, is_odds: bool, tmp_path: Any) -> None:
    generator = np.random.default_rng(count)
    counts = list(range(1, count + 1))
    pairs = count * (count - 1) // 2
    attributes = {
        "classlabels_strings": [f"class {index}" for index in range(count)],
        "coefficients": generator.normal(size=(count - 1) * sum(counts)).tolist(),
        "support_vectors": generator.normal(size=sum(counts) * FEATURES).tolist(),
        "vectors_per_class": counts,
        "rho": generator.normal(size=pairs).tolist(),
        "kernel_type": kernel,
        "kernel_params": [0.5, 0.25, 3.0],
    }
    if is_odds:
        attributes |= {"prob_a": (-generator.random(pairs)).tolist(), "prob_b": generator.normal(size=pairs).tolist()}
    x = generator.normal(size=(20, FEATURES)).astype(np.float32)
    held_to_runtime("SVMClassifier", attributes, x, 2, tmp_path)


@pytest.mark.parametrize("count", [2, 3])
def test_linear_scores_of_classes(count: int, tmp_path: Any) -> None:
    generator = np.random.default_rng(count)
    attributes = {
        "classlabels_ints": [3, 5, 8][:count],
        "coefficients": generator.normal(size=count * FEATURES).tolist(),
        "rho": [0.5],
        "kernel_params": [0.0, 0.0, 0.0],
    }
    x = generator.normal(size=(20, FEATURES)).astype(np.float32)
    held_to_runtime("SVMClassifier", attributes, x, 2, tmp_path)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("is_one_class", [0, 1])
def test_support_vectors_of_numbers(kernel: str, is_one_class: int, tmp_path: Any) -> None:
    generator = np.random.default_rng(7)
    attributes = {
        "coefficients": generator.normal(size=5).tolist(),
        "support_vectors": generator.normal(size=5 * FEATURES).tolist(),
        "n_supports": 5,
        "one_class": is_one_class,
        "rho": [0.1],
        "kernel_type": kernel,
        "kernel_params": [0.5, 0.25, 2.0],
    }
    x = generator.normal(size=(20, FEATURES)).astype(np.float32)
    held_to_runtime("SVMRegressor", attributes, x, 1, tmp_path)


CIRCLE = {
    "nodes_treeids": [0, 0],
    "nodes_nodeids": [0, 1],
    "nodes_featureids": [0, 0],
    "nodes_values": [0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ"],
    "nodes_truenodeids": [1, 0],
    "nodes_falsenodeids": [1, 0],
    "class_treeids": [0],
    "class_nodeids": [1],
    "class_ids": [0],
    "class_weights": [1.0],
    "classlabels_int64s": [0, 1],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "its nodes lead round in a circle"),
        ({"class_nodeids": [7]}, "it speaks of a node that none of its trees has"),
        ({"nodes_truenodeids": [1, 9]}, "it speaks of a node that none of its trees has"),
    ],
)
def test_broken_trees_are_refused(change: Attributes, message: str) -> None:
    graph = Graph("broken")
    x = graph.add_input("x", TensorType(DType.float32, (2, FEATURES)))
    op = Builder(graph, location=Location("forest"))
    _, graph.outputs["y"] = op("ai.onnx.ml::TreeEnsembleClassifier", x, outputs=2, **(CIRCLE | change))
    with pytest.raises(ModelError, match=f"forest: .*{message}"):
        Interpreter(graph).run({"x": np.zeros((2, FEATURES), np.float32)})
    with pytest.raises(TargetError, match=f"forest: tvm can't run ai.onnx.ml::TreeEnsembleClassifier: .*{message}"):
        legalized(graph, load_target("x86-64"), "tvm")
