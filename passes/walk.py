"""A walk through a graph with many batches at once, from node to node, in bounded memory."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..ir.graph import Graph, Value
from .base import Feeds

if TYPE_CHECKING:  # listing the passes must not import torch
    from ..ir.interpreter import Held

_MOST_BYTES = 1 << 28
"""The bytes that are kept in memory, for all batches together."""


class Walk:
    """A graph, and what is alive of each batch where the walk has come to.

    Attributes:
        constants: of the graph, as they are from here on.
        interpreter: of the graph.
    """

    def __init__(self, graph: Graph, batches: Sequence[Feeds], storage: "_Storage") -> None:
        from ..ir.interpreter import Interpreter  # brings torch, which listing the passes must not
        from ..ir.ops.dtypes import to_torch

        self.interpreter = Interpreter(graph)
        self.constants: dict[Value, Held] = {value: to_torch(value.data) for value in graph.constants.values()}
        self._storage = storage
        for number, batch in enumerate(batches):
            storage.put(number, dict(zip(graph.inputs, self.interpreter.arguments(batch), strict=True)))

    def advance(self, number: int, start: int, stop: int) -> "dict[Value, Held]":
        """Run the nodes from `start` to `stop` on a batch; returns all that is alive behind them."""
        values = {**self.constants, **self._storage.take(number)}
        self.interpreter.advance(values, range(start, stop))
        self._storage.put(number, {value: held for value, held in values.items() if value not in self.constants})
        return values


@contextmanager
def walk(graph: Graph, batches: Sequence[Feeds]) -> "Generator[Walk]":
    """Stand in front of a graph's first node with all batches."""
    with TemporaryDirectory(prefix="planish-") as folder:
        yield Walk(graph, batches, _Storage(Path(folder)))


class _Storage:
    """The values of each batch between two nodes: in memory up to a bound, beyond it in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[int, dict[Value, Held]] = {}
        self._sizes: dict[int, int] = {}
        self._spilled: dict[int, list[Value]] = {}

    def put(self, number: int, values: "dict[Value, Held]") -> None:
        import torch

        tensors = {value: held for value, held in values.items() if isinstance(held, torch.Tensor)}
        size = sum(tensor.nbytes for tensor in tensors.values())
        if sum(self._sizes.values()) + size <= _MOST_BYTES:
            self._held[number], self._sizes[number] = values, size
            return
        torch.save([tensor.clone() for tensor in tensors.values()], self._folder / str(number))
        self._spilled[number] = list(tensors)
        self._held[number] = {value: held for value, held in values.items() if value not in tensors}

    def take(self, number: int) -> "dict[Value, Held]":
        import torch

        self._sizes.pop(number, None)
        values, spilled = self._held.pop(number), self._spilled.pop(number, [])
        if spilled:
            values.update(zip(spilled, torch.load(self._folder / str(number)), strict=True))
        return values
