"""TVM's runtime, from its small libraries alone: importing the `tvm` package loads the compiler, and takes seconds.

They are those of the installed package, or those that an artifact carries; the package `tvm_ffi` calls them.
"""

import os
import shutil
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import cast

from ....ir.errors import UsageError
from ....ir.extras import is_installed

_LIBRARIES = ("tvm_runtime", "tvm_runtime_extra")  # the second has what sorts
_NOTICES = ("LICENSE", "NOTICE")
_runtime: ModuleType | None = None


def runtime(artifact: Path | None = None) -> ModuleType:
    """Return the package that calls TVM's libraries, after these were loaded, once in a process.

    Args:
        artifact: a folder whose libraries are taken where the package `tvm` isn't installed.

    Raises:
        UsageError: they lie where nothing may be run.
    """
    global _runtime  # noqa: PLW0603 -- a process has one
    if _runtime is None:
        os.environ.setdefault("TVM_BIND_THREADS", "0")  # or the pool ties the thread that calls it to one core for good
        os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "1000")  # 0.3 ms: who spins for long isn't woken at once
        with _without_torch():
            import tvm_ffi
        installed = package()
        folder = artifact if installed is None else installed / "lib"
        assert folder is not None
        check_mount(folder)
        for library in _LIBRARIES:
            tvm_ffi.libinfo.load_lib_ctypes("tvm", library, "RTLD_GLOBAL", extra_lib_paths=[folder])
        _runtime = tvm_ffi
    return _runtime


def missing(artifact: Path) -> str | None:
    """Return None if what runs an artifact is installed or in its folder, otherwise what to install."""
    if package() is None and not carried(artifact):
        return "pip install 'planish[tvm]', or build it with bundle_runtime"
    return None if is_installed("tvm_ffi") else "pip install 'planish[tvm-runtime]'"


def carried(artifact: Path) -> list[Path]:
    """Return the libraries of TVM's that an artifact's folder holds, in order."""
    return [path for library in _LIBRARIES for path in artifact.glob(f"lib{library}.*")]


def bundle(artifact: Path) -> Sequence[Path]:
    """Copy the installed libraries and the terms that they come under into an artifact's folder; return the files."""
    installed = package()
    assert installed is not None
    libraries = carried(installed / "lib")
    assert len(libraries) == len(_LIBRARIES)
    copies = [shutil.copyfile(path, artifact / path.name) for path in libraries]
    return [*copies, *(shutil.copyfile(installed / name, artifact / f"TVM-{name}") for name in _NOTICES)]


def check_mount(path: Path) -> None:
    """Refuse libraries that lie where nothing may be run.

    Raises:
        UsageError: their file system is mounted noexec.
    """
    if hasattr(os, "ST_NOEXEC") and os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise UsageError(
            f"{path} can't be run: its file system is mounted noexec; copy it to another one, "
            "or name a folder of another one in TMPDIR"
        )


def package() -> Path | None:
    """Return the folder of the package `tvm`; None if it isn't installed, though a folder may have its name."""
    found = find_spec("tvm") if is_installed("tvm") else None
    return None if found is None else Path(str(found.origin)).parent


@contextmanager
def _without_torch() -> Generator[None]:
    """Hide torch from imports while this lasts.

    `tvm_ffi` imports torch if it is installed, for conversions that nobody here asks for.
    """
    if "torch" in sys.modules or "tvm_ffi" in sys.modules:
        yield
        return
    cast("dict[str, ModuleType | None]", sys.modules)["torch"] = None
    try:
        yield
    finally:
        del sys.modules["torch"]
