import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest

from planish.backends import find_backend
from planish.backends.artifact import amend_manifest, load, read_manifest, replaced, write_artifact
from planish.backends.machine import check_machine
from planish.ir import drafts
from planish.ir.errors import ModelError, TargetError, UsageError
from planish.ir.graph import Graph, Location
from planish.targets import Target


@pytest.fixture
def artifact(small_cnn, target, tmp_path) -> Path:
    write_artifact(tmp_path / "dist", small_cnn, find_backend("onnxruntime"), target, {"passes": ["cleanup"]})
    return tmp_path / "dist"


def write_again(artifact: Path) -> None:
    """Put a copy of an artifact in its place."""
    with replaced(artifact) as draft:
        shutil.copytree(artifact, draft, dirs_exist_ok=True)


def test_it_loads_and_runs(artifact: Path) -> None:
    executable = load(artifact)
    assert [(port.name, port.dtype, port.shape) for port in executable.inputs] == [("x", "float32", ("batch", 1, 8, 8))]
    assert [port.name for port in executable.outputs] == ["y"]
    x = np.random.default_rng(0).random((3, 1, 8, 8), dtype=np.float32)
    (y,) = executable(x)
    assert y.shape == (3, 10)
    np.testing.assert_allclose(executable(x=x)[0], y)
    with pytest.raises(ModelError, match=r"'x' must be float32.*, got float64"):
        executable(x.astype(np.float64))


def test_the_manifest_says_what_it_is(artifact: Path, target) -> None:
    manifest = read_manifest(artifact)
    assert manifest["backend"] == "onnxruntime"
    assert manifest["target"]["mcpu"] == target.mcpu
    assert manifest["passes"] == ["cleanup"]
    assert manifest["files"]["model.onnx"]["size"] == (artifact / "model.onnx").stat().st_size
    amend_manifest(artifact, {"latency": 0.5})
    amended = read_manifest(artifact)
    assert amended == {**manifest, "latency": 0.5, "sha256": amended["sha256"]}


def test_a_failure_leaves_the_old_artifact_and_nothing_else(artifact: Path, make_graph, target) -> None:
    def broken(op, x):
        return op.graph.add_node("aten::erfinv", [x], [x.type], location=Location("head")).output

    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    with pytest.raises(TargetError, match="head: onnxruntime can't run aten::erfinv"):
        write_artifact(artifact, make_graph(broken, 2), find_backend("onnxruntime"), target)
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == before
    assert list(artifact.parent.iterdir()) == [artifact]


def test_a_new_artifact_takes_the_old_one_s_place(artifact: Path, make_graph, target) -> None:
    (artifact / "report.html").write_text("of the old one")
    (artifact / ".manifest.json").write_text("of an amendment that was killed")
    write_artifact(artifact, make_graph(lambda op, x: op.Neg(x), 2), find_backend("onnxruntime"), target)
    assert sorted(path.name for path in artifact.iterdir()) == ["manifest.json", "model.onnx"]
    assert list(artifact.parent.iterdir()) == [artifact]
    assert np.array_equal(load(artifact)(np.ones(2, np.float32))[0], [-1, -1])


@pytest.mark.parametrize("task", [write_again, load], ids=["a build", "a reader"])
def test_a_place_that_is_empty_while_an_artifact_is_replaced_disturbs_nobody(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, task: Callable[[Path], object]
) -> None:
    rename = Path.rename
    with ThreadPoolExecutor(1) as pool:
        others: list[Future[object]] = []

        def slow(path: Path, target: Path) -> Path:
            done = rename(path, target)
            if path == artifact and not others:  # it has been set aside
                others.append(pool.submit(task, artifact))
                wait(others, timeout=0.3)
            return done

        monkeypatch.setattr(drafts, "_renameat2", lambda: None)
        monkeypatch.setattr(Path, "rename", slow)
        write_again(artifact)
        others[0].result()
    assert list(artifact.parent.iterdir()) == [artifact]
    assert load(artifact)


def test_a_folder_with_something_else_is_left_alone(small_cnn: Graph, target, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not an artifact"):
        write_artifact(tmp_path, small_cnn, find_backend("onnxruntime"), target)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def rewrite(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "is not an artifact: .*manifest.json can't be read"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 1,'), "manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 1}'), "manifest.json is damaged: KeyError"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"x"), "model.onnx is damaged: it has 1 bytes instead of"),
        (flip, "model.onnx is damaged: its SHA-256"),
        (rewrite(format=99), "has format 99, but this version of planish reads format 1"),
        (rewrite(files={"../secret": {"size": 1, "sha256": ""}}), "secret is missing from the artifact"),
        (rewrite(inputs="x"), "manifest.json is damaged"),
    ],
)
def test_damage_is_named(artifact: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(artifact)
    with pytest.raises(ModelError, match=message):
        load(artifact)


@pytest.mark.parametrize("place", [0, 0.5])
def test_damage_is_named_though_large_files_are_checked_while_they_are_loaded(artifact, monkeypatch, place) -> None:
    monkeypatch.setattr("planish.backends.artifact._LARGE", 0)
    content = bytearray((artifact / "model.onnx").read_bytes())
    content[int(len(content) * place)] ^= 1
    (artifact / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx is damaged: its SHA-256"):
        load(artifact)


def test_code_for_another_machine_is_not_run() -> None:
    with pytest.raises(TargetError, match="is built for riscv64, but this machine is"):
        check_machine("riscv64", [])
    with pytest.raises(TargetError, match="uses avx2048, which this machine lacks"):
        check_machine(read_architecture(), ["avx2048"])


def read_architecture() -> str:
    import platform

    return platform.machine()


LOAD = """
import sys
class Wall:
    allowed = {"numpy", *sys.argv[2:], "planish", *sys.stdlib_module_names}
    def find_spec(self, name, path=None, target=None):
        # the runtime's own imports of optional helpers fail as they do where these are missing
        if name.partition(".")[0] not in self.allowed and not name.startswith("__editable__"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Wall())
import numpy
from planish.backends.artifact import load
executable = load(sys.argv[1])
print(executable(numpy.zeros((2, 1, 8, 8), numpy.float32))[0].shape)
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"torch", "tvm", "onnx", "onnx_ir", "pydantic", "ml_dtypes", "networkx", "scipy"}))
"""


@pytest.mark.parametrize(
    ("backend", "runtime"),
    [
        ("onnxruntime", ["onnxruntime"]),
        pytest.param("tvm", ["tvm", "tvm_ffi", "typing_extensions"], marks=pytest.mark.wide),
    ],
)
def test_loading_needs_numpy_and_the_runtime_alone(
    small_cnn: Graph, target: Target, tmp_path: Path, backend: str, runtime: list[str]
) -> None:
    write_artifact(tmp_path / "dist", small_cnn, find_backend(backend), target)
    command = [sys.executable, "-c", LOAD, tmp_path / "dist", *runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(2, 10)", "[]"]
