"""Guards: sizes that must not be 0 when the model runs.

TVM's kernels leave garbage where they should reduce, multiply or slide over nothing, or read beyond the end. Some sizes
are known before the model runs, from the sizes of its inputs; the others depend on data, and the model returns them in
a row beside its outputs.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import Dim, evaluate, is_dim, symbols
from ...ir.errors import ModelError
from ...ir.files import writing
from ...ir.traits import Trait, has_trait

if TYPE_CHECKING:
    from ...ir.graph import Graph, Node, Value

FILE = "guards.json"

_RIGHT = {
    *("Concat", "ConstantOfShape", "Expand", "Flatten", "Identity", "NonMaxSuppression", "NonZero", "Range"),
    *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "ScatterElements", "ScatterND", "Shape"),
    *("Size", "Split", "Squeeze", "Unsqueeze"),
}
"""Operators that are right about empty tensors, whatever size is 0."""


@dataclass(frozen=True, slots=True)
class Guards:
    """The guarded sizes of a model, each with its user, as `layer: Operator`.

    Attributes:
        early: sizes over symbols of the inputs' shapes.
        late: sizes over symbols that depend on data, in the order in which the model returns them.
        places: for inputs that are read as places along an axis, by name, the axis's size and what reads there.
    """

    early: Mapping[str, str]
    late: Mapping[str, str]
    places: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @classmethod
    def read(cls, directory: Path) -> "Guards":
        """Read the guards in an artifact's folder.

        Raises:
            ModelError: the file can't be read, or holds something else.
        """
        path = directory / FILE
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            words = [word for row in (found.early, found.late) for pair in row.items() for word in pair]
            words += [word for pair in found.places.values() for word in pair]
            dims = [*found.early, *(dim for dim, _ in found.places.values())]
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{path} can't be read: {error}") from error
        if not all(isinstance(word, str) for word in words) or not all(map(is_dim, dims)):
            raise ModelError(f"{path} is damaged: it holds something other than sizes and what needs them")
        return found

    def write(self, directory: Path) -> Path:
        path = directory / FILE
        with writing(path):
            path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path

    def check_inputs(self, sizes: Mapping[str, int]) -> None:
        """Hold the sizes of the inputs' symbols to the early guards.

        Raises:
            ModelError: a tensor would be empty that must not be, naming the layer.
        """
        for dim, user in self.early.items():
            if evaluate(dim, sizes) == 0:
                raise _refusal(dim, user)

    def check_places(self, feeds: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> None:
        """Hold the inputs that are places to the sizes of what is read there.

        Raises:
            ModelError: there is no such place, naming the layer.
        """
        for name, (dim, user) in self.places.items():
            places, size = feeds[name], evaluate(dim, sizes)
            if not places.size:
                continue
            for extreme in (np.maximum, np.minimum):  # the methods of arrays take twice as long
                if not -size <= (place := extreme.reduce(places, None)) < size:
                    raise ModelError(f"input {name!r}: {user} finds no place {place} among {size}")

    def check_results(self, sizes: np.ndarray) -> None:
        """Hold the sizes that the model returned to the late guards.

        Raises:
            ModelError: a tensor was empty that must not be, naming the layer.
        """
        for size, (dim, user) in zip(sizes, self.late.items(), strict=True):
            if size == 0:
                raise _refusal(dim, user)


_TOLD = frozenset({"Reshape", "Slice", "Squeeze"})
"""Operators whose further inputs are sizes, axes or bounds."""


def guarded(node: "Node", inputs: Iterable["Value"]) -> list[str]:
    """Return the sizes of a node that must not be 0: where one is 0, its outputs wouldn't be empty, too."""
    if has_computed_bounds(node):
        return []
    if node.operator in _RIGHT or has_trait(node.operator, Trait.BROADCASTING):
        return _fitting(node)
    dims = dict.fromkeys(dim for value in inputs for dim in value.shape if isinstance(dim, str))
    found = [dim for dim in dims if not all(_vanishes(output.shape, dim) for output in node.outputs)]
    return [*found, *(_bounded(node) if node.operator == "Slice" else _fitting(node))]


def read_places(graph: "Graph", name: Callable[["Node"], str]) -> dict[str, tuple[str, str]]:
    """Return the inputs that are read as places along an axis, with its size and what reads there.

    Args:
        graph: the graph that is lowered.
        name: what the user calls a node's operator.
    """
    given = frozenset[str]().union(*(value.type.symbols for value in graph.inputs))
    found: dict[str, tuple[str, str]] = {}
    for node in graph.nodes:
        x, value = node.input(0), node.input(1)
        if not has_trait(node.operator, Trait.INDEXING) or x is None or value is None:
            continue
        while (maker := value.producer) is not None and _keeps_numbers(maker) and maker.inputs[0] is not None:
            value = maker.inputs[0]
        dim = x.shape[node.attributes.get("axis", 0)]
        if value in graph.inputs and value.dtype.is_integer and symbols(dim) <= given:
            found.setdefault(value.name, (str(dim), f"{node.location}: {name(node)}"))
    return found


_KEEPING = frozenset({"Cast", "Expand", "Identity", "Transpose"})
"""Operators that keep all numbers, beside those that reshape."""


def _keeps_numbers(node: "Node") -> bool:
    return node.operator in _KEEPING or has_trait(node.operator, Trait.RESHAPING)


def has_computed_bounds(node: "Node") -> bool:
    """Whether a node's sizes, axes or bounds are compared with the shapes when the model runs.

    That is so where either are known only then.
    """
    from ...ir.infer import contents  # brings torch, which an artifact runs without
    from ...ir.unknown import is_from_data

    if node.operator not in _TOLD:
        return False
    is_known = all(value is None or contents(value) is not None for value in node.inputs[1:])
    if node.operator != "Slice" or node.inputs[0] is None:
        return not is_known
    return not is_known or any(map(is_from_data, node.output.type.symbols - node.inputs[0].type.symbols))


def _fitting(node: "Node") -> list[str]:
    """Return sizes that are 0 unless shapes fit each other: where they don't, kernels would read beyond the end."""
    shapes: list[Sequence[Dim]] = [() if value is None else value.shape for value in node.inputs]
    x, *rest = shapes
    if node.operator == "TopK":
        size, count = x[node.attributes.get("axis", -1)], node.constant(1)
        least = 0 if count is None else int(count.flat[0])
        return [f"Max({size} - {least - 1}, 0)"] if isinstance(size, str) and least > 1 else []
    if node.operator in ("Reshape", "Squeeze"):
        return _unequal(x, node.output.shape)
    if node.operator == "ScatterElements":
        pairs = zip(*rest, strict=True)
    elif node.operator == "ScatterND" and isinstance(depth := rest[0][-1], int):
        pairs = zip((*rest[0][:-1], *x[depth:]), rest[1], strict=True)
    else:
        return []
    return [fault for one, other in pairs for fault in _unequal([one], [other])]


def _unequal(one: Sequence[Dim], other: Sequence[Dim]) -> list[str]:
    """Return a size that is 0 unless two shapes have as many elements; none where they do at a few sizes."""
    alone = Counter(one) - Counter(other), Counter(other) - Counter(one)
    names = sorted(frozenset().union(*(symbols(dim) for dims in alone for dim in dims)))
    rows = [{name: 2 + (step + 3 * place) % 11 for place, name in enumerate(names)} for step in range(11)]
    counts = [[prod(evaluate(dim, row) for dim in dims.elements()) for dims in alone] for row in rows]
    if all(a == b for a, b in counts):
        return []
    a, b = ("*".join(f"({dim})" for dim in dims.elements()) or "1" for dims in alone)
    fault = f"Max(1 - ({a} - {b})**2, 0)"
    return [fault] if is_dim(fault) else []  # there is an end to what a dimension may be


def _bounded(node: "Node") -> list[str]:
    """Return sizes that must not be 0, so that a slice's bounds lie inside of the axis where its type takes them to."""
    from ...ir.ops.slice import SURE  # brings torch, too

    rows = [node.constant(index) for index in range(1, 4)]
    x, (starts, ends, axes) = node.inputs[0], (row if row is None else row.reshape(-1) for row in rows)
    if x is None or starts is None or ends is None:
        return []
    found: list[str] = []
    for index, bounds in enumerate(zip(starts, ends, strict=True)):
        size = x.shape[index if axes is None else int(axes[index])]
        least = max((abs(int(bound)) for bound in bounds if abs(int(bound)) <= SURE), default=0)
        if isinstance(size, str) and least > 1:
            found.append(f"Max({size} - {least - 1}, 0)")
    return found


def _vanishes(shape: Sequence[Dim], dim: str) -> bool:
    """Whether a shape has no elements when a dimension is 0."""
    if dim in shape:
        return True
    if not dim.isidentifier():
        return False
    sizes = dict.fromkeys(frozenset().union(*map(symbols, shape)), 7) | {dim: 0}
    try:
        return any(evaluate(other, sizes) == 0 for other in shape)
    except ArithmeticError:
        return False


def _refusal(dim: str, user: str) -> ModelError:
    if dim.startswith("Max(1 - "):
        return ModelError(f"{user} gets tensors that don't fit, for {dim} is 0")
    if dim.startswith("Max("):
        return ModelError(f"{user} gets a tensor that is smaller than its bounds, for {dim} is 0")
    return ModelError(f"{user} gets an empty tensor, of size {dim} = 0, which TVM's kernels don't allow for")
