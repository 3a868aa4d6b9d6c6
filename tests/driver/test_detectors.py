"""Detectors are built from torch to artifact, in floats and in int8, and held to their source all the way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "detectors.py"


@pytest.mark.parametrize(
    ("only", "backend"),
    [
        pytest.param("yolo", "onnxruntime", marks=pytest.mark.slow),
        pytest.param("yolo", "tvm", marks=pytest.mark.slow),
        pytest.param("torchvision/*", "onnxruntime", marks=pytest.mark.slow),
    ],
)
def test_detectors_are_equal_to_their_source(only: str, backend: str, tmp_path: Path) -> None:
    """The script has a process of its own, where pytest's logging doesn't slow torch's tracing down."""
    pytest.importorskip(backend)
    command = [sys.executable, SCRIPT, "--only", only, "--backend", backend, "--json", tmp_path / "found.json"]
    subprocess.run(command, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found
    for name, row in found.items():
        kinds = {path: kind for path, (kind, _) in row.items()}
        assert kinds == dict.fromkeys((f"float {backend}", f"int8 {backend}"), "equal"), f"{name}: {row}"
