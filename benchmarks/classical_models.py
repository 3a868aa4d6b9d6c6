"""Classical models as their converters write them: estimators fitted to scikit-learn's own small data sets.

The converters are skl2onnx, and onnxmltools for LightGBM and XGBoost. All opsets that they still write are among the
models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import onnx
from lightgbm import LGBMClassifier, LGBMRegressor
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as BoosterType
from skl2onnx import to_onnx
from skl2onnx.common import tree_ensemble
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn import (
    cluster,
    compose,
    datasets,
    decomposition,
    discriminant_analysis,
    ensemble,
    gaussian_process,
    impute,
    linear_model,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from xgboost import XGBClassifier, XGBRegressor

Feeds: TypeAlias = dict[str, np.ndarray]

TESTED = 32
"""Rows that a model is run on; it is fitted to the others."""


@dataclass(frozen=True, slots=True)
class Data:
    """Rows, in a seeded order, and what is to be told of each."""

    rows: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, slots=True)
class Case:
    """An estimator, what it is fitted to and how it is converted.

    Attributes:
        estimator: the estimator, not fitted yet.
        data: the name of a data set.
        opset: the opset of the standard's operators.
        ml_opset: the opset of `ai.onnx.ml`.
        options: the converter's options for a step of a pipeline.
        step: the number of that step.
    """

    estimator: Any
    data: str
    opset: int = 21
    ml_opset: int = 3
    options: Mapping[str, Any] | None = None
    step: int = -1


def build(name: str) -> tuple[onnx.ModelProto, Feeds]:
    """A model of `CASES`, and rows that it was not fitted to."""
    case = CASES[name]
    data = DATA[case.data]()
    estimator = clone(case.estimator).fit(_table(data.rows[TESTED:]), data.targets[TESTED:])
    rows = data.rows[:TESTED]
    if isinstance(estimator, LGBMClassifier | LGBMRegressor | XGBClassifier | XGBRegressor):
        convert = convert_lightgbm if isinstance(estimator, LGBMClassifier | LGBMRegressor) else convert_xgboost
        types = [("rows", BoosterType([None, rows.shape[1]]))]
        options = dict(case.options or {})
        return convert(estimator, initial_types=types, target_opset=case.opset, **options), {"rows": rows}
    step = estimator.steps[case.step][1] if isinstance(estimator, pipeline.Pipeline) else estimator
    feeds, types = _inputs(rows)
    return to_onnx(
        estimator,
        initial_types=types,
        target_opset={"": case.opset, "ai.onnx.ml": case.ml_opset},
        options=None if case.options is None else {id(step): dict(case.options)},
    ), feeds


def _write_numbers() -> None:
    """Let skl2onnx write histogram-based trees' truth values as numbers: protobuf 6 and later takes nothing else."""
    write = tree_ensemble.add_node

    def add_node(*arguments: Any, nodes_missing_value_tracks_true: Any = 0, **named: Any) -> None:
        write(*arguments, nodes_missing_value_tracks_true=int(nodes_missing_value_tracks_true), **named)

    tree_ensemble.add_node = add_node


_write_numbers()


def _table(rows: np.ndarray) -> np.ndarray:
    """Rows as estimators take them: columns of several kinds side by side, texts in a row."""
    if rows.dtype.names is not None:
        return np.array(rows.tolist(), dtype=object)
    return rows.reshape(-1) if rows.dtype.kind == "O" and rows.shape[1] == 1 else rows


def _inputs(rows: np.ndarray) -> tuple[Feeds, list[tuple[str, Any]]]:
    """What is fed to a model, and the types of that for the converter."""
    if rows.dtype.names is None:
        kinds = {"f": FloatTensorType, "i": Int64TensorType}
        made = kinds.get(rows.dtype.kind, StringTensorType)
        return {"rows": rows}, [("rows", made([None, rows.shape[1]]))]
    columns = {name: rows[name].reshape(-1, 1) for name in rows.dtype.names}
    return columns, [entry for name, column in columns.items() for entry in _inputs_named(name, column)]


def _inputs_named(name: str, column: np.ndarray) -> list[tuple[str, Any]]:
    return [(name, type) for _, type in _inputs(column)[1]]


# -- data


def _shuffled(rows: np.ndarray, targets: np.ndarray) -> Data:
    order = np.random.default_rng(0).permutation(len(rows))
    return Data(rows[order], targets[order])


def _loaded(load: Callable[..., Any], most: int = 400) -> Data:
    rows, targets = load(return_X_y=True)
    data = _shuffled(rows.astype(np.float32), targets)
    return Data(data.rows[:most], data.targets[:most])


@cache
def _names() -> Data:
    """Irises, with the names of their kinds."""
    data = _loaded(datasets.load_iris)
    return Data(data.rows, datasets.load_iris().target_names[data.targets])


@cache
def _gaps() -> Data:
    """Tumours, of which a tenth of the measurements are missing."""
    data = _loaded(datasets.load_breast_cancer)
    gone = np.random.default_rng(1).random(data.rows.shape) < 0.1
    return Data(np.where(gone, np.float32(np.nan), data.rows), data.targets)


@cache
def _counts() -> Data:
    """Digits as whole numbers of ink."""
    data = _loaded(datasets.load_digits)
    return Data(data.rows.astype(np.int64), data.targets)


@cache
def _words() -> Data:
    """Irises described by two words and two numbers."""
    data = _loaded(datasets.load_iris)
    words = np.array(["short", "middling", "long"], dtype=object)
    rows = np.empty(len(data.rows), [("sepal", object), ("petal", object), ("width", "f4"), ("length", "f4")])
    for name, column in (("sepal", 0), ("petal", 2)):
        edges = np.quantile(data.rows[:, column], [0.33, 0.66])
        rows[name] = words[np.digitize(data.rows[:, column], edges)]
    rows["width"], rows["length"] = data.rows[:, 1], data.rows[:, 3]
    return Data(rows, data.targets)


@cache
def _categories() -> Data:
    """The words of these alone."""
    data = _words()
    return Data(np.stack([data.rows["sepal"], data.rows["petal"]], 1), data.targets)


@cache
def _texts() -> Data:
    """Lines of what scikit-learn says of its data sets, and which of them they are about."""
    loads = (datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer, datasets.load_diabetes)
    lines = [(line, index) for index, load in enumerate(loads) for line in load().DESCR.splitlines() if len(line) > 20]
    return _shuffled(np.array([[line] for line, _ in lines], dtype=object), np.array([index for _, index in lines]))


DATA: dict[str, Callable[[], Data]] = {
    "iris": cache(lambda: _loaded(datasets.load_iris)),
    "cancer": cache(lambda: _loaded(datasets.load_breast_cancer)),
    "diabetes": cache(lambda: _loaded(datasets.load_diabetes)),
    "wine": cache(lambda: _loaded(datasets.load_wine)),
    "digits": cache(lambda: _loaded(datasets.load_digits)),
    "names": _names,
    "gaps": _gaps,
    "counts": _counts,
    "words": _words,
    "categories": _categories,
    "texts": _texts,
}


# -- models

_PLAIN = {"zipmap": False}
_COLUMNS = {"zipmap": "columns"}
_LOCALE = {"locale": "C"}
"""The locale that every machine has: ONNX Runtime asks for `en_US.UTF-8` by default."""


def _scaled(estimator: Any, *before: Any) -> Any:
    return pipeline.make_pipeline(*before, preprocessing.StandardScaler(), estimator)


def _of_columns(estimator: Any) -> Any:
    words = compose.make_column_transformer(
        (preprocessing.OneHotEncoder(handle_unknown="ignore"), [0, 1]),
        (preprocessing.StandardScaler(), [2, 3]),
    )
    return pipeline.make_pipeline(words, estimator)


def _committee() -> list[tuple[str, Any]]:
    return [
        ("line", linear_model.LogisticRegression(max_iter=1000)),
        ("tree", tree.DecisionTreeClassifier(max_depth=4, random_state=0)),
        ("bayes", naive_bayes.GaussianNB()),
    ]


CASES: dict[str, Case] = {
    # linear ones
    "LogisticRegression": Case(_scaled(linear_model.LogisticRegression()), "iris"),
    "LogisticRegression of names": Case(_scaled(linear_model.LogisticRegression()), "names"),
    "LogisticRegression, binary, no ZipMap": Case(_scaled(linear_model.LogisticRegression()), "cancer", options=_PLAIN),
    "LogisticRegression, opset 9": Case(_scaled(linear_model.LogisticRegression()), "iris", 9, 1),
    "LinearRegression": Case(linear_model.LinearRegression(), "diabetes"),
    "Ridge of polynomials": Case(_scaled(linear_model.Ridge(), preprocessing.PolynomialFeatures(2)), "diabetes"),
    "Lasso, opset 13": Case(linear_model.Lasso(0.1), "diabetes", 13, 2),
    "SGDClassifier": Case(_scaled(linear_model.SGDClassifier(loss="log_loss", random_state=0)), "wine"),
    "Perceptron": Case(_scaled(linear_model.Perceptron(random_state=0)), "names"),
    "LinearSVC": Case(_scaled(svm.LinearSVC(random_state=0)), "wine", options={}),
    "LinearDiscriminantAnalysis": Case(discriminant_analysis.LinearDiscriminantAnalysis(), "wine"),
    # support vectors
    "SVC with probabilities": Case(_scaled(svm.SVC(probability=True, random_state=0)), "iris"),
    "SVC, binary, of scores": Case(_scaled(svm.SVC(kernel="poly")), "cancer", options=_PLAIN),
    "NuSVC of names": Case(_scaled(svm.NuSVC(probability=True, kernel="sigmoid", nu=0.2, random_state=0)), "names"),
    "SVR": Case(_scaled(svm.SVR()), "diabetes"),
    "NuSVR, linear": Case(_scaled(svm.NuSVR(kernel="linear")), "diabetes", 15, 1),
    "OneClassSVM": Case(_scaled(svm.OneClassSVM()), "iris"),
    # trees
    "DecisionTreeClassifier": Case(tree.DecisionTreeClassifier(random_state=0), "iris"),
    "DecisionTreeRegressor": Case(tree.DecisionTreeRegressor(max_depth=6, random_state=0), "diabetes"),
    "RandomForestClassifier": Case(ensemble.RandomForestClassifier(20, random_state=0), "digits"),
    "RandomForestClassifier of names, opset 11": Case(ensemble.RandomForestClassifier(10, random_state=0), "names", 11,
                                                      1),
    "RandomForestClassifier, binary": Case(ensemble.RandomForestClassifier(20, random_state=0), "cancer",
                                           options=_PLAIN),
    "RandomForestRegressor": Case(ensemble.RandomForestRegressor(20, random_state=0), "diabetes"),
    "ExtraTreesClassifier": Case(ensemble.ExtraTreesClassifier(20, random_state=0), "wine", options=_COLUMNS),
    "ExtraTreesRegressor": Case(ensemble.ExtraTreesRegressor(20, random_state=0), "diabetes", 17, 2),
    "GradientBoostingClassifier": Case(ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0), "wine"),
    "GradientBoostingClassifier, binary": Case(ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0),
                                               "cancer"),
    "GradientBoostingRegressor": Case(ensemble.GradientBoostingRegressor(n_estimators=20, random_state=0), "diabetes"),
    "HistGradientBoostingClassifier": Case(ensemble.HistGradientBoostingClassifier(max_iter=20), "gaps"),
    "HistGradientBoostingRegressor": Case(ensemble.HistGradientBoostingRegressor(max_iter=20), "diabetes"),
    "AdaBoostClassifier": Case(ensemble.AdaBoostClassifier(n_estimators=10, random_state=0), "iris"),
    "AdaBoostRegressor": Case(ensemble.AdaBoostRegressor(n_estimators=10, random_state=0), "diabetes"),
    "BaggingClassifier": Case(ensemble.BaggingClassifier(n_estimators=5, random_state=0), "iris"),
    "IsolationForest": Case(ensemble.IsolationForest(n_estimators=10, random_state=0), "iris"),
    "LGBMClassifier": Case(LGBMClassifier(n_estimators=10, verbose=-1), "wine", 15),
    "LGBMClassifier, binary, no ZipMap": Case(LGBMClassifier(n_estimators=10, verbose=-1), "cancer", 15,
                                              options=_PLAIN),
    "LGBMRegressor": Case(LGBMRegressor(n_estimators=10, verbose=-1), "diabetes", 15),
    "XGBClassifier": Case(XGBClassifier(n_estimators=10, n_jobs=1), "wine", 15),
    "XGBClassifier, binary": Case(XGBClassifier(n_estimators=10, n_jobs=1), "cancer", 15),
    "XGBRegressor": Case(XGBRegressor(n_estimators=10, n_jobs=1), "diabetes", 15),
    # others
    "KNeighborsClassifier": Case(neighbors.KNeighborsClassifier(), "iris"),
    "KNeighborsRegressor": Case(neighbors.KNeighborsRegressor(weights="distance"), "diabetes"),
    "GaussianNB": Case(naive_bayes.GaussianNB(), "wine"),
    "MultinomialNB": Case(naive_bayes.MultinomialNB(), "counts"),
    "BernoulliNB": Case(naive_bayes.BernoulliNB(binarize=8.0), "digits"),
    "MLPClassifier": Case(_scaled(neural_network.MLPClassifier((16,), max_iter=50, random_state=0)), "digits"),
    "MLPRegressor": Case(
        _scaled(neural_network.MLPRegressor(hidden_layer_sizes=(16,), max_iter=50, random_state=0)), "diabetes"),
    "GaussianProcessRegressor": Case(gaussian_process.GaussianProcessRegressor(alpha=1.0), "diabetes"),
    "VotingClassifier": Case(ensemble.VotingClassifier(_committee(), voting="soft", flatten_transform=False), "iris"),
    "VotingRegressor": Case(ensemble.VotingRegressor(
        [("line", linear_model.Ridge()), ("tree", tree.DecisionTreeRegressor(max_depth=3))]), "diabetes"),
    "StackingClassifier": Case(ensemble.StackingClassifier(_committee()), "iris"),
    "CalibratedClassifierCV": Case(
        CalibratedClassifierCV(tree.DecisionTreeClassifier(max_depth=3, random_state=0)), "iris"),
    "KMeans": Case(cluster.KMeans(3, n_init=1, random_state=0), "iris"),
    # features
    "PCA": Case(_scaled(decomposition.PCA(3)), "wine"),
    "TruncatedSVD": Case(decomposition.TruncatedSVD(5, random_state=0), "digits"),
    "MinMaxScaler, RobustScaler and MaxAbsScaler": Case(pipeline.make_pipeline(
        preprocessing.MinMaxScaler(), preprocessing.RobustScaler(), preprocessing.MaxAbsScaler(), linear_model.Ridge()),
        "diabetes"),
    "Normalizer and Binarizer": Case(pipeline.make_pipeline(
        preprocessing.Normalizer(), preprocessing.Binarizer(threshold=0.1), naive_bayes.BernoulliNB()), "digits"),
    "SimpleImputer": Case(_scaled(linear_model.LogisticRegression(), impute.SimpleImputer(strategy="median")), "gaps"),
    "KBinsDiscretizer": Case(pipeline.make_pipeline(
        preprocessing.KBinsDiscretizer(4, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
        linear_model.LogisticRegression()), "iris"),
    "SelectKBest": Case(_scaled(linear_model.LogisticRegression(), SelectKBest(k=4)), "cancer"),
    "OrdinalEncoder of words": Case(pipeline.make_pipeline(
        preprocessing.OrdinalEncoder(), tree.DecisionTreeClassifier(random_state=0)), "categories"),
    "OneHotEncoder of words": Case(pipeline.make_pipeline(
        preprocessing.OneHotEncoder(), linear_model.LogisticRegression()), "categories"),
    "ColumnTransformer of words and numbers": Case(_of_columns(linear_model.LogisticRegression()), "words"),
    "ColumnTransformer before a forest": Case(_of_columns(ensemble.RandomForestClassifier(10, random_state=0)), "words",
                                              15, 2),
    "TfidfVectorizer": Case(pipeline.make_pipeline(
        TfidfVectorizer(), linear_model.LogisticRegression()), "texts", options=_LOCALE, step=0),
    "CountVectorizer of pairs": Case(pipeline.make_pipeline(
        CountVectorizer(ngram_range=(1, 2)), naive_bayes.MultinomialNB()), "texts", options=_LOCALE, step=0),
}  # fmt: skip
