"""What a model decides by comparing numbers, and how another run is led to decide the same.

Sorting, selecting, comparing and rounding to whole numbers turn the smallest error into another order, another class,
or other sizes, after which nothing can be compared place by place. So one run's decisions are noted with what was
decided on. Another run is asked the same questions: where its numbers are those of the first but for rounding, it goes
on with the first one's answer. What comes out is continuous in the numbers again, and a wrong model still shows: it
asks something else.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..ir.graph import Constant, Graph, Node, Value, nested_nodes
from ..ir.numerics import Outputs, flattened, is_float, scale_of
from ..ir.operators import has_trait
from ..ir.traits import Trait
from .base import Feeds

if TYPE_CHECKING:
    from torch import Tensor

_CLOSE = 1e-3
"""How far numbers that are decided on may be from those of the first run, relative to the largest of them."""

_FEW = 1024
"""How many numbers of two operands are compared before all are: they tell most that differ apart."""

_Question: TypeAlias = tuple[str, str, int]
"""An operator, its attributes, and which of its outputs is asked for."""


@dataclass(frozen=True, slots=True)
class _Decision:
    """An answer, and the operands that it was decided on."""

    operands: tuple[np.ndarray | None, ...]
    answer: "Tensor"


def decides(node: Node) -> bool:
    """Whether a small error in what a node reads may become a large one; grids of quantization are judged otherwise."""
    reads_floats = any(value is not None and value.dtype.is_float for value in node.inputs)
    if not reads_floats or has_trait(node.operator, Trait.SHAPE_ONLY) or "Quantize" in node.operator:
        return False
    return has_trait(node.operator, Trait.DISCONTINUOUS) or any(not value.dtype.is_float for value in node.outputs)


def decisions(graph: Graph) -> tuple[Node, ...]:
    """The nodes of a graph, and of those inside it, that decide something."""
    return tuple(node for node in nested_nodes(graph) if decides(node))


class _Witness:
    """Sees the numbers of a run, and what is decided on them."""

    def __init__(self, graph: Graph) -> None:
        nodes = decisions(graph)
        self._deciding = {value: (node, index) for node in nodes for index, value in enumerate(node.outputs)}
        self._operands = {value for node in nodes for value in node.inputs}
        self._held: dict[Value, np.ndarray] = {}

    def __call__(self, value: Value, tensor: "Tensor") -> "Tensor | None":
        from ..ir.ops.dtypes import to_numpy  # brings torch, which listing the passes must not

        answer = None
        if value in self._deciding:
            node, index = self._deciding[value]
            question = node.operator, repr(sorted(map(repr, node.attributes.items()))), index
            operands = tuple(None if operand is None else self._known(operand) for operand in node.inputs)
            answer = self.decided(question, _Decision(operands, tensor))
        if value in self._operands:
            self._held[value] = to_numpy(tensor if answer is None else answer)
        return answer

    def _known(self, value: Value) -> np.ndarray | None:
        """What a value holds; None for what is no tensor."""
        return value.data if isinstance(value, Constant) else self._held.get(value)

    def decided(self, question: _Question, decision: _Decision) -> "Tensor | None":
        """The answer to go on with in place of the run's own; None to keep that."""
        raise NotImplementedError


class Record(_Witness):
    """The decisions of one run, in order."""

    def __init__(self, graph: Graph, probe: Feeds) -> None:
        from ..ir.interpreter import Interpreter

        super().__init__(graph)
        self.taken: dict[_Question, list[_Decision]] = {}
        Interpreter(graph).run(probe, self)

    def decided(self, question: _Question, decision: _Decision) -> None:
        self.taken.setdefault(question, []).append(decision)


class Replay(_Witness):
    """Decides as another run did.

    Args:
        graph: the graph that runs.
        record: the decisions of the other run.
        forced: whether operands may differ by more than rounding; decisions then correspond by their order.
    """

    def __init__(self, graph: Graph, record: Record, *, forced: bool = False) -> None:
        super().__init__(graph)
        self._left = {question: list(taken) for question, taken in record.taken.items()}
        self._forced = forced

    def decided(self, question: _Question, decision: _Decision) -> "Tensor | None":
        left = self._left.get(question, [])
        for position, earlier in enumerate(left):
            if _is_alike(earlier, decision) and (self._forced or _is_same(earlier, decision)):
                return left.pop(position).answer
        return None


def replayed(graph: Graph, probe: Feeds, record: Record, *, forced: bool = False) -> Outputs:
    """The outputs of a graph that decides as another run did; see `Replay`."""
    from ..ir.interpreter import Interpreter

    return flattened(Interpreter(graph).run(probe, Replay(graph, record, forced=forced)))


def _is_alike(one: _Decision, other: _Decision) -> bool:
    """Whether two decisions are about numbers of the same shapes and types."""
    if len(one.operands) != len(other.operands) or one.answer.dtype != other.answer.dtype:
        return False
    pairs = zip(one.operands, other.operands, strict=True)
    return all(_kind(first) == _kind(second) for first, second in pairs)


def _kind(array: np.ndarray | None) -> tuple[tuple[int, ...], np.dtype] | None:
    return None if array is None else (array.shape, array.dtype)


def _is_same(one: _Decision, other: _Decision) -> bool:
    """Whether two decisions are about the same numbers, but for rounding and what was NaN in the first."""
    return all(
        first is None or second is None or _is_close(first, second)
        for first, second in zip(one.operands, other.operands, strict=True)
    )


def _is_close(one: np.ndarray, other: np.ndarray) -> bool:
    if not is_float(one):
        return np.array_equal(one, other)
    atol = _CLOSE * scale_of(one)
    few = slice(None, None, max(one.size // _FEW, 1))
    parts = (one.reshape(-1)[few], other.reshape(-1)[few]), (one, other)
    return all(_is_within(b.astype(np.float64), a.astype(np.float64), atol) for a, b in parts)


def _is_within(other: np.ndarray, one: np.ndarray, atol: float) -> bool:
    return np.allclose(np.where(np.isnan(one), one, other), one, 0.0, atol, equal_nan=True)
