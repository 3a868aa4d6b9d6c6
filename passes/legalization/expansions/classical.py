"""Classical models (`ai.onnx.ml`) without texts and maps, spelled out in the standard's own operators."""

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, RefusedError, attribute, cast


def transformed(op: Builder, scores: Value, transform: str) -> Value:
    """Scores after the function that `post_transform` names."""
    match transform:
        case "NONE":
            return scores
        case "LOGISTIC":
            return op.Sigmoid(scores)
        case "SOFTMAX":
            return op.Softmax(scores)
        case "SOFTMAX_ZERO":
            is_zero = op.Equal(scores, 0.0)
            return op.Where(is_zero, op.constant(0.0), op.Softmax(op.Where(is_zero, op.constant(-np.inf), scores)))
        case _:
            raise RefusedError(f"nothing computes {transform}")


def rows_of(op: Builder, node: Node) -> Value:
    """The rows of features that a model is given, as floats."""
    x = node.operand(0)
    if x.type.rank != 2:
        raise RefusedError(f"its input is {x.type}, and rows of features have two axes")
    return x if x.dtype is DType.float64 else cast(op, x, DType.float32)


def labelled(op: Builder, places: Value, labels: tuple[int, ...]) -> Value:
    """The numbers that are the labels at some places; places themselves where these are all that is known."""
    return op.Gather(np.array(labels, np.int64), places) if labels else places


def floats(numbers: tuple[float, ...] | None, *shape: int) -> np.ndarray:
    return np.array(numbers or (), np.float32).reshape(shape or -1)


# -- features


def _array_feature_extractor(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    y = op.Gather(x, op.Reshape(node.operand(1), [-1]), axis=-1)
    return op.Unsqueeze(y, [0]) if x.type.rank == 1 else y


def _binarizer(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    return cast(op, op.Greater(x, attribute(node, "threshold", 0.0)), x.dtype)


def _imputer(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    kind, default = ("floats", "float") if x.dtype.is_float else ("int64s", "int64")
    replaced = attribute(node, f"replaced_value_{default}", 0)
    values = np.array(attribute(node, f"imputed_value_{kind}", ()), x.dtype.numpy)
    return op.Where(op.IsNaN(x) if replaced != replaced else op.Equal(x, replaced), values, x)


def _label_encoder(op: Builder, node: Node) -> Value:
    """Comparisons with all keys, of which one is met or none."""
    x, dtype = node.operand(0), node.output.dtype
    keys, values, default = (_held(node, part) for part in ("keys", "values", "default"))
    if keys.dtype.kind == "f" and np.isnan(keys).any():
        raise RefusedError("one of its keys is no number, which nothing equals")
    usual = default if default.size else np.array([-1 if dtype.is_integer else -0.0])
    met = op.Equal(op.Unsqueeze(x, [-1]), keys.astype(x.dtype.numpy))
    whole = op.Cast(met, to=DType.int32)
    found = op.Gather(values.astype(dtype.numpy), op.ArgMax(whole, axis=-1, keepdims=0))
    any_ = op.Cast(op.ReduceMax(whole, [-1], keepdims=0), to=DType.bool)
    return op.Where(any_, found, usual.astype(dtype.numpy).reshape(()))


def _held(node: Node, part: str) -> np.ndarray:
    """What one of several attributes holds; nothing if none is set."""
    names = (f"{part}_{kind}" for kind in ("tensor", "int64s", "floats", "int64", "float"))
    return np.ravel(next((node.attributes[name] for name in names if name in node.attributes), ()))


def _normalizer(op: Builder, node: Node) -> Value:
    x = cast(op, node.operand(0), DType.float32)
    match attribute(node, "norm", "MAX"):
        case "L1":
            norm = op.ReduceL1(x, [-1])
        case "L2":
            norm = op.ReduceL2(x, [-1])
        case _:
            norm = op.ReduceMax(op.Abs(x), [-1])
    return op.Div(x, op.Max(norm, 1e-30))


def _one_hot_encoder(op: Builder, node: Node) -> Value:
    if not attribute(node, "zeros", 1):
        raise RefusedError("it fails on what is of none of its categories; give it a place for the unknown (zeros=1)")
    x = node.operand(0)
    known = np.array(attribute(node, "cats_int64s", ())).astype(x.dtype.numpy)
    return op.Cast(op.Equal(op.Unsqueeze(x, [-1]), known), to=DType.float32)


def _scaler(op: Builder, node: Node) -> Value:
    x = cast(op, node.operand(0), DType.float32)
    return op.Mul(op.Sub(x, floats(attribute(node, "offset", (0.0,)))), floats(attribute(node, "scale", (1.0,))))


# -- linear models


def _linear(op: Builder, node: Node, rows: int) -> Value:
    weights = floats(node.attributes["coefficients"], rows, -1)
    y = op.MatMul(cast(op, rows_of(op, node), DType.float32), weights.T)
    intercepts = attribute(node, "intercepts", None)
    return op.Add(y, floats(intercepts)) if intercepts else y


def _linear_regressor(op: Builder, node: Node) -> Value:
    return transformed(op, _linear(op, node, attribute(node, "targets", 1)), attribute(node, "post_transform", "NONE"))


def _linear_classifier(op: Builder, node: Node) -> tuple[Value, Value]:
    labels = attribute(node, "classlabels_ints", ())
    transform = attribute(node, "post_transform", "NONE")
    features = node.operand(0).shape[-1]
    if not isinstance(features, int):
        raise RefusedError(f"it is given {features} features, a number that is known at run time alone")
    count = len(node.attributes["coefficients"]) // features
    scores = _linear(op, node, count)
    if count == 1 and len(labels) == 2:
        scores = op.Concat(op.Neg(scores), scores, axis=1)
    elif count == 1:
        raise RefusedError("it has one score, and no two labels")
    scores = transformed(op, scores, transform)
    return labelled(op, op.ArgMax(scores, axis=1, keepdims=0), labels), scores


EXPANSIONS: dict[str, Expansion] = {
    "ai.onnx.ml::ArrayFeatureExtractor": _array_feature_extractor,
    "ai.onnx.ml::Binarizer": _binarizer,
    "ai.onnx.ml::Imputer": _imputer,
    "ai.onnx.ml::LabelEncoder": _label_encoder,
    "ai.onnx.ml::LinearClassifier": _linear_classifier,
    "ai.onnx.ml::LinearRegressor": _linear_regressor,
    "ai.onnx.ml::Normalizer": _normalizer,
    "ai.onnx.ml::OneHotEncoder": _one_hot_encoder,
    "ai.onnx.ml::Scaler": _scaler,
}
