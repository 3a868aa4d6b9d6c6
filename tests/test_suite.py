"""The suite itself: a test that kills its process or never ends is one failed test, and the run goes on and ends."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import planish

ROOT = Path(planish.__file__).parent
COMMAND = re.compile(r'pip install --no-compile -e "\.\[dev\]" && pytest(?P<options>( -\S+| \w+)*)')
MODULE = """
import ctypes
import os
import time
import pytest

@pytest.mark.parametrize("number", range(8))
def test_before(number):
    pass

def test_planted():
    {fault}

@pytest.mark.parametrize("number", range(8))
def test_after(number):
    pass
"""
FAULTS = {
    "abort": "os.abort()",
    "segmentation fault": "ctypes.string_at(0)",
    "exit": "os._exit(0)",
    "hang": "time.sleep(1000)",
}


def options(file: str) -> list[str]:
    """The options with which a file tells to run the suite."""
    found = COMMAND.search((ROOT / file).read_text(encoding="utf-8"))
    assert found is not None, file
    return found["options"].split()


def run(folder: Path, faults: list[str], *further: str) -> subprocess.CompletedProcess[str]:
    """Run the suite's command on a folder with one file for each fault."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    for number, fault in enumerate(faults):
        (folder / f"test_{number}.py").write_text(MODULE.format(fault=FAULTS[fault]))
    project = ["-c", ROOT / "pyproject.toml", "--rootdir", folder, "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options("README.md"), *project, *further, folder]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def test_the_suite_is_run_in_the_same_way_everywhere() -> None:
    assert options("README.md") == options("CONTRIBUTING.md") == options(".ci/run") != []


@pytest.mark.wide
def test_a_test_that_kills_its_process_or_never_ends_fails_by_name_and_the_others_are_run(tmp_path: Path) -> None:
    ran = run(tmp_path, list(FAULTS), "-o", "faulthandler_timeout=2")
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stderr
    for number in range(len(FAULTS)):
        assert re.search(rf"worker 'gw\d+' crashed while running 'test_{number}.py::test_planted'", ran.stdout)
    assert f"{len(FAULTS)} failed, {16 * len(FAULTS)} passed" in ran.stdout
    assert "`pytest -s 'test_0.py::test_planted'` shows what it said last" in ran.stdout
    assert "Timeout" in ran.stderr and "in test_planted" in ran.stderr


@pytest.mark.wide
def test_a_run_ends_where_every_process_dies(tmp_path: Path) -> None:
    ran = run(tmp_path, ["abort"] * 6, "--max-worker-restart=2")
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stderr
    assert "maximum crashed workers reached: 2" in ran.stdout
