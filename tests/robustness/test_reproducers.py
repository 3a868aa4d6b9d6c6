"""Faults that are planted in passes and backends leave reproducers, which fail again in another process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "reproducers.py"


@pytest.mark.parametrize(
    "only", [pytest.param("cse *", marks=pytest.mark.wide), pytest.param("*", marks=pytest.mark.slow)]
)
def test_what_a_planted_fault_leaves_fails_again(only: str, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    subprocess.run([sys.executable, SCRIPT, "--only", only, "--json", found], check=True)
    outcomes = json.loads(found.read_text())
    assert sum(kind == "equal" for kind, _ in outcomes.values()) > 0.8 * len(outcomes)
