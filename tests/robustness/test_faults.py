"""The short form of the long run over builds that are killed, interrupted, out of disk, or in each other's way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tvm")

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("each", [pytest.param(1, marks=pytest.mark.wide), pytest.param(4, marks=pytest.mark.slow)])
def test_a_few_builds_of_each_fault(each: int) -> None:
    kinds = {"kills": each, "interrupts": each, "swaps": 4 * each, "sizes": each, "rounds": 1}
    counts = [word for kind, count in kinds.items() for word in (f"--{kind}", str(count))]
    command = [sys.executable, ROOT / "benchmarks" / "soak.py", "faults", *counts, "--first", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["failures"] == {}
    numbers = dict.fromkeys(("kill", "interrupt", "swap", "together"), 0)
    for name, count in found["counts"].items():
        numbers[name.partition(",")[0]] = numbers.get(name.partition(",")[0], 0) + count
    assert numbers["kill"] == numbers["interrupt"] == each
    assert numbers["together"] == 1
    assert numbers["swap"] > 5 * each
    assert done.returncode == 0
