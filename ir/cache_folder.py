"""Where planish keeps what later runs can use: compiled kernels, and what builds have made."""

import os
from pathlib import Path

import platformdirs

from .errors import UsageError

VARIABLE = "PLANISH_CACHE"
"""The environment variable of the caches' folder, in place of the system's folder for its user."""


def cache_folder(name: str) -> Path:
    """Return the folder of a cache, made where there is none yet.

    Raises:
        UsageError: it can't be made.
    """
    root = Path(os.environ.get(VARIABLE) or platformdirs.user_cache_path("planish"))
    folder = root / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the cache {root} can't be made: {error}; name another folder in {VARIABLE}") from error
    return folder
