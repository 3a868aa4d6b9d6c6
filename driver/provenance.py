"""What an artifact was made by and of, for its manifest: versions, and hashes of the data."""

import hashlib
import platform
import re
from collections.abc import Sequence
from importlib.metadata import requires, version
from typing import Any

import numpy as np

from ..ir.extras import installed_version
from .data import Batch, Feeds

_BACKENDS = {"tvm": ("apache-tvm", "apache-tvm-ffi")}
"""The packages of backends that planish doesn't require."""
_BUILDING = r"extra == .(build|onnxruntime).|^[^;]*$"
"""What lines of planish's requirements are about that building takes: extras, or none."""


def versions(backend: str) -> dict[str, str]:
    """The versions of Python, planish, what building takes, and what a backend needs beside that."""
    required = [line for line in requires("planish") or () if re.search(_BUILDING, line)]
    names = [match.group() for line in required if (match := re.match(r"[\w.-]+", line))]
    found = {"python": platform.python_version(), "planish": version("planish")}
    for name in sorted([*names, *_BACKENDS.get(backend, ())]):
        installed = installed_version(name)
        if installed is not None:  # otherwise the artifact was not made by it: pip was given --no-deps
            found[name] = installed
    return found


def digest(batches: Sequence[Batch] | Sequence[Feeds]) -> str | None:
    """The SHA-256 of batches: of inputs by name, their types, shapes and bytes, and of labels; None without any."""
    if not batches:
        return None
    found = hashlib.sha256()
    for batch in batches:
        feeds, labels = (batch.inputs, batch.labels) if isinstance(batch, Batch) else (batch, None)
        for name, array in sorted(feeds.items()):
            _add(found, name, array)
        if labels is not None:
            _add(found, "labels", labels)
    return found.hexdigest()


def _add(found: Any, name: str, value: Any) -> None:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of several lengths
        array = np.asarray(repr(value))
    text = repr(array.tolist()).encode() if array.dtype == np.object_ else b""
    found.update(f"{name} {array.dtype} {array.shape}".encode())
    found.update(text or np.ascontiguousarray(array).tobytes())
