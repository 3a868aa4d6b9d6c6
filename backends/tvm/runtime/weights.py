"""A model's large constants, in a file beside its library.

That way neither the linker nor what loads them has to copy them.
"""

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from io import BufferedReader
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ....ir.errors import ModelError
from ....ir.files import writing
from ....ir.types import DType
from .filters import Packing
from .program import ALIGNMENT, as_tensor

if TYPE_CHECKING:
    from tvm.runtime import Tensor
    from tvm_ffi import Tensor as Loaded

FILE, TABLE = "weights.bin", "weights.json"


@dataclass(frozen=True, slots=True)
class PlainFilters:
    """Filters as they are stored, and the form in which their kernel reads them."""

    filters: np.ndarray
    packing: Packing


@dataclass(frozen=True, slots=True)
class Entry:
    """A constant in the file.

    Attributes:
        dtype: TVM's name of the element type.
        shape: the sizes of the axes.
        offset: the place where the constant begins, in bytes.
        size: the size of the constant, in bytes.
        packing: the form that filters are brought into when they are loaded; None for what is stored as it is read.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    packing: Packing | None = None

    @property
    def loaded(self) -> tuple[int, ...]:
        """The shape of what kernels read."""
        return self.shape if self.packing is None else self.packing.shape(self.shape)

    @property
    def loaded_size(self) -> int:
        """The size of what kernels read, in bytes."""
        return self.size if self.packing is None else prod(self.loaded) * np.float32().nbytes


def write_weights(
    directory: Path, tensors: Sequence["Tensor"], plain: Mapping["Tensor", PlainFilters] = MappingProxyType({})
) -> list[Path]:
    """Write constants into an artifact's folder, equal ones once; return the files.

    Args:
        directory: the artifact's folder.
        tensors: the constants.
        plain: what some of them are packed from, which is written in their place.
    """
    paths = [directory / FILE, directory / TABLE]
    entries: list[Entry] = []
    known: dict[tuple[int, bytes], int] = {}  # the offsets of what is written, by size and digest
    with writing(paths[0]), paths[0].open("wb") as file:
        for tensor in tensors:
            filters = plain.get(tensor)
            stored = np.from_dlpack(octets_of(tensor)) if filters is None else np.ascontiguousarray(filters.filters)
            content = stored.nbytes, sha256(stored.data).digest()
            if content not in known:
                file.write(bytes(-file.tell() % ALIGNMENT))
                known[content] = file.tell()
                file.write(stored.data)
            shape = tensor.shape if filters is None else filters.filters.shape
            packing = None if filters is None else filters.packing
            entries.append(
                Entry(str(tensor.dtype), tuple(map(int, shape)), known[content], stored.nbytes, packing=packing)
            )
    with writing(paths[1]):
        paths[1].write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n", encoding="utf-8")
    return paths


def read_weights(directory: Path) -> list["Loaded"]:
    """Read the constants in an artifact's folder as tensors, in the form in which kernels read them.

    Raises:
        ModelError: the files can't be read, or the table is not one of what is in the file.
    """
    try:
        with (directory / FILE).open("rb") as file:
            held = os.fstat(file.fileno()).st_size
            entries = [_entry(given, held) for given in json.loads((directory / TABLE).read_text(encoding="utf-8"))]
            places: dict[Entry, int] = {}
            end = 0
            for entry in entries:
                if entry not in places:
                    places[entry] = end = -(-end // ALIGNMENT) * ALIGNMENT
                    end += entry.loaded_size
            octets = in_large_pages(end)
            for entry, place in places.items():
                _read(file, entry, octets[place : place + entry.loaded_size])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"{directory / FILE} can't be read: {error}") from error
    loaded = {
        entry: as_tensor(octets[place : place + entry.loaded_size], entry.loaded, entry.dtype)
        for entry, place in places.items()
    }
    return [loaded[entry] for entry in entries]


def _read(file: BufferedReader, entry: Entry, octets: np.ndarray) -> None:
    """Read a constant into memory, in the form in which kernels read it."""
    file.seek(entry.offset)
    if entry.packing is None:
        file.readinto(octets.data)
        return
    plain = np.empty(entry.shape, np.float32)
    file.readinto(plain.data.cast("B"))
    entry.packing.pack(plain, octets.view(np.float32).reshape(entry.loaded))


def _entry(given: Mapping[str, Any], held: int) -> Entry:
    """Return an entry of a table of constants in a file of so many bytes.

    Raises:
        ValueError: there is no such constant in it.
    """
    packing = None if given.get("packing") is None else Packing(**given["packing"])
    entry = replace(Entry(**given), shape=tuple(given["shape"]), packing=packing)
    numbers = (*entry.shape, entry.offset, entry.size, *(() if packing is None else (packing.side, packing.width)))
    if not all(type(number) is int and 0 <= number <= held for number in numbers):
        raise ValueError(f"{TABLE} has a constant that isn't in the file: {entry}"[:300])
    bits = DType[entry.dtype].bits * prod(entry.shape)
    if entry.offset + entry.size > held or entry.size != -(-bits // 8) or (packing and entry.dtype != "float32"):
        raise ValueError(f"{TABLE} has a constant of another size than the file holds: {entry}"[:300])
    return entry


def in_large_pages(size: int) -> np.ndarray:
    """Allocate bytes in large pages, if the system has any: products that stream weights would wait for page walks."""
    if not size:
        return np.empty(0, np.uint8)
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


def octets_of(tensor: "Tensor") -> "Tensor":
    """Return a tensor's memory as a row of bytes: numpy doesn't know all of TVM's element types."""
    return tensor._create_view((tensor.numel() * tensor.dtype.itemsize,), dtype="uint8")
