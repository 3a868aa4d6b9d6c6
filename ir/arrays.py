"""Arrays in `.npz` files, which may be anybody's: nothing is unpickled, and no more memory taken than was promised."""

import zipfile
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from .errors import ModelError
from .files import RefusedFileError, open_regular
from .types import DType

UNPACKED_BYTES, UNPACKED_TIMES = 1 << 30, 8
"""What a file may unpack to: so many bytes, and so many times its own size."""

EMPTY_ROWS = 1 << 20
"""The most rows of an array whose rows have no elements: the rows take no memory, but every batch of them does."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` by name.

    Raises:
        ModelError: it can't be read, is broken, holds something else than plain arrays, or unpacks to more than it may.
    """
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            _check_size(archive, path)
            found: dict[str, np.ndarray] = {}
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name in found or name == entry.filename:
                    raise ValueError(f"{entry.filename!r} is there twice, or no array")
                with archive.open(entry) as opened:
                    _check_array(entry, opened)
                with archive.open(entry) as opened:
                    found[name] = npy.read_array(opened, allow_pickle=False)
    except RefusedFileError as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    except ModelError:
        raise
    except Exception as error:  # zip, zlib, tokenize and numpy each raise their own
        raise ModelError(f"{path} is not an .npz of plain arrays: {error or type(error).__name__}") from error
    return found


def restored(array: np.ndarray, dtype: DType | None) -> np.ndarray:
    """An array of a type that numpy lacks as such: saved in a file, it becomes one of nameless bytes."""
    is_nameless = array.dtype.type is np.void and not array.dtype.names
    if dtype is not None and dtype.is_foreign and is_nameless and array.itemsize == dtype.numpy.itemsize:
        return array.view(dtype.numpy)
    return array


def _check_size(archive: zipfile.ZipFile, path: Path) -> None:
    size, most = (
        sum(entry.file_size for entry in archive.infolist()),
        UNPACKED_BYTES + UNPACKED_TIMES * path.stat().st_size,
    )
    if size > most:
        raise ModelError(
            f"{path} unpacks to {size:,} bytes, more than {most:,}: "
            "if it is yours, write it with numpy.savez, which packs nothing"
        )


def _check_array(entry: zipfile.ZipInfo, opened: IO[bytes]) -> None:
    """Hold an array's header to the size of its entry, before memory is taken for what it says."""
    version = npy.read_magic(opened)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(opened)
    if dtype.hasobject:
        raise ValueError(f"{entry.filename!r} holds objects, which would be unpickled")
    if any(size < 0 for size in shape) or prod(shape) * dtype.itemsize != entry.file_size - opened.tell():
        raise ValueError(f"{entry.filename!r} is an array of {list(shape)} in {entry.file_size} bytes")
    if shape and not prod(shape) and shape[0] > EMPTY_ROWS:
        raise ValueError(f"{entry.filename!r} has {shape[0]:,} rows without elements; {EMPTY_ROWS:,} are the most")
