"""The short form of the long run over mutated files: none ends in anything but a refusal that names it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("each", [pytest.param(3, marks=pytest.mark.wide), pytest.param(10, marks=pytest.mark.slow)])
def test_a_few_mutated_files_of_each_format(each: int) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "soak.py", "files", "--cases", str(8 * each), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert found["failures"] == {}
    assert len(found["counts"]) == 8
    assert all(sum(row.values()) == each and row.keys() <= {"equal", "refused"} for row in found["counts"].values())
    assert done.returncode == 0
