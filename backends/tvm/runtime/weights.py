"""A model's large constants, in a file beside its library.

That way neither the linker nor what loads them has to copy them.
"""

import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....ir.errors import ModelError
from ....ir.files import writing
from ....ir.types import DType
from .program import ALIGNMENT, as_tensor

if TYPE_CHECKING:
    from tvm.runtime import Tensor
    from tvm_ffi import Tensor as Loaded

FILE, TABLE = "weights.bin", "weights.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A constant in the file.

    Attributes:
        dtype: TVM's name of the element type.
        shape: the sizes of the axes.
        offset: the place where the constant begins, in bytes.
        size: the size of the constant, in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


def write_weights(directory: Path, tensors: Sequence["Tensor"]) -> list[Path]:
    """Write constants into an artifact's folder; return the files."""
    paths = [directory / FILE, directory / TABLE]
    entries: list[Entry] = []
    with writing(paths[0]), paths[0].open("wb") as file:
        for tensor in tensors:
            file.write(bytes(-file.tell() % ALIGNMENT))
            offset = file.tell()
            size = file.write(np.from_dlpack(octets_of(tensor)).data)
            entries.append(Entry(str(tensor.dtype), tuple(map(int, tensor.shape)), offset, size))
    with writing(paths[1]):
        paths[1].write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n", encoding="utf-8")
    return paths


def read_weights(directory: Path) -> list["Loaded"]:
    """Read the constants in an artifact's folder as tensors.

    Raises:
        ModelError: the files can't be read, or the table is not one of what is in the file.
    """
    try:
        with (directory / FILE).open("rb") as file:
            held = os.fstat(file.fileno()).st_size
            entries = [_entry(given, held) for given in json.loads((directory / TABLE).read_text(encoding="utf-8"))]
            octets = in_large_pages(max((entry.offset + entry.size for entry in entries), default=0))
            file.readinto(octets.data)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"{directory / FILE} can't be read: {error}") from error
    return [as_tensor(octets[entry.offset : entry.offset + entry.size], entry.shape, entry.dtype) for entry in entries]


def _entry(given: Mapping[str, Any], held: int) -> Entry:
    """Return an entry of a table of constants in a file of so many bytes.

    Raises:
        ValueError: there is no such constant in it.
    """
    entry = Entry(**given)
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
