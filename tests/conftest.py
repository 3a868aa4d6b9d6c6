"""What tests of all parts share: packages that add something to planish."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from planish.ir.plugins import plugins

Install = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "random graphs that every pass is held to, as 2000 or 2000:4000 (tests/passes/test_effects.py)"
    parser.addoption("--graphs", metavar="NUMBERS", help=words)


@pytest.fixture
def graphs(request: pytest.FixtureRequest) -> range | None:
    """The numbers of the random graphs that were asked for; None for a few."""
    numbers = request.config.getoption("--graphs")
    return range(*map(int, numbers.split(":"))) if numbers else None


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
