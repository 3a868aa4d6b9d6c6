"""Probes for models that encode categories, and fail on values that are none of those they know."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np

from ..ir.errors import ModelError
from ..ir.graph import Graph, Node, Value
from .base import Feeds

_ENCODER = "ai.onnx.ml::OneHotEncoder"
_FIRST_MARK = 10_007
"""The first mark: marks are numbers from this one on, or their digits."""

Column: TypeAlias = tuple[str, int]
"""The name of an input and a place along its last axis."""


def of_categories(graph: Graph, probe: Feeds, generator: np.random.Generator) -> Feeds:
    """A probe in which all that an encoder without a place for unknown values reads is one of its categories.

    Which columns an encoder reads shows when each column is filled with a mark of its own. Encoders are found one after
    the other, since a model ends at the first one that doesn't know the marks.
    """
    encoders = [node for node in graph.nodes if node.operator == _ENCODER and not node.attributes.get("zeros", 1)]
    found: dict[Column, Sequence[str] | Sequence[int]] = {}
    for _ in encoders:
        marks = [column for column in _columns(probe) if column not in found]
        numbers = {column: [_FIRST_MARK + number] for number, column in enumerate(marks)}
        seen = _seen(graph, _filled(probe, {**numbers, **found}, generator), encoders)
        for node, elements in seen.items():
            places = (int(element) - _FIRST_MARK for element in elements if str(element).isdecimal())
            found.update((marks[place], _known(node)) for place in places if 0 <= place < len(marks))
    return _filled(probe, found, generator)


def _columns(probe: Feeds) -> list[Column]:
    return [(name, place) for name, array in probe.items() if array.ndim for place in range(array.shape[-1])]


def _filled(
    probe: Feeds, columns: Mapping[Column, Sequence[str] | Sequence[int]], generator: np.random.Generator
) -> Feeds:
    """A copy of a probe with some columns drawn from what they may hold."""
    filled = {name: array.copy() for name, array in probe.items()}
    for (name, place), known in columns.items():
        array = filled[name]
        chosen = generator.choice(np.array(known, dtype=object), array.shape[:-1])
        array[..., place] = chosen.astype(str) if array.dtype == object else chosen
    return filled


def _seen(graph: Graph, probe: Feeds, encoders: Sequence[Node]) -> dict[Node, set[str] | set[int]]:
    """The elements that each encoder reads, as far as the model runs."""
    from ..ir.interpreter import Interpreter  # brings torch, which listing the passes must not
    from ..ir.ops.dtypes import to_numpy

    given: dict[Value | None, set[str] | set[int]] = {node.inputs[0]: set() for node in encoders}

    def observe(value: Value, tensor: Any) -> None:
        if value in given:
            given[value] = set(to_numpy(tensor).reshape(-1).tolist())

    with suppress(ModelError):
        Interpreter(graph).run(probe, observe)
    return {node: given[node.inputs[0]] for node in encoders}


def _known(node: Node) -> Sequence[str] | Sequence[int]:
    return node.attributes.get("cats_strings") or node.attributes.get("cats_int64s") or ()
