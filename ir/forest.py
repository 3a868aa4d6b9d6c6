"""Ensembles of trees of `ai.onnx.ml` before version 5: what the attributes of their operators say, as arrays.

A leaf may have a weight for each target there, where those of TreeEnsemble have one in all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAF = "LEAF"
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER", LEAF)
"""The modes of nodes in the order of TreeEnsemble's numbers, which has no leaves among its nodes."""


@dataclass(frozen=True, slots=True)
class Forest:
    """All nodes of all trees in a row; a leaf leads to itself.

    Attributes:
        features: the feature that each node compares, `[node]`, as are the arrays up to `yes`.
        modes: how each node compares, as a position in `MODES`.
        splits: the number that each node compares its feature with.
        missing: whether the answer is yes where the feature is missing.
        no: the node that a false answer leads to.
        yes: the node that a true answer leads to.
        roots: the first node of each tree, `[tree]`.
        table: the sums of the leaves' weights for each target, `[node, target]`.
        held: whether a leaf has a weight for a target, `[node, target]`.
        weights: the leaves' weights in the order of the attribute.
        base: the number that is added for each target, as far as the attributes give one.
    """

    features: np.ndarray
    modes: np.ndarray
    splits: np.ndarray
    missing: np.ndarray
    no: np.ndarray
    yes: np.ndarray
    roots: np.ndarray
    table: np.ndarray
    held: np.ndarray
    weights: np.ndarray
    base: np.ndarray

    @staticmethod
    def of(attributes: Mapping[str, Any], prefix: str, count: int) -> "Forest":
        """The trees of an operator.

        Args:
            attributes: the attributes of the operator's node.
            prefix: the first word in the names of the attributes on weights: `class` or `target`.
            count: the number of targets.

        Raises:
            ValueError: a weight is that of a node that isn't there.
        """
        trees, numbers = (_whole(attributes.get(f"nodes_{name}")) for name in ("treeids", "nodeids"))
        places = _Places(_key(trees, numbers))
        codes = {mode: code for code, mode in enumerate(MODES)}
        modes = np.array([codes[mode] for mode in attributes.get("nodes_modes") or ()], np.int64)
        own, is_leaf = np.arange(len(trees)), modes == codes[LEAF]
        no, yes = (
            np.where(is_leaf, own, places.of(_key(trees, np.where(is_leaf, numbers, turn))))
            for turn in (_whole(attributes.get(f"nodes_{answer}nodeids")) for answer in ("false", "true"))
        )
        owners = (_whole(attributes.get(f"{prefix}_{name}")) for name in ("treeids", "nodeids"))
        at = places.of(_key(*owners)), _whole(attributes.get(f"{prefix}_ids"))
        weights = _row(attributes, f"{prefix}_weights")
        table = np.zeros((len(trees), count), weights.dtype)
        np.add.at(table, at, weights)
        held = np.zeros(table.shape, bool)
        held[at] = True
        missing = attributes.get("nodes_missing_value_tracks_true")
        return Forest(
            features=_whole(attributes.get("nodes_featureids")),
            modes=modes,
            splits=_row(attributes, "nodes_values"),
            missing=np.array(missing, bool) if missing else np.zeros(len(trees), bool),
            no=no,
            yes=yes,
            roots=np.sort(np.unique(trees, return_index=True)[1]),
            table=table,
            held=held,
            weights=weights,
            base=_row(attributes, "base_values"),
        )


class _Places:
    """The positions of keys in a row of keys."""

    def __init__(self, keys: np.ndarray) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def of(self, wanted: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self._sorted, wanted)
        if wanted.size and (not self._sorted.size or (self._sorted[places % len(self._sorted)] != wanted).any()):
            raise ValueError("it speaks of a node that none of its trees has")
        return self._order[places]


def _key(trees: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    return (trees << 32) + numbers


def _whole(numbers: Sequence[int] | None) -> np.ndarray:
    return np.array(numbers or (), np.int64)


def _row(attributes: Mapping[str, Any], name: str) -> np.ndarray:
    """The numbers in an attribute that may be given as a list or as a tensor."""
    tensor = attributes.get(f"{name}_as_tensor")
    return np.array(attributes.get(name) or (), np.float32) if tensor is None else np.ravel(tensor)
