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


@pytest.mark.wide
@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("tvm", marks=pytest.mark.slow)])
def test_threads_get_what_one_alone_gets(backend: str) -> None:
    cases = found("threads", "--calls", "50", "--dtypes", "int8", "--backends", backend)
    assert {name: (case.get("calls"), case.get("unequal")) for name, case in cases.items()} == {
        f"{backend}:int8": (400, {})
    }


@pytest.mark.wide
@pytest.mark.parametrize("cycles", [4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", ["tvm", "onnxruntime"])
def test_nothing_but_memory_is_held_for_models_that_were_dropped(backend: str, cycles: int) -> None:
    """How much of that can only be told after many more."""
    name = f"{backend}:float32:same"
    words = ["--cycles", str(cycles), "--models", "same", "--dtypes", "float32", "--backends", backend]
    case = found("leaks", *words)[name]
    assert case.get("left") == []
    assert case["grown"].keys() == {"the process", *(["the compiler"] if backend == "tvm" else [])}
