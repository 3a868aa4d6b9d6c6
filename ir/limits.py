"""How much a graph may ask for while planish runs it: what is more is a mistake, or a file made to do harm."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod

from .dims import evaluate
from .errors import ModelError
from .types import TensorType

MOST_STEPS = 100_000
"""The most steps of a loop, and the most parts of a sequence."""

MOST_BYTES = 4 << 30
"""The most bytes of one tensor that a graph is given or computes; its weights may be larger."""

MOST_DRAWN = 1 << 27
"""The most numbers that are made up for a model's inputs, in all: they are drawn in 8 bytes each, 1 GiB."""

MOST_OPEN_AXES = 8
"""The most symbolic sizes of one tensor: what torch takes to reason about them doubles with each."""

MOST_AXES = 64
"""The most axes of one tensor, as numpy and torch have it."""

MOST_OPERANDS = 4096
"""The most inputs of one node, and the most outputs."""


def size_fault(types: Iterable[TensorType], sizes: Mapping[str, int]) -> str:
    """The first type of which a tensor would be too large, in words; nothing if there is none.

    Args:
        types: the types to check; those that speak of other symbols are left out.
        sizes: the sizes of the symbols.
    """
    for type in types:
        if not type.is_ranked or not type.symbols <= sizes.keys():
            continue
        try:
            taken = prod(evaluate(dim, sizes) for dim in type.shape) * type.dtype.bits // 8
        except (ValueError, ArithmeticError):
            continue
        if taken > MOST_BYTES:
            return f"a {type} would take {taken:,} bytes, more than the {MOST_BYTES:,} that planish runs a model with"
    return ""


def check_types(types: Iterable[TensorType], sizes: Mapping[str, int], where: str) -> None:
    """Refuse tensors that would be too large.

    Raises:
        ModelError: one would; `where` begins the message.
    """
    if fault := size_fault(types, sizes):
        raise ModelError(f"{where}: {fault}")


def check_drawn(shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse to make up inputs that would be too large together.

    Args:
        shapes: the shapes of the inputs, by name.

    Raises:
        ModelError: they would be; the largest one is named.
    """
    counts = {name: prod(shape) for name, shape in shapes.items()}
    if sum(counts.values()) <= MOST_DRAWN:
        return
    largest = max(counts, key=lambda name: counts[name])
    raise ModelError(
        f"input {largest!r} would take {counts[largest]:,} random numbers in the shape {list(shapes[largest])}, and "
        f"planish makes up at most {MOST_DRAWN:,} for all inputs of a model"
    )
