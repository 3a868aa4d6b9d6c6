"""Builds and artifacts reach no network, and write into the output, the cache and temporary folders alone.

What they ask of the system's kernel shows it.
"""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHANGES = "mkdir|mkdirat|rename|renameat|renameat2|unlink|unlinkat|rmdir|link|linkat|symlink|symlinkat|truncate"
OPENS = "open|openat|creat"
WRITES = re.compile(rf"(?:{OPENS})\(.*O_(?:WRONLY|RDWR|CREAT|TRUNC)|(?:{CHANGES})\(")
NAMED = re.compile(r'(?:<([^>]*)>, )?"([^"]*)"')
SYSTEM = ("/dev/", "/proc/")
"""Where what is opened for writing is no file."""

RECIPE = """
model: model.py:build
data: {calibration: data.py:samples}
backend: BACKEND
passes: [cleanup, fuse, quantize]
output: dist
"""
MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), (torch.zeros(2, 8),)
"""
DATA = """
import numpy as np

def samples():
    return [{"input": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)}]
"""
BUILD = "import sys; sys.argv = ['planish', 'build', 'recipe.yaml']; from planish.driver.cli import main; main()"
LOAD = "import numpy, planish; print(planish.load('dist')(numpy.zeros((2, 8), numpy.float32)))"
ASK = """
import os
from planish.backends import find_backend
find_backend("onnxruntime")
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


def traced(folder: Path, program: str) -> list[str]:
    """What a program and its processes ask of the kernel about files and networks, where that is granted."""
    ours = {name: str(folder / name) for name in ("HOME", "TMPDIR", "PLANISH_CACHE")}
    for path in ours.values():
        Path(path).mkdir(exist_ok=True)
    others = {
        name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    }
    calls = folder / "calls"
    calls.mkdir()
    traces = "trace=" + ",".join(["network", *OPENS.split("|"), *CHANGES.split("|")])
    strace = ["strace", "-ff", "-qq", "-y", "-s", "4096", "-e", traces, "-o", calls / "of"]
    done = subprocess.run(
        [*strace, sys.executable, "-c", program],
        cwd=folder / "user",
        env={**others, **ours},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for file in calls.iterdir() for line in file.read_text(errors="replace").splitlines()]
    if not lines:
        pytest.skip(f"strace can't trace here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(calls)
    return [line for line in lines if " = -1 " not in line or "AF_" in line]


def changed(lines: list[str], folder: Path) -> set[Path]:
    """The files and folders that were made, changed or removed, but for Python's own caches of modules."""
    found = [name for line in lines if WRITES.match(line) for name in NAMED.findall(line.rpartition(" = ")[0])]
    paths = {Path(os.path.normpath(folder / place / name)) for place, name in found}
    return {path for path in paths if "__pycache__" not in path.parts and not str(path).startswith(SYSTEM)}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace isn't installed")
@pytest.mark.wide
def test_a_build_and_its_artifact_write_where_they_may_and_reach_no_network(tmp_path: Path) -> None:
    user = tmp_path / "user"
    user.mkdir()
    backend = "auto" if find_spec("tvm") else "onnxruntime"
    for name, text in {"recipe.yaml": RECIPE.replace("BACKEND", backend), "model.py": MODEL, "data.py": DATA}.items():
        (user / name).write_text(text)
    for program in (BUILD, LOAD):
        lines = traced(tmp_path, program)
        assert [line for line in lines if "AF_INET" in line] == []
        paths = changed(lines, user)
        allowed = (
            str(user / "dist"),
            str(user / ".planish-draft-"),
            str(tmp_path / "TMPDIR"),
            str(tmp_path / "PLANISH_CACHE"),
        )
        assert {path for path in paths if not str(path).startswith(allowed)} == set()
        assert (user / "dist" in paths) == (program == BUILD)
    assert list((tmp_path / "HOME").iterdir()) == []


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_the_runtime_is_told_to_send_nothing_unless_the_user_has_decided(given: str | None, expected: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {} if given is None else {"ORT_DISABLE_TELEMETRY": given}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == expected, done.stderr
