"""What tests of all parts share: packages that add something to planish."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from planish.ir.plugins import plugins

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package `others` 1.0 on the path: the entry points of its metadata, and the text of its one module."""
    folder = tmp_path / "site"
    metadata = folder / "others-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(folder)

    def install(entry_points: str, module: str = "") -> None:
        (metadata / "entry_points.txt").write_text(entry_points)
        (folder / "others.py").write_text(module)
        plugins.cache_clear()
        sys.modules.pop("others", None)

    yield install
    plugins.cache_clear()
    sys.modules.pop("others", None)
