"""A walk through a graph with many batches at once, from node to node, in bounded memory."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..ir.drafts import workspace
from ..ir.graph import Graph, Value
from .base import Feeds
from .storage import Storage

if TYPE_CHECKING:  # listing the passes must not import torch
    from ..ir.interpreter import Held


class Walk:
    """A graph, and the values of each batch that are alive at the node that the walk has reached.

    Attributes:
        constants: the graph's constants as the nodes that follow read them.
        interpreter: the interpreter that runs the graph.
    """

    def __init__(self, graph: Graph, batches: Sequence[Feeds], storage: "Storage[Value, Held]") -> None:
        from ..ir.interpreter import Interpreter  # brings torch, which listing the passes must not
        from ..ir.ops.dtypes import to_torch

        self.interpreter = Interpreter(graph)
        self.constants: dict[Value, Held] = {value: to_torch(value.data) for value in graph.constants.values()}
        self._storage = storage
        for number, batch in enumerate(batches):
            storage.put(number, dict(zip(graph.inputs, self.interpreter.arguments(batch), strict=True)))

    def advance(self, number: int, start: int, stop: int) -> "dict[Value, Held]":
        """Run the nodes from `start` to `stop` on a batch; returns all values that are alive after them."""
        values = {**self.constants, **self._storage.take(number)}
        self.interpreter.advance(values, range(start, stop))
        self._storage.put(number, {value: held for value, held in values.items() if value not in self.constants})
        return values


@contextmanager
def walk(graph: Graph, batches: Sequence[Feeds]) -> "Generator[Walk]":
    """Begin a walk with all batches in front of a graph's first node."""
    with workspace() as folder:
        yield Walk(graph, batches, Storage(folder))
