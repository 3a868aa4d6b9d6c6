"""An artifact runs where only numpy and ONNX Runtime are installed: shown in such a virtual environment."""

import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from planish.backends import find_backend
from planish.backends.artifact import write_artifact
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


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """The interpreter of a virtual environment that holds numpy, ONNX Runtime and planish without its dependencies."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for name in ("numpy", "onnxruntime", "planish"):
        root = Path(find_spec(name).submodule_search_locations[0])
        (packages / name).symlink_to(root)
        libraries = root.parent / f"{name}.libs"
        if libraries.is_dir():
            (packages / libraries.name).symlink_to(libraries)
    return folder / "bin" / "python"


def run(python: Path, graph: str, folder: Path) -> subprocess.CompletedProcess[str]:
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
