"""A check that each kernel of a model computes what its nodes mean.

The library is built once more with everything that kernels hand to each other among its results, or part by part if
that is much, and run on a random input. Then the interpreter computes the nodes of each kernel from what the library
gave to it, so that no kernel answers for the roundings of those before it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ....ir.errors import CheckError, ModelError
from ....ir.graph import Graph, Node, Value
from ....ir.interpreter import Interpreter
from ....ir.numerics import drift, is_close
from ....ir.ops.dtypes import Tensor, to_numpy, to_torch
from ....ir.types import DType
from ....passes.base import Feeds
from ....passes.probes import make_probes

Run = Callable[[Feeds], Sequence[np.ndarray]]
"""A function from inputs by name to the values that were exposed."""

_MOST = 1 << 30
"""Bytes of values that are checked at once, about."""
_FINE, _COARSE = 1e-4, 0.02
"""The relative errors that kernels may have: in a float32 graph, and in one that rounds to 16 bits or fewer."""


@dataclass(frozen=True, slots=True)
class Part:
    """Kernels that are checked at once.

    Attributes:
        checked: the values that they yield.
        given: the values that they read, yielded by kernels before them.
    """

    checked: tuple[Value, ...]
    given: tuple[Value, ...]

    def expose(self, graph: Graph) -> tuple[Value, ...]:
        """Make a graph return these values instead of its own outputs."""
        values = self.checked + self.given
        graph.outputs.clear()
        graph.outputs.update((f"checked_{index}", value) for index, value in enumerate(values))
        return values


def parts_of(graph: Graph, kernels: Sequence[Sequence[Node]]) -> list[Part]:
    """Return the kernels of a graph, in parts whose values fit into memory together.

    Args:
        graph: the graph as it is before anything is exposed.
        kernels: the nodes of each kernel, in order; the last node of each yields its values.
    """
    parts: list[Part] = []
    before: set[Value] = set()
    checked, given, size = dict[Value, None](), dict[Value, None](), 0
    for nodes in kernels:
        yielded = [value for value in nodes[-1].outputs if value.use_count or graph.is_output(value)]
        checked |= dict.fromkeys(yielded)
        given |= {value: None for node in nodes for value in node.inputs if value in before}
        size += sum(map(_size, yielded))
        if checked and (size > _MOST or nodes is kernels[-1]):
            parts.append(Part(tuple(checked), tuple(given)))
            before |= checked.keys()
            checked, given, size = dict[Value, None](), dict[Value, None](), 0
    return parts


def _size(value: Value) -> int:
    """Return the bytes of a value, about: sizes that aren't known are small in probes."""
    return value.dtype.bits * prod(size for size in value.shape if isinstance(size, int)) // 8


def random_input(graph: Graph) -> Feeds | None:
    """Return a random input for a model, or None if it takes none."""
    try:
        return make_probes(graph, [], held_to_types=True)[0]
    except ModelError:
        return None


def check_kernels(graph: Graph, part: Part, probe: Feeds, run: Run) -> None:
    """Hold what kernels yield to the interpreter.

    Args:
        graph: the graph of the kernels.
        part: the kernels to check.
        probe: an input.
        run: the library, which gives the values of the part.

    Raises:
        CheckError: a kernel is wrong; its layer is named.
    """
    found = dict(zip((*part.checked, *part.given), run(probe), strict=True))
    limit, checked = _COARSE if any(map(_is_coarse, graph.nodes)) else _FINE, set(part.checked)

    def observe(value: Value, expected: Tensor) -> Tensor | None:
        if value not in found:
            return None
        if value in checked:
            _compare(value, to_numpy(expected), found[value], limit)
        return to_torch(found[value])

    Interpreter(graph).run(probe, observe)


def _is_coarse(node: Node) -> bool:
    types = [value.dtype for value in (*node.inputs, *node.outputs) if value is not None]
    return "Quantize" in node.operator or any(dtype.is_float and dtype.bits <= 16 for dtype in types)


def _compare(value: Value, wanted: np.ndarray, got: np.ndarray, limit: float) -> None:
    assert value.producer is not None
    if wanted.shape != got.shape:
        fault = f"the shape {list(got.shape)} instead of {list(wanted.shape)}"
    elif is_close(wanted, got) or (error := drift(*([{"": _numbers(array)}] for array in (wanted, got)))) <= limit:
        return
    else:
        fault = f"numbers that are off by {error:.1e} (relative error)"
    raise CheckError(
        f"{value.producer.location}: TVM's kernel up to {value.producer.operator} gives {fault}, on random inputs; "
        "that is a fault of planish's or TVM's: build for onnxruntime, and report it"
    )


def _numbers(array: np.ndarray) -> np.ndarray:
    """Convert 8-bit codes to the numbers of a grid that they stand for; others stay as they are."""
    return array.astype(np.float32) if DType.of(array.dtype) in (DType.int8, DType.uint8) else array
