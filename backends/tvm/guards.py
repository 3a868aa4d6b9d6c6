"""Sizes that must not be 0: TVM's kernels leave garbage where they should reduce, multiply or slide over nothing, or slice
beyond the end.

Some are known before the model runs, from the sizes of its inputs; of the others, which depend on data, the model returns
a row beside its outputs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import Dim, evaluate, is_dim, symbols
from ...ir.errors import ModelError
from ...ir.files import writing

if TYPE_CHECKING:
    from ...ir.graph import Node, Value

FILE = "guards.json"

ELEMENTWISE = frozenset(
    {
        *("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less"),
        *("LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor"),
    }
)
"""Operators that broadcast all their operands."""

_RIGHT = ELEMENTWISE | {
    *(
        "Compress",
        "Concat",
        "ConstantOfShape",
        "Expand",
        "Flatten",
        "Identity",
        "NonMaxSuppression",
        "NonZero",
        "Range",
    ),
    *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "ScatterElements", "ScatterND", "Shape", "Size"),
    *("Split", "Squeeze", "Unsqueeze"),
}
"""Operators that are right about empty tensors whatever becomes of the size."""


@dataclass(frozen=True, slots=True)
class Guards:
    """Sizes by what needs them, as `layer: Operator`.

    Attributes:
        early: over symbols of the inputs' shapes.
        late: over symbols that depend on data, in the order in which the model returns them.
    """

    early: Mapping[str, str]
    late: Mapping[str, str]

    @classmethod
    def read(cls, directory: Path) -> "Guards":
        """What is in an artifact's folder.

        Raises:
            ModelError: the file can't be read, or holds something else.
        """
        path = directory / FILE
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            words = [word for row in (found.early, found.late) for pair in row.items() for word in pair]
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{path} can't be read: {error}") from error
        if not all(isinstance(word, str) for word in words) or not all(map(is_dim, found.early)):
            raise ModelError(f"{path} is damaged: it holds something other than sizes and what needs them")
        return found

    def write(self, directory: Path) -> Path:
        path = directory / FILE
        with writing(path):
            path.write_text(json.dumps({"early": self.early, "late": self.late}, indent=1) + "\n", encoding="utf-8")
        return path

    def check_inputs(self, sizes: Mapping[str, int]) -> None:
        """Hold the sizes of the inputs' symbols to the early guards.

        Raises:
            ModelError: a tensor would be empty that must not be, naming the layer.
        """
        for dim, user in self.early.items():
            if evaluate(dim, sizes) == 0:
                raise _refusal(dim, user)

    def check_results(self, sizes: np.ndarray) -> None:
        """Hold the sizes that the model returned to the late guards.

        Raises:
            ModelError: a tensor was empty that must not be, naming the layer.
        """
        for size, (dim, user) in zip(sizes, self.late.items(), strict=True):
            if size == 0:
                raise _refusal(dim, user)


def guarded(node: "Node", inputs: Iterable["Value"]) -> list[str]:
    """The sizes that a node needs not to be 0: where they are, its outputs should be something nonetheless."""
    if node.operator in _RIGHT or has_computed_bounds(node):
        return []
    dims = dict.fromkeys(dim for value in inputs for dim in value.shape if isinstance(dim, str))
    found = [dim for dim in dims if not all(_vanishes(output.shape, dim) for output in node.outputs)]
    return [*found, *_bounded(node)] if node.operator == "Slice" else found


def has_computed_bounds(node: "Node") -> bool:
    """Whether it is a slice whose bounds are held to the sizes when the model runs: these or those are known only then."""
    from ...ir.infer import contents  # brings torch, which an artifact runs without
    from ...ir.unknown import is_from_data

    if node.operator != "Slice" or node.inputs[0] is None:
        return False
    is_known = all(value is None or contents(value) is not None for value in node.inputs[1:])
    return not is_known or any(map(is_from_data, node.output.type.symbols - node.inputs[0].type.symbols))


def _bounded(node: "Node") -> list[str]:
    """What a slice needs not to be 0, so that the bounds that its type takes to lie inside of an axis do."""
    from ...ir.ops.slice import SURE  # brings torch, too

    x, (starts, ends, axes) = node.inputs[0], (node.constant(index) for index in range(1, 4))
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
    """Whether a shape has nothing in it when a dimension is 0."""
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
    if dim.startswith("Max("):
        return ModelError(f"{user} gets a tensor that is smaller than its bounds, for {dim} is 0")
    return ModelError(f"{user} gets an empty tensor, of size {dim} = 0, which TVM's kernels don't allow for")
