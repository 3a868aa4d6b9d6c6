"""A convolution as two: the first one's kernel has some spatial axes, and the second one's has the others.

With all axes in the first kernel it is the decomposition of Zhang et al., "Accelerating Very Deep Convolutional
Networks for Classification and Detection", PAMI 2016; with one of two axes in each that of Jaderberg et al., "Speeding
up Convolutional Neural Networks with Low Rank Expansions", BMVC 2014; with none the first convolution is a 1x1 one. A
linear layer has no axes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ...ir.analysis.cost import elements
from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node
from ...ir.numerics import flushed
from ...ir.types import TensorType
from ...ir.unused import drop_unused
from .matrix import WINDOW, kernel_of

_PADS, _AUTO_PAD = "pads", "auto_pad"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How the weight of a layer lies as the matrix that is decomposed.

    Attributes:
        sizes: channels, the kernel's sizes, and outputs.
        axes: the spatial axes of the first kernel, in order; the matrix has a row for each of its inputs, and a column
            for each output of each place in the second kernel.
    """

    sizes: tuple[int, ...]
    axes: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, matrix: np.ndarray, axes: tuple[int, ...]) -> "Arrangement":
        """The arrangement of a layer's weight, `[K, N]`, by the spatial axes of the first kernel."""
        rows, columns = matrix.shape
        kernel = kernel_of(node)
        return cls((rows // int(np.prod(kernel, initial=1)), *kernel, columns), axes)

    @property
    def places(self) -> int:
        """How many places the second kernel has."""
        return int(np.prod([self.sizes[axis + 1] for axis in self._others], initial=1))

    def arranged(self, matrix: np.ndarray) -> np.ndarray:
        """The weight, `[K, N]`, as the matrix that is decomposed."""
        lying = matrix.reshape(self.sizes).transpose(self._order)
        return lying.reshape(len(matrix) // self.places, -1)

    def restored(self, matrix: np.ndarray) -> np.ndarray:
        """The weight, `[K, N]`, from the matrix that is decomposed."""
        lying = matrix.reshape([self.sizes[axis] for axis in self._order])
        return lying.transpose(np.argsort(self._order)).reshape(-1, self.sizes[-1])

    def moment(self, moment: np.ndarray) -> np.ndarray:
        """The moment of all inputs, or its diagonal, with those of one place in the second kernel side by side."""
        order = np.arange(len(moment)).reshape(self.sizes[:-1]).transpose(self._order[:-1]).ravel()
        return moment[order] if moment.ndim == 1 else moment[np.ix_(order, order)]

    def shared(self, moment: np.ndarray) -> np.ndarray:
        """The sum over places of the moments of what the first kernel reads, from an arranged moment."""
        if moment.ndim == 1:
            return moment.reshape(-1, self.places).sum(axis=1)
        rows = len(moment) // self.places
        return np.einsum("apbp->ab", moment.reshape(rows, self.places, rows, self.places))

    def kernels(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weights of two convolutions from two matrices whose product is the arranged one."""
        rank, kernel = len(second), self.sizes[1:-1]
        inner = [size if axis in self.axes else 1 for axis, size in enumerate(kernel)]
        outer = [1 if axis in self.axes else size for axis, size in enumerate(kernel)]
        wide = np.moveaxis(second.reshape(rank, *outer, self.sizes[-1]), -1, 0)
        return first.T.reshape(rank, self.sizes[0], *inner), wide

    def windows(self, attributes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the two convolutions do to their windows, without what is the default, from what one does."""
        rank = len(self.sizes) - 2
        return _window(attributes, self.axes, rank), _window(attributes, self._others, rank)

    @property
    def _others(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.sizes) - 2) if axis not in self.axes)

    @property
    def _order(self) -> tuple[int, ...]:
        return (0, *(axis + 1 for axis in (*self.axes, *self._others)), len(self.sizes) - 1)


def choices_of_axes(node: Node) -> Iterator[tuple[int, ...]]:
    """The spatial axes that the first kernel may have, all of them first; it has those along which there is one tap."""
    kernel = kernel_of(node)
    wide = [axis for axis, size in enumerate(kernel) if size > 1]
    for count in range(len(wide), -1, -1):
        for chosen in combinations(wide, count):
            yield tuple(axis for axis, size in enumerate(kernel) if size == 1 or axis in chosen)


def split_convolution(
    graph: Graph, node: Node, first: np.ndarray, second: np.ndarray, arrangement: Arrangement
) -> None:
    """Put a convolution of the first matrix in front of one, and give that the second.

    The node keeps its bias and its activation, and of what it does to its window that along the axes of its kernel.

    Args:
        graph: edited in place.
        node: a convolution that `read_matrix` reads.
        first: the first matrix, shape [inputs, rank].
        second: the second matrix, shape [rank, outputs].
        arrangement: how their product lies.
    """
    x, old = node.inputs[:2]
    assert x is not None
    assert isinstance(old, Constant)
    op = Builder(graph, before=node, location=node.location)
    inner, outer = (
        op.constant(np.ascontiguousarray(flushed(kernel, old.data.dtype)), f"{old.name}_{part}")
        for kernel, part in zip(arrangement.kernels(first, second), ("in", "out"), strict=True)
    )
    before, behind = arrangement.windows(node.attributes)
    graph.set_input(node, 0, op.Conv(x, inner, **before))
    graph.set_input(node, 1, outer)
    node.attributes = {name: it for name, it in node.attributes.items() if name not in WINDOW} | behind
    drop_unused(graph, [old])


def spread(node: Node, axes: Sequence[int], sizes: Mapping[str, int]) -> float:
    """How many times as many places the first convolution has as the second one, which has the strides of its axes.

    Once, where the rank of the images isn't known.
    """
    counts: list[int] = []
    for value in (node.operand(0), node.output):
        if not value.type.is_ranked:
            return 1.0
        dims = value.shape[2:]
        others = tuple(dim for axis, dim in enumerate(dims) if axis not in axes)
        counts.append(elements(TensorType(value.dtype, others), sizes))
    read, computed = counts
    return max(1.0, read / max(computed, 1))


def _window(attributes: Mapping[str, Any], axes: Sequence[int], rank: int) -> dict[str, Any]:
    """What a convolution with some of the spatial axes does to its window, as far as it isn't the default."""
    found: dict[str, Any] = {}
    for name in (name for name in WINDOW if name in attributes):
        if name == _AUTO_PAD:
            found |= {name: attributes[name]} if axes else {}
            continue
        default, given = (0 if name == _PADS else 1), attributes[name]
        kept = tuple(one if place % rank in axes else default for place, one in enumerate(given))
        found |= {name: kept} if set(kept) != {default} else {}
    return found
