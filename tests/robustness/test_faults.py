"""The short form of the long run over builds that are killed, interrupted, out of disk, or in each other's way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tvm")

ROOT = Path(__file__).parents[2]


def test_a_few_builds_of_each_fault() -> None:
    counts = ["--kills", "3", "--interrupts", "3", "--swaps", "8", "--sizes", "2", "--rounds", "1"]
    command = [sys.executable, ROOT / "benchmarks" / "soak.py", "faults", *counts, "--first", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["failures"] == {}
    numbers = dict.fromkeys(("kill", "interrupt", "swap", "together"), 0)
    for name, count in found["counts"].items():
        numbers[name.partition(",")[0]] = numbers.get(name.partition(",")[0], 0) + count
    assert numbers["kill"] == numbers["interrupt"] == 3
    assert numbers["together"] == 1
    assert numbers["swap"] > 10
    assert done.returncode == 0
