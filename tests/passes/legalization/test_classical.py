from typing import Any

import numpy as np
import pytest

from planish.ir.errors import TargetError

RNG = np.random.default_rng(3)
X = RNG.integers(-2, 3, (6, 4)).astype(np.float32)
DIMS = [("rows", 4)]
ML = "ai.onnx.ml::"


def test_features(spelled_out) -> None:
    spelled_out(f"{ML}ArrayFeatureExtractor", X, np.array([[2, 0]]), dims=[("rows", 4), (1, 2)])
    spelled_out(f"{ML}ArrayFeatureExtractor", X[0], np.array([2, 0]))
    spelled_out(f"{ML}Binarizer", X, dims=DIMS, threshold=0.5)
    spelled_out(f"{ML}Imputer", X, dims=DIMS, imputed_value_floats=(7.0, 8.0, 9.0, 1.0), replaced_value_float=1.0)
    spelled_out(
        f"{ML}Imputer",
        np.where(X == 0, np.nan, X),
        dims=DIMS,
        imputed_value_floats=(7.0,),
        replaced_value_float=float("nan"),
    )
    spelled_out(f"{ML}Imputer", X.astype(np.int64), dims=DIMS, imputed_value_int64s=(7,), replaced_value_int64=1)
    spelled_out(f"{ML}LabelEncoder", X, dims=DIMS, keys_floats=(1.0, -2.0), values_int64s=(5, 6))
    spelled_out(
        f"{ML}LabelEncoder",
        X.astype(np.int64),
        dims=DIMS,
        keys_int64s=(1, -2),
        values_floats=(5.0, 6.5),
        default_float=0.5,
    )
    for norm in ("MAX", "L1", "L2"):
        spelled_out(f"{ML}Normalizer", X, dims=DIMS, norm=norm)
    spelled_out(f"{ML}OneHotEncoder", X.astype(np.int64), dims=DIMS, cats_int64s=(-1, 1, 2))
    spelled_out(f"{ML}Scaler", X, dims=DIMS, offset=(1.0, 2.0, 3.0, 4.0), scale=(0.5,))
    spelled_out(f"{ML}Scaler", X.astype(np.int64), dims=DIMS)
    with pytest.raises(
        TargetError, match="layer: tvm can't run ai.onnx.ml::OneHotEncoder: it fails on what is of none"
    ):
        spelled_out(f"{ML}OneHotEncoder", X.astype(np.int64), dims=DIMS, cats_int64s=tuple(range(-2, 3)), zeros=0)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_linear_models(spelled_out, transform: str) -> None:
    weights = tuple(RNG.standard_normal(12).tolist())
    spelled_out(
        f"{ML}LinearRegressor",
        X,
        dims=DIMS,
        coefficients=weights,
        intercepts=(1.0, 2.0, 3.0),
        targets=3,
        post_transform=transform,
    )
    spelled_out(
        f"{ML}LinearClassifier",
        X,
        outputs=2,
        dims=DIMS,
        coefficients=weights,
        classlabels_ints=(3, 5, 9),
        post_transform=transform,
    )
    spelled_out(
        f"{ML}LinearClassifier",
        X,
        outputs=2,
        dims=DIMS,
        coefficients=weights[:4],
        intercepts=(0.25,),
        classlabels_ints=(3, 5),
        post_transform=transform,
    )


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("is_one_class", [0, 1])
def test_support_vectors(spelled_out, kernel: str, is_one_class: int) -> None:
    weights, vectors = RNG.standard_normal(3).tolist(), RNG.standard_normal(12).tolist()
    spelled_out(
        f"{ML}SVMRegressor",
        X,
        dims=DIMS,
        coefficients=tuple(weights),
        support_vectors=tuple(vectors),
        n_supports=3,
        rho=(0.1,),
        kernel_type=kernel,
        kernel_params=(0.5, 0.25, 2.0),
        one_class=is_one_class,
    )


@pytest.mark.parametrize(("kernel", "count"), [("LINEAR", 2), ("POLY", 3), ("RBF", 4), ("SIGMOID", 2)])
@pytest.mark.parametrize("is_odds", [False, True])
def test_support_vectors_of_classes(spelled_out, kernel: str, count: int, is_odds: bool) -> None:
    """Scores are of each two classes, or probabilities of classes that come from them."""
    counts, pairs = tuple(range(1, count + 1)), count * (count - 1) // 2
    attributes: dict[str, Any] = {
        "classlabels_ints": tuple(range(5, 5 + count)),
        "coefficients": tuple(RNG.standard_normal((count - 1) * sum(counts)).tolist()),
        "support_vectors": tuple(RNG.standard_normal(4 * sum(counts)).tolist()),
        "vectors_per_class": counts,
        "rho": tuple(RNG.standard_normal(pairs).tolist()),
        "kernel_type": kernel,
        "kernel_params": (0.5, 0.25, 2.0),
    }
    if is_odds:
        attributes |= {"prob_a": (-1.5,) * pairs, "prob_b": tuple(RNG.standard_normal(pairs).tolist())}
    spelled_out(f"{ML}SVMClassifier", X, outputs=2, dims=DIMS, **attributes)


@pytest.mark.parametrize("count", [2, 3])
def test_linear_scores_of_classes(spelled_out, count: int) -> None:
    weights = tuple(RNG.standard_normal(4 * count).tolist())
    shared: dict[str, Any] = {"classlabels_ints": tuple(range(3, 3 + count)), "rho": (0.1,)}
    spelled_out(f"{ML}SVMClassifier", X, outputs=2, dims=DIMS, coefficients=weights, **shared)


TREES: dict[str, Any] = {
    "nodes_treeids": (0,) * 5 + (4,) * 3 + (2,),
    "nodes_nodeids": (0, 3, 1, 2, 4, 0, 1, 2, 0),
    "nodes_featureids": (0, 1, 0, 0, 0, 2, 0, 0, 0),
    "nodes_values": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0),
    "nodes_modes": ("BRANCH_LT", "BRANCH_LT", "LEAF", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF", "LEAF"),
    "nodes_truenodeids": (3, 2, 0, 0, 0, 1, 0, 0, 0),
    "nodes_falsenodeids": (1, 4, 0, 0, 0, 2, 0, 0, 0),
    "nodes_missing_value_tracks_true": (1, 0, 0, 0, 0, 0, 0, 0, 0),
}
LEAVES = [(0, 1), (0, 2), (0, 4), (4, 1), (4, 2), (2, 0)]
GAPS = np.where(X == 1, np.nan, X)


def weights(prefix: str, targets: list[int], least: float = -1.0) -> dict[str, Any]:
    """A weight for each of some targets in every leaf."""
    rows = [(*leaf, target) for leaf in LEAVES for target in targets]
    columns = dict(
        zip((f"{prefix}_treeids", f"{prefix}_nodeids", f"{prefix}_ids"), zip(*rows, strict=True), strict=True)
    )
    return {**TREES, **columns, f"{prefix}_weights": tuple(RNG.uniform(least, 0.5, len(rows)).tolist())}


@pytest.mark.parametrize("function", ["SUM", "AVERAGE", "MIN", "MAX"])
def test_trees_of_numbers(spelled_out, function: str) -> None:
    for count, base in ((1, (0.5,)), (2, ()), (2, (1.0, -1.0))):
        attributes = weights("target", list(range(count))) | ({"base_values": base} if base else {})
        spelled_out(
            f"{ML}TreeEnsembleRegressor",
            GAPS,
            dims=DIMS,
            n_targets=count,
            aggregate_function=function,
            post_transform="SOFTMAX",
            **attributes,
        )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_trees_of_classes(spelled_out, transform: str) -> None:
    for targets, labels, base in (
        ([0, 1, 2], (3, 5, 9), (0.5, 0.25, -1.0)),
        ([0, 1, 2], (3, 5, 9), ()),
        ([0], (3, 5), (0.25,)),
        ([0], (3, 5), ()),
        ([1], (3, 5), ()),
        ([0, 1], (3, 5), ()),
    ):
        for least in (0.0, -1.0):
            attributes = weights("class", targets, least) | ({"base_values": base} if base else {})
            spelled_out(
                f"{ML}TreeEnsembleClassifier",
                GAPS,
                outputs=2,
                dims=DIMS,
                classlabels_int64s=labels,
                post_transform=transform,
                **attributes,
            )


def test_trees_that_differ_in_what_they_ask_are_refused(spelled_out) -> None:
    attributes = weights("target", [0]) | {"nodes_modes": ("BRANCH_LT", "BRANCH_EQ", *TREES["nodes_modes"][2:])}
    with pytest.raises(
        TargetError,
        match="layer: tvm can't run ai.onnx.ml::TreeEnsembleRegressor: its nodes ask BRANCH_EQ and BRANCH_LT",
    ):
        spelled_out(f"{ML}TreeEnsembleRegressor", X, dims=DIMS, **attributes)
