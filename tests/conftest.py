"""What tests of all parts share: random numbers, and packages that add something to planish."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import pytest

from planish.ir.plugins import plugins

Install = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "random graphs that every pass is held to, as 2000 or 2000:4000 (tests/passes/test_effects.py)"
    parser.addoption("--graphs", metavar="NUMBERS", help=words)


def pytest_configure(config: pytest.Config) -> None:
    """Let nothing come from the user's caches or go out; processes of one run share theirs, and none is tied to a core.

    Torch computes on one thread: several processes would wait for each other's threads most of the time.
    """
    if not hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import ONNX Runtime by themselves
        os.environ.setdefault("TVM_BIND_THREADS", "0")  # for tests that call TVM's kernels by themselves
        os.environ["PLANISH_CACHE"] = tempfile.mkdtemp(prefix="planish-tests-")
        os.environ["PLANISH_CACHE_SIZE"] = "0"  # what tests have broken on purpose must run
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or every process of theirs would compile the package anew


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop("PLANISH_CACHE"))


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport) -> None:
    """Say what became of a test whose process ended: pytest-xdist names the process and the test."""
    reason = "It died, or it was ended because the test took too long"
    report.longrepr = f"{report.longrepr}\n{reason}; `pytest -s '{crashitem}'` shows what it said last."


@pytest.fixture(autouse=True)
def numbers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let each test draw the same numbers from its module's RNG, whatever ran before."""
    with pytest.MonkeyPatch.context() as patch:
        if rng := getattr(request.module, "RNG", None):
            patch.setattr(request.module, "RNG", deepcopy(rng))
        yield


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
