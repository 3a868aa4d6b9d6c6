"""Fragments of graphs: the ONNX standard's own node cases, valid uses of every operator, with data for each."""

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from once import once
from onnx.backend.test.case.test_case import TestCase as Case
from onnx.backend.test.loader import load_model_tests

from planish.frontends.onnx import read_onnx
from planish.ir.errors import ModelError
from planish.ir.graph import Graph
from planish.ir.text import parse_graph, print_graph, weights

RANDOM = ("test_bernoulli*", "test_training_dropout*")
"""No two runs of them are the same."""
_MOST_NODES, _MOST_ELEMENTS = 30, 1 << 14
"""The most nodes of a fragment, and the most elements of all that it is given."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A case as a graph, and what it is given, by the names of its inputs."""

    graph: Graph
    feeds: dict[str, Any]


@cache
def names_by_kind() -> dict[str, tuple[str, ...]]:
    """The names of the cases of each operator; those of functions that are spelt out have kinds of their own."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for name, case in standard_cases().items():
        base, spelt_out, _ = name.partition("_expanded")
        if not any(fnmatchcase(name, pattern) for pattern in RANDOM) and _is_small(case):
            node = standard_cases()[base].model.graph.node[0]
            kinds[f"{node.domain}::{node.op_type}{spelt_out}".removeprefix("::")].append(name)
    return {kind: tuple(names) for kind, names in sorted(kinds.items())}


@cache
def fragment(name: str) -> Fragment | None:
    """A case as a fragment; None where planish doesn't read it."""
    read = once(f"fragment-{name}", partial(_read, name))
    return read and Fragment(parse_graph(*read[:2]), read[2])


def _read(name: str) -> tuple[str, dict[str, np.ndarray], dict[str, Any]] | None:
    """A case's graph as text, its weights and what it is given; reading one may take a process of onnx's."""
    case = standard_cases()[name]
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        file = Path(folder) / "case.onnx"
        onnx.save(case.model, file)
        try:
            graph = read_onnx(file)
        except ModelError:
            return None
    given = zip(case.model.graph.input, case.data_sets[0][0], strict=True)
    return print_graph(graph), weights(graph), {value.name: plain(data) for value, data in given}


@cache
def standard_cases() -> dict[str, Case]:
    """The standard's cases by name; making them takes 10 seconds."""
    return once(f"node-cases-{onnx.__version__}", _made)


def _made() -> dict[str, Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the standard's own generators overflow on purpose
        return {case.name: case for case in load_model_tests(kind="node")}


def _is_small(case: Case) -> bool:
    arrays = _arrays(plain(data) for part in case.data_sets[0] for data in part)
    return len(case.model.graph.node) <= _MOST_NODES and sum(array.size for array in arrays) <= _MOST_ELEMENTS


def _arrays(given: Iterable[Any]) -> list[np.ndarray]:
    held = [item if isinstance(item, list) else [item] for item in given]
    return [array for row in held for array in row if array is not None]


def plain(data: Any) -> Any:
    """Return what the standard holds in protobufs as arrays, and as lists of them."""
    match data:
        case onnx.TensorProto():
            return onnx.numpy_helper.to_array(data)
        case onnx.SequenceProto():
            return onnx.numpy_helper.to_list(data)
        case onnx.OptionalProto():
            return onnx.numpy_helper.to_optional(data)
        case list() | tuple():
            return [plain(item) for item in data]
        case None:
            return None
        case _:
            return np.asarray(data)
