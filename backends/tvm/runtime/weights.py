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
from .packing import Form, read_form, spelled
from .program import ALIGNMENT, as_tensor

if TYPE_CHECKING:
    from tvm.runtime import Tensor
    from tvm_ffi import Tensor as Loaded

FILE, TABLE = "weights.bin", "weights.json"


@dataclass(frozen=True, slots=True)
class PlainWeights:
    """Weights as they are stored, and the form in which a kernel reads them."""

    array: np.ndarray
    form: Form


@dataclass(frozen=True, slots=True)
class Entry:
    """A constant in the file.

    Attributes:
        dtype: TVM's name of the element type, as it is stored.
        shape: the sizes of the axes, likewise.
        offset: the place where the constant begins, in bytes.
        size: the size of the constant, in bytes.
        form: the form that weights are brought into when they are loaded; None for what is stored as it is read.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    form: Form | None = None

    @property
    def loaded(self) -> tuple[str, tuple[int, ...]]:
        """TVM's name of the element type that kernels read, and the sizes of its axes."""
        return (self.dtype, self.shape) if self.form is None else (self.form.dtype, self.form.shape(self.shape))

    @property
    def loaded_size(self) -> int:
        """The size of what kernels read, in bytes."""
        dtype, shape = self.loaded
        return -(-DType[dtype].bits * prod(shape) // 8)


def write_weights(
    directory: Path, tensors: Sequence["Tensor"], plain: Mapping["Tensor", PlainWeights] = MappingProxyType({})
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
            held = plain.get(tensor)
            stored = np.from_dlpack(octets_of(tensor)) if held is None else np.ascontiguousarray(held.array)
            content = stored.nbytes, sha256(stored.data).digest()
            if content not in known:
                file.write(bytes(-file.tell() % ALIGNMENT))
                known[content] = file.tell()
                file.write(stored.data)
            dtype, shape = (tensor.dtype, tensor.shape) if held is None else (stored.dtype, stored.shape)
            place = known[content], stored.nbytes
            entries.append(Entry(str(dtype), tuple(map(int, shape)), *place, None if held is None else held.form))
    with writing(paths[1]):
        paths[1].write_text(json.dumps([_row(entry) for entry in entries], indent=1) + "\n", encoding="utf-8")
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
    loaded: dict[Entry, Loaded] = {}
    for entry, place in places.items():
        dtype, shape = entry.loaded
        loaded[entry] = as_tensor(octets[place : place + entry.loaded_size], shape, dtype)
    return [loaded[entry] for entry in entries]


def _read(file: BufferedReader, entry: Entry, octets: np.ndarray) -> None:
    """Read a constant into memory, in the form in which kernels read it."""
    file.seek(entry.offset)
    if entry.form is None:
        file.readinto(octets.data)
        return
    plain = np.empty(entry.size, np.uint8)
    file.readinto(plain.data)
    dtype, shape = entry.loaded
    entry.form.pack(plain.view(entry.dtype).reshape(entry.shape), octets.view(dtype).reshape(shape))


def _row(entry: Entry) -> dict[str, Any]:
    row = {**asdict(entry), "form": entry.form and spelled(entry.form)}
    return {key: value for key, value in row.items() if value is not None}


def _entry(given: Mapping[str, Any], held: int) -> Entry:
    """Return an entry of a table of constants in a file of so many bytes.

    Raises:
        ValueError: there is no such constant in it.
    """
    form = read_form(given["form"]) if "form" in given else None
    entry = replace(Entry(**given), shape=tuple(given["shape"]), form=form)
    numbers = (*entry.shape, entry.offset, entry.size)
    if not all(type(number) is int and 0 <= number <= held for number in numbers):
        raise ValueError(f"{TABLE} has a constant that isn't in the file: {entry}"[:300])
    bits = DType[entry.dtype].bits * prod(entry.shape)
    if entry.offset + entry.size > held or entry.size != -(-bits // 8):
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
