"""Classical models, strings and regions of images against ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from planish.frontends.onnx import read_onnx
from planish.ir.errors import ModelError
from planish.ir.interpreter import Interpreter
from planish.ir.verify import verify

X = np.array([[1.5, -2, 0], [0.25, 4, -1], [-3, 0.5, 2], [0, 0, 0]], np.float32)
WORDS = np.array(["red", "green", "", "Red", "ß"], dtype=object)
IMAGE = np.random.default_rng(1).standard_normal((2, 3, 9, 11)).astype(np.float32)

Case = tuple[str, list[np.ndarray], dict[str, Any], int]

TREES: dict[str, Any] = {
    "nodes_splits": np.array([0.1, -1.0, 0.5], np.float32),
    "nodes_featureids": [0, 1, 2],
    "nodes_modes": np.array([0, 2, 3], np.uint8),
    "nodes_truenodeids": [1, 0, 2],
    "nodes_trueleafs": [0, 1, 1],
    "nodes_falsenodeids": [3, 1, 4],
    "nodes_falseleafs": [1, 1, 1],
    "nodes_missing_value_tracks_true": [1, 0, 0],
    "leaf_targetids": [0, 1, 0, 1, 1],
    "leaf_weights": np.array([1.0, 2.5, -3.0, 0.75, 4.0], np.float32),
    "tree_roots": [0, 2],
    "n_targets": 2,
}
CLASSES = {"coefficients": [0.5, -1.0, 2.0, 1.0, 0.25, 0.0, -1.0, 1.0, 1.0], "intercepts": [0.1, 0.0, -0.3]}

CASES: dict[str, Case] = {
    "ArrayFeatureExtractor": ("ai.onnx.ml::ArrayFeatureExtractor", [X, np.array([2, 0])], {}, 1),
    "ArrayFeatureExtractor of a row": ("ai.onnx.ml::ArrayFeatureExtractor", [X[0], np.array([[2, 0]])], {}, 1),
    "Binarizer": ("ai.onnx.ml::Binarizer", [X], {"threshold": 0.25}, 1),
    "CategoryMapper": ("ai.onnx.ml::CategoryMapper", [WORDS], {"cats_strings": ["red", "ß"], "cats_int64s": [7, 8]}, 1),
    "CategoryMapper back": (
        "ai.onnx.ml::CategoryMapper",
        [np.array([[7, 9], [8, 7]])],
        {"cats_strings": ["red", "ß"], "cats_int64s": [7, 8], "default_string": "?"},
        1,
    ),
    "FeatureVectorizer": ("ai.onnx.ml::FeatureVectorizer", [X, X[:, :2] * 2], {"inputdimensions": [3, 2]}, 1),
    "Imputer": ("ai.onnx.ml::Imputer", [X], {"imputed_value_floats": [7.0, 8.0, 9.0], "replaced_value_float": 0.0}, 1),
    "Imputer of NaN": (
        "ai.onnx.ml::Imputer",
        [np.where(X == 0, np.nan, X).astype(np.float32)],
        {"imputed_value_floats": [7.0], "replaced_value_float": float("nan")},
        1,
    ),
    "LabelEncoder": ("ai.onnx.ml::LabelEncoder", [WORDS],
                     {"keys_strings": ["red", ""], "values_floats": [1.5, 2.5]}, 1),
    "LabelEncoder back": (
        "ai.onnx.ml::LabelEncoder",
        [np.array([[1.5, np.nan], [0, 1]], np.float32)],
        {"keys_floats": [1.5, float("nan")], "values_strings": ["a", "ß"]},
        1,
    ),
    **{
        f"LinearClassifier {transform}": (
            "ai.onnx.ml::LinearClassifier",
            [X],
            {**CLASSES, "classlabels_ints": [3, 5, 9], "post_transform": transform},
            2,
        )
        for transform in ("NONE", "SOFTMAX", "LOGISTIC")
    },
    "LinearClassifier of names": ("ai.onnx.ml::LinearClassifier", [X],
                                  {**CLASSES, "classlabels_strings": ["a", "b", "c"]}, 2),
    "LinearRegressor": ("ai.onnx.ml::LinearRegressor", [X],
                        {"coefficients": [1.0, 2, 3, 4, 5, 6], "intercepts": [0.5, 1], "targets": 2}, 1),
    **{f"Normalizer {norm}": ("ai.onnx.ml::Normalizer", [np.abs(X[:3])], {"norm": norm}, 1)
       for norm in ("MAX", "L1", "L2")},
    "OneHotEncoder": ("ai.onnx.ml::OneHotEncoder", [WORDS], {"cats_strings": ["Red", "ß", "red"]}, 1),
    "OneHotEncoder of numbers": ("ai.onnx.ml::OneHotEncoder", [np.array([[1, 2], [3, 1]])], {"cats_int64s": [1, 3]}, 1),
    "Scaler": ("ai.onnx.ml::Scaler", [X], {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 2.0, 1.0]}, 1),
    "TreeEnsemble": ("ai.onnx.ml::TreeEnsemble", [X], TREES, 1),
    "TreeEnsemble of the least": ("ai.onnx.ml::TreeEnsemble", [X],
                                  {**TREES, "aggregate_function": 2, "leaf_targetids": [0] * 5, "n_targets": 1}, 1),
    "StringSplit": ("StringSplit", [np.array(["a,b,,c", ",", "x"], dtype=object)],
                    {"delimiter": ",", "maxsplit": 2}, 2),
    "StringSplit at blanks": ("StringSplit", [np.array([[" a  b"], ["c"]], dtype=object)], {}, 2),
    "RegexFullMatch": ("RegexFullMatch", [np.array(["ab12", "ab", "ü1"], dtype=object)], {"pattern": r"\w+\d+"}, 1),
    "MaxRoiPool": ("MaxRoiPool", [IMAGE, np.array([[0, 1, 2, 9, 7], [1, 0, 0, 3, 3], [1, 8.5, 6, 20, 20]], np.float32)],
                   {"pooled_shape": [3, 2], "spatial_scale": 0.9}, 1),
    **{
        f"RoiAlign {mode} {ratio}": (
            "RoiAlign",
            [IMAGE, np.array([[1, 2, 9.5, 7], [-1, 0, 3, 30], [4, 4, 4, 4]], np.float32), np.array([0, 1, 1])],
            {"mode": mode, "output_height": 3, "output_width": 2, "sampling_ratio": ratio, "spatial_scale": 0.75},
            1,
        )
        for mode, ratio in (("avg", 0), ("avg", 2), ("max", 2))
    },
}  # fmt: skip


def model(case: Case) -> onnx.ModelProto:
    name, arrays, attributes, outputs = case
    domain, _, operator = name.rpartition("::")
    names = [f"x{index}" for index in range(len(arrays))]
    results = [f"y{index}" for index in range(outputs)]
    held = {
        key: onnx.numpy_helper.from_array(value, key) if isinstance(value, np.ndarray) else value
        for key, value in attributes.items()
    }
    node = onnx.helper.make_node(operator, names, results, domain=domain, **held)
    info = onnx.helper.make_tensor_value_info
    inputs = [
        info(label, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for label, array in zip(names, arrays, strict=True)
    ]
    graph = onnx.helper.make_graph([node], "case", inputs, [onnx.ValueInfoProto(name=label) for label in results])
    since = onnx.defs.get_schema(operator, domain).since_version if domain else 1
    imports = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("ai.onnx.ml", max(since, 1))]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_onnx_runtime(name: str, tmp_path: Any) -> None:
    if name == "RegexFullMatch":
        pytest.importorskip("re2")
    made = model(CASES[name])
    feeds = {f"x{index}": array for index, array in enumerate(CASES[name][1])}
    expected = onnxruntime.InferenceSession(made.SerializeToString()).run(None, feeds)
    onnx.save(made, tmp_path / "case.onnx")
    graph = read_onnx(tmp_path / "case.onnx")
    verify(graph)
    for (label, got), want in zip(Interpreter(graph).run(feeds).items(), expected, strict=True):
        type, array = graph.outputs[label].type, np.asarray(want)
        assert (got.dtype, got.shape) == (type.dtype.numpy, array.shape)
        assert all(dim == size for dim, size in zip(type.shape, got.shape, strict=True) if isinstance(dim, int))
        if got.dtype == object:
            assert got.tolist() == array.tolist()
        else:
            np.testing.assert_allclose(got, array, 1e-5, 1e-6)


def test_strings_go_through_what_moves_elements(tmp_path: Any) -> None:
    for operator, arrays, attributes, expected in (
        ("Concat", [WORDS, WORDS[:1]], {"axis": 0}, np.concatenate([WORDS, WORDS[:1]])),
        ("Gather", [WORDS, np.array([[3, -1]])], {}, WORDS[[[3, -1]]]),
        ("GatherElements", [WORDS, np.array([4, 0])], {}, WORDS[[4, 0]]),
        ("Where", [np.array([True, False, True, False, True]), WORDS, WORDS[::-1]], {},
         np.where([1, 0, 1, 0, 1], WORDS, WORDS[::-1])),
        ("Equal", [WORDS, WORDS[:1]], {}, WORDS == "red"),
        ("NonZero", [WORDS], {}, np.array([[0, 1, 3, 4]])),
        ("Unique", [WORDS], {}, np.unique(WORDS)),
        ("Pad", [WORDS, np.array([1, 0])], {}, np.array(["", *WORDS], dtype=object)),
        ("Cast", [np.array(["1.5", "-2", "INF"], dtype=object)], {"to": 1}, np.array([1.5, -2, np.inf], np.float32)),
        ("Cast", [np.array([1.5, -2, 1e20], np.float32)], {"to": 8}, np.array(["1.5", "-2.0", "1e+20"], dtype=object)),
    ):  # fmt: skip
        made = model((operator, arrays, attributes, 1))
        onnx.save(made, tmp_path / "case.onnx")
        graph = read_onnx(tmp_path / "case.onnx")
        verify(graph)
        (got,) = Interpreter(graph).run({f"x{index}": array for index, array in enumerate(arrays)}).values()
        np.testing.assert_array_equal(got, expected, operator)


def matched(pattern: str, words: np.ndarray, folder: Any) -> np.ndarray:
    pytest.importorskip("re2")
    onnx.save(model(("RegexFullMatch", [words], {"pattern": pattern}, 1)), folder / "case.onnx")
    return Interpreter(read_onnx(folder / "case.onnx")).run({"x0": words})["y0"]


def test_patterns_are_re2s(tmp_path: Any) -> None:
    assert matched(r"\pL+", WORDS, tmp_path).tolist() == [True, True, False, True, True]
    assert matched(r"(?U)[[:alpha:]]+\z", WORDS, tmp_path).tolist() == [True, True, False, True, False]


def test_a_pattern_takes_no_more_than_linear_time(tmp_path: Any) -> None:
    """Python's own `re` would not come to an end."""
    assert not matched("(a*)*b", np.array(["a" * 10_000], dtype=object), tmp_path).any()


@pytest.mark.parametrize("pattern", ["(", r"(a)\1", "(?=a)a", "((a{100}){100}){100}"])
def test_a_pattern_that_re2_refuses_is_named(pattern: str, tmp_path: Any) -> None:
    with pytest.raises(ModelError, match=r"case\.onnx|RegexFullMatch") as caught:
        matched(pattern, WORDS, tmp_path)
    assert f"the pattern {pattern!r} is none of RE2's: " in str(caught.value)
