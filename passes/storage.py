"""Tensors by number: in memory up to a bound, and beyond it in files."""

import math
from pathlib import Path
from typing import Generic, TypeVar

from ..ir.files import writing

Key = TypeVar("Key")
Item = TypeVar("Item")

_MOST_BYTES = 1 << 28
"""The bytes that are kept in memory."""


class Storage(Generic[Key, Item]):
    """Dictionaries of tensors by number; other values in them, few and small, always stay in memory.

    Args:
        folder: the folder for the files, with nothing else in it.
        most_on_disk: the bytes that all files together may take up.
    """

    def __init__(self, folder: Path, most_on_disk: float = math.inf) -> None:
        self._folder = folder
        self._most_on_disk = most_on_disk
        self._in_memory = self._on_disk = 0
        self._held: dict[int, dict[Key, Item]] = {}
        self._sizes: dict[int, int] = {}
        self._spilled: dict[int, list[Key]] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._held

    def put(self, number: int, values: dict[Key, Item]) -> None:
        """Keep values under a number that has none, or drop them where there is no room for them.

        Raises:
            UsageError: the disk is full, or nothing may be written there.
        """
        import torch

        tensors = {key: held for key, held in values.items() if isinstance(held, torch.Tensor)}
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._in_memory + size <= _MOST_BYTES:
            self._held[number], self._sizes[number] = values, size
            self._in_memory += size
        elif self._on_disk + size <= self._most_on_disk:
            with writing(self._folder), self._file(number).open("wb") as file:
                torch.save([tensor.clone() for tensor in tensors.values()], file)
            self._spilled[number], self._sizes[number] = list(tensors), size
            self._held[number] = {key: held for key, held in values.items() if key not in tensors}
            self._on_disk += size

    def get(self, number: int) -> dict[Key, Item]:
        """What is kept under a number."""
        import torch

        spilled = self._spilled.get(number, [])
        loaded = torch.load(self._file(number)) if spilled else []
        return {**self._held[number], **dict(zip(spilled, loaded, strict=True))}

    def take(self, number: int) -> dict[Key, Item]:
        """Remove what is kept under a number, and return it."""
        values = self.get(number)
        del self._held[number]
        size = self._sizes.pop(number)
        if self._spilled.pop(number, []):
            self._file(number).unlink()
            self._on_disk -= size
        else:
            self._in_memory -= size
        return values

    def _file(self, number: int) -> Path:
        return self._folder / str(number)
