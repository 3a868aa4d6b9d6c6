"""Setuptools, with archives that are the same to the byte wherever and whenever they are built.

Times are those of SOURCE_DATE_EPOCH, or of 1980 without it; what else a machine and its user leave in an archive
(owners, rights, the order of files) is put to one value. What earlier builds left in `build/` stays out.
"""

import gzip
import os
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_EARLIEST = 315_532_800  # that a ZIP file can say: 1980-01-01
_RIGHTS = 0o644


def build_wheel(wheel_directory: str, *arguments: Any, **named: Any) -> str:
    """Build a wheel; returns its name."""
    with _fresh():
        name = build_meta.build_wheel(wheel_directory, *arguments, **named)
    _replaced(Path(wheel_directory, name), _settled_wheel)
    return name


def build_sdist(sdist_directory: str, *arguments: Any, **named: Any) -> str:
    """Build an archive of the sources; returns its name."""
    name = build_meta.build_sdist(sdist_directory, *arguments, **named)
    _replaced(Path(sdist_directory, name), _settled_sdist)
    return name


@contextmanager
def _fresh() -> Iterator[None]:
    """Let setuptools assemble the wheel elsewhere than in `build/`, where files of earlier builds may lie."""
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, "build.cfg")
        configuration.write_text(f"[build]\nbuild_base = {folder}/build\n", encoding="utf-8")
        os.environ["DIST_EXTRA_CONFIG"] = str(configuration)
        try:
            yield
        finally:
            del os.environ["DIST_EXTRA_CONFIG"]


def _time() -> int:
    return max(int(os.environ.get("SOURCE_DATE_EPOCH", _EARLIEST)), _EARLIEST)


def _replaced(path: Path, settle: Callable[[Path, Path], None]) -> None:
    draft = path.with_suffix(".draft")
    settle(path, draft)
    draft.replace(path)


def _settled_wheel(path: Path, draft: Path) -> None:
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(draft, "w") as taken:
        for member in given.infolist():
            settled = zipfile.ZipInfo(member.filename, time.gmtime(_time())[:6])
            settled.external_attr = (0o100000 | _RIGHTS) << 16
            taken.writestr(settled, given.read(member), zipfile.ZIP_DEFLATED)


def _settled_sdist(path: Path, draft: Path) -> None:
    with (
        tarfile.open(path) as given,
        draft.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=_time(), fileobj=raw) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as taken,
    ):
        for member in sorted(given.getmembers(), key=lambda it: it.name):
            settled = tarfile.TarInfo(member.name)
            settled.type, settled.size, settled.mtime = member.type, member.size, _time()
            settled.mode = 0o755 if member.isdir() else _RIGHTS
            taken.addfile(settled, given.extractfile(member))
