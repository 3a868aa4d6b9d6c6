"""The values of batches between two places of a walk through a graph, in files where they are many."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ..ir.graph import Value

if TYPE_CHECKING:  # listing the passes must not import torch
    from ..ir.interpreter import Held

_MOST_BYTES = 1 << 28
"""The bytes that are kept in memory, for all batches together."""


class BatchStorage:
    """The values of each batch between two layers: in memory up to a bound, beyond it in files."""

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


@contextmanager
def batch_storage() -> Generator[BatchStorage]:
    with TemporaryDirectory(prefix="planish-") as folder:
        yield BatchStorage(Path(folder))
