"""The short forms of the long runs over models that are called from several threads, and dropped."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tvm")

ROOT = Path(__file__).parents[2]


def found(*arguments: str) -> dict[str, dict[str, Any]]:
    command = [sys.executable, ROOT / "benchmarks" / "soak.py", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)["found"]


def test_threads_get_what_one_alone_gets() -> None:
    cases = found("threads", "--calls", "50", "--dtypes", "int8")
    assert {name: (case.get("calls"), case.get("unequal")) for name, case in cases.items()} == dict.fromkeys(
        ("onnxruntime:int8", "tvm:int8"), (400, {})
    )


def test_nothing_but_memory_is_held_for_models_that_were_dropped() -> None:
    """How much of that can only be told after many more."""
    cases = found("leaks", "--cycles", "20", "--models", "same", "--dtypes", "float32")
    assert {name: case.get("left") for name, case in cases.items()} == {
        "onnxruntime:float32:same": [],
        "tvm:float32:same": [],
    }
    assert cases["tvm:float32:same"]["grown"].keys() == {"the process", "the compiler"}
