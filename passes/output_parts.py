"""Outputs as they are compared: classes along the last axis, and scores apart from other numbers.

Some detectors return boxes and classes as one tensor.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..ir.errors import ModelError
from ..ir.graph import Graph, Node, Value
from ..ir.operators import has_trait
from ..ir.traits import Trait
from .base import Feeds
from .measures import LossKind, class_axis

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_SCORES = ("Sigmoid", "Softmax")
_MARK = 2.0**15
"""What stands for a score while its places are looked for, and 0 for any other number."""
_NUMBERS = LossKind.NUMBERS


class OutputParts:
    """Splits an output of scores and other numbers into two, and moves classes to the last axis.

    Boxes are counted in pixels. Beside them scores vanish in a cosine or a sum of squares of the whole output.

    Args:
        graph: the graph whose outputs are split.
        measures: how each output is compared as a whole, by its name.

    Attributes:
        measures: how each output or part is compared.
        scores: the name of the part that holds scores, for each output that has one.
    """

    def __init__(self, graph: Graph, measures: Mapping[str, LossKind]) -> None:
        numbers = [name for name in graph.outputs if measures.get(name) is _NUMBERS]
        sources = {name: _sources(graph.outputs[name]) for name in numbers}
        scores = _holding_scores(graph) if numbers else set[Value]()
        found = {name: values & scores for name, values in sources.items()}
        self._graph = graph
        self._scores = {name: values for name, values in found.items() if values and values != sources[name]}
        self._sources = {value for name in self._scores for value in sources[name]}
        self._places: dict[tuple[str, tuple[int, ...]], Tensor | None] = {}
        self.scores = {name: f"{name}, scores" for name in self._scores}
        axes = {name: class_axis(value) for name, value in graph.outputs.items() if name in measures}
        self._axes = {name: axis for name, axis in axes.items() if axis != -1}
        whole = {name: kind for name, kind in measures.items() if name in graph.outputs}
        self.measures = {**whole, **dict.fromkeys(self.scores.values(), _NUMBERS)}

    def learn(self, feeds: Feeds, outputs: "Mapping[str, Tensor]") -> None:
        """Find out where scores lie in the outputs on a batch, if outputs of these sizes weren't seen yet."""
        import torch

        from ..ir.interpreter import Interpreter
        from ..ir.ops.dtypes import to_torch

        unknown = [name for name in self._scores if self._key(name, outputs) not in self._places]
        if not unknown:
            return
        scores = {value for values in self._scores.values() for value in values}

        def mark(value: Value, tensor: "Tensor") -> "Tensor | None":
            return torch.full_like(tensor, _MARK * (value in scores)) if value in self._sources else None

        try:
            marked = Interpreter(self._graph).run(feeds, mark)
        except ModelError:  # it chooses boxes by scores, say, and marks leave it none
            marked = {}
        for name in unknown:
            places = to_torch(marked[name]) == _MARK if name in marked else torch.empty(0)
            is_row = places.ndim > 1 and places.shape[1:] == outputs[name].shape[1:] and len(places) > 0
            is_alike = is_row and bool((places == places[:1]).all())
            self._places[self._key(name, outputs)] = places[0] if is_alike else None

    def split(self, outputs: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        """The outputs, or their parts as `[samples, numbers]`; an output stays whole where samples differ in places."""
        found = dict(outputs)
        found.update((name, outputs[name].movedim(axis, -1)) for name, axis in self._axes.items())
        for name, part in self.scores.items():
            places = self._places.get(self._key(name, outputs))
            whole = outputs[name]
            found[part] = whole.new_zeros(0) if places is None else whole[:, places]
            found[name] = whole if places is None else whole[:, ~places]
        return found

    def _key(self, name: str, outputs: "Mapping[str, Tensor]") -> tuple[str, tuple[int, ...]]:
        return name, tuple(outputs[name].shape[1:])


def _moved(node: Node | None) -> Sequence[Value]:
    """The values whose elements a node puts in another order; none where it does anything else."""
    if node is None or not has_trait(node.operator, Trait.MOVING) or node.operator == "Where":
        return ()
    return [value for value in (node.inputs if node.operator == "Concat" else node.inputs[:1]) if value is not None]


def _sources(output: Value) -> set[Value]:
    """The values whose elements an output holds, unchanged, in whatever order."""
    found, left = {output}, [output]
    while left:
        moved = _moved(left.pop().producer)
        left += [value for value in moved if value not in found]
        found.update(moved)
    return {value for value in found if not _moved(value.producer)}


def _holding_scores(graph: Graph) -> set[Value]:
    """The values with numbers from 0 to 1 that say how likely something is, or products of such numbers."""
    found: set[Value] = set()
    for node in graph.nodes:
        is_product = node.operator == "Mul" and all(node.operand(place) in found for place in (0, 1))
        if node.operator in _SCORES or is_product or not found.isdisjoint(_moved(node)):
            found.update(node.outputs)
    return found
