"""Artifacts that somebody else has had his hands on: nothing of them runs before everything was checked."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from planish.backends import find_backend, onnx_file
from planish.backends.artifact import amend_manifest, bundle_runtime, load, write_artifact
from planish.backends.manifest import CONTAINERS, MOST_THREADS
from planish.ir.errors import ModelError, PlanishError, TargetError, UsageError
from planish.ir.graph import Graph
from planish.ir.types import Container

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from fuzz.mutations import mutate_json, several

KEY = b"a key of this test"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of each backend's artifact, which tests spoil copies of."""
    return tmp_path_factory.mktemp("built")


@pytest.fixture
def copied(built: Path, small_cnn: Graph, target, tmp_path: Path) -> Callable[[str], Path]:
    """Copies the artifact of a backend, which is built once."""

    def copied(backend: str) -> Path:
        pytest.importorskip(backend)
        if not (built / backend).exists():
            write_artifact(built / backend, small_cnn, find_backend(backend), target)
        return shutil.copytree(built / backend, tmp_path / "dist")

    return copied


@pytest.fixture(params=["onnxruntime", "tvm"])
def artifact(request: pytest.FixtureRequest, copied: Callable[[str], Path]) -> Path:
    return copied(request.param)


@pytest.fixture
def tvm_artifact(copied: Callable[[str], Path]) -> Path:
    return copied("tvm")


def change(folder: Path, edit: Callable[[dict], object], file: str = "manifest.json") -> None:
    """Change a file of JSON; the manifest says what becomes of another one."""
    held = json.loads((folder / file).read_text())
    edit(held)
    (folder / file).write_text(json.dumps(held))
    if file != "manifest.json":
        from hashlib import sha256

        content = (folder / file).read_bytes()
        entry = {"size": len(content), "sha256": sha256(content).hexdigest()}
        change(folder, lambda manifest: manifest["files"].update({file: entry}))


def first_file(folder: Path) -> Path:
    return folder / next(name for name in ("model.onnx", "model.so") if (folder / name).exists())


def test_a_file_that_is_a_link_is_refused(artifact: Path) -> None:
    path = first_file(artifact)
    path.rename(artifact.parent / "elsewhere")
    path.symlink_to(artifact.parent / "elsewhere")
    with pytest.raises(
        ModelError, match=f"{path} is missing from the artifact, or not a file of its own: .*symbolic link"
    ):
        load(artifact)


def test_a_runtime_that_an_artifact_carries_is_checked_as_all_of_it(tvm_artifact: Path) -> None:
    copies = bundle_runtime(tvm_artifact)
    names = {"libtvm_runtime.so", "libtvm_runtime_extra.so", "TVM-LICENSE", "TVM-NOTICE"}
    assert {path.name for path in copies} == names
    load(tvm_artifact)
    change(tvm_artifact, lambda manifest: manifest["files"].pop("libtvm_runtime_extra.so"))
    with pytest.raises(ModelError, match="doesn't list the file 'libtvm_runtime_extra.so', which would be opened"):
        load(tvm_artifact)
    copies[0].write_bytes(b"another")
    with pytest.raises(ModelError, match="libtvm_runtime.so is damaged: it has 7 bytes"):
        load(tvm_artifact)


def test_a_file_with_a_second_name_is_taken(artifact: Path) -> None:
    os.link(first_file(artifact), artifact.parent / "second")
    os.link(artifact / "manifest.json", artifact.parent / "third")
    load(artifact)


@pytest.mark.parametrize("name", ["manifest.json", "model"])
def test_a_pipe_or_a_folder_is_refused_and_nobody_waits(artifact: Path, name: str) -> None:
    path = first_file(artifact) if name == "model" else artifact / name
    for make in (os.mkfifo, os.mkdir):
        path.unlink() if path.is_file() or path.is_fifo() else None
        make(path)
        with pytest.raises(ModelError, match=f"{path}"):
            load(artifact)


def test_a_file_that_is_opened_has_to_be_listed(artifact: Path) -> None:
    name = first_file(artifact).name
    change(artifact, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(
        ModelError, match=f"its manifest doesn't list the file '{name}', which would be opened|model.onnx"
    ):
        load(artifact)


def test_weights_beside_a_model_have_to_be_listed(small_cnn: Graph, target, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_file.write_onnx, "__defaults__", (0,))
    write_artifact(tmp_path / "dist", small_cnn, find_backend("onnxruntime"), target)
    assert (tmp_path / "dist" / "model.onnx.data").is_file()
    load(tmp_path / "dist")
    change(tmp_path / "dist", lambda manifest: manifest["files"].pop("model.onnx.data"))
    with pytest.raises(ModelError, match=r"doesn't list the file 'model\.onnx\.data', which would be opened"):
        load(tmp_path / "dist")


def test_a_library_is_checked_before_it_is_loaded_however_large_it_is(tvm_artifact: Path, monkeypatch) -> None:
    from planish.backends.tvm import backend

    monkeypatch.setattr(backend, "Program", lambda *_: pytest.fail("it is loaded"))
    with (tvm_artifact / "model.so").open("ab") as file:
        file.truncate(32 << 20)
    size = (tvm_artifact / "model.so").stat().st_size
    change(tvm_artifact, lambda manifest: manifest["files"]["model.so"].update(size=size))
    with pytest.raises(ModelError, match=r"model\.so is damaged: its SHA-256 is not the manifest's"):
        load(tvm_artifact)


@pytest.mark.parametrize("large", [0, 1 << 24])
def test_weights_are_checked_though_large_ones_are_loaded_meanwhile(
    tvm_artifact: Path, monkeypatch, large: int
) -> None:
    monkeypatch.setattr("planish.backends.artifact._LARGE", large)
    content = bytearray((tvm_artifact / "weights.bin").read_bytes())
    content[-1] ^= 1
    (tvm_artifact / "weights.bin").write_bytes(content)
    with pytest.raises(ModelError, match=r"weights\.bin is damaged: its SHA-256"):
        load(tvm_artifact)


@pytest.mark.parametrize(
    "values",
    [
        {"offset": -64},
        {"offset": 1 << 40},
        {"size": 1 << 62},
        {"size": 3},
        {"shape": [-1]},
        {"shape": [1 << 40, 1 << 40]},
        {"shape": "x"},
        {"dtype": "float1024"},
        {"dtype": ["float32"]},
        {"offset": 0.5},
        {"size": True},
        {"more": 1},
    ],
)
def test_a_table_of_weights_names_what_is_there(tvm_artifact: Path, values: dict) -> None:
    change(tvm_artifact, lambda table: table[0].update(values), "weights.json")
    with pytest.raises(ModelError, match=r"weights\.bin can't be read"):
        load(tvm_artifact)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"early": {"n": 3}, "late": {}}', '{"early": {"__import__": "x"}, "late": 3}', "x"]
)
def test_guards_are_sizes(tvm_artifact: Path, text: str) -> None:
    from hashlib import sha256

    (tvm_artifact / "guards.json").write_text(text)
    entry = {"size": len(text), "sha256": sha256(text.encode()).hexdigest()}
    change(tvm_artifact, lambda manifest: manifest["files"].update({"guards.json": entry}))
    with pytest.raises(ModelError, match=r"guards\.json"):
        load(tvm_artifact)


@pytest.mark.parametrize("number", [0, -1, MOST_THREADS + 1, 1.5, True, "4", None, 1 << 80])
def test_threads_are_a_sane_number(artifact: Path, number: object) -> None:
    if number is not None:
        with pytest.raises(UsageError, match="the number of threads can't be"):
            load(artifact, threads=number)  # pyright: ignore[reportArgumentType] -- as others may give it
    change(artifact, lambda manifest: manifest["target"].update(threads=number))
    with pytest.raises(ModelError, match=r"manifest\.json is damaged: the number of threads can't be"):
        load(artifact)


def test_broken_manifests_end_in_a_message(artifact: Path) -> None:
    path = artifact / "manifest.json"
    content, random = path.read_bytes(), Random(0)
    for _ in range(600):
        path.write_bytes(several(mutate_json, content, random))
        try:
            load(artifact)
        except (ModelError, TargetError) as error:
            assert str(artifact) in str(error) or isinstance(error, TargetError)
    deep = b'{"format": 1, "backend": ' + b"[" * 100_000
    for text in (
        deep,
        deep + b"]" * 100_000 + b"}",
        b'{"format": ' + b"1" * 10_000 + b"}",
        b"\xff\xfe",
        b"",
        b" " * (17 << 20),
    ):
        path.write_bytes(text)
        with pytest.raises(ModelError, match=r"manifest\.json"):
            load(artifact)


def test_a_signature(artifact: Path, small_cnn: Graph, target) -> None:
    backend = find_backend(json.loads((artifact / "manifest.json").read_text())["backend"])
    load(artifact)
    with pytest.raises(ModelError, match="has no signature"):
        load(artifact, key=KEY)
    write_artifact(artifact, small_cnn, backend, target, key=KEY)
    amend_manifest(artifact, {"note": [1.5, "ü"]}, KEY)
    x = np.zeros((1, 1, 8, 8), np.float32)
    np.testing.assert_array_equal(load(artifact, key=KEY)(x)[0], load(artifact)(x)[0])
    with pytest.raises(ModelError, match="was signed with another key, or changed since"):
        load(artifact, key=b"another")
    with pytest.raises(UsageError, match="key of a signature is empty"):
        load(artifact, key=b"")
    change(artifact, lambda manifest: manifest.update(note=[1.5, "u"]))
    with pytest.raises(ModelError, match="was signed with another key, or changed since"):
        load(artifact, key=KEY)
    write_artifact(artifact, small_cnn, backend, target, key=KEY)
    amend_manifest(artifact, {"note": 1})
    assert "signature" not in json.loads((artifact / "manifest.json").read_text())


@pytest.mark.parametrize(
    "content",
    [
        '{"name": "app", "files": {}}',
        '{"format": 1, "planish": "1", "backend": "tvm", "files": {"model.so": {}}}',
        '{"format": 1, "planish": 1, "backend": "tvm", "files": {"notes.txt": {}}}',
        "{",
        "[]",
    ],
)
def test_a_manifest_alone_makes_no_artifact(small_cnn: Graph, target, tmp_path: Path, content: str) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text(content)
    (tmp_path / "web" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and is not an artifact: name another folder, or empty it"):
        write_artifact(tmp_path / "web", small_cnn, find_backend("onnxruntime"), target)
    assert (tmp_path / "web" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "web" / "manifest.json").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["web"]


def test_a_folder_in_an_artifact_isn_t_erased(artifact: Path, small_cnn: Graph, target) -> None:
    (artifact / "data").mkdir()
    with pytest.raises(UsageError, match="holds the folder data, which planish didn't write"):
        write_artifact(artifact, small_cnn, find_backend("onnxruntime"), target)
    load(artifact)


def test_a_link_to_an_artifact_stays_one(artifact: Path, small_cnn: Graph, target) -> None:
    link = artifact.parent / "latest"
    link.symlink_to(artifact)
    write_artifact(link, small_cnn, find_backend("onnxruntime"), target)
    assert link.is_symlink()
    load(link)


def test_nothing_is_lost_to_errors_of_the_system(artifact: Path, small_cnn: Graph, target) -> None:
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    shutil.copy(artifact / "manifest.json", artifact.parent / "file")
    for place in (artifact / "manifest.json", artifact.parent / "file" / "dist", artifact.parent / ("x" * 300)):
        with pytest.raises(PlanishError) as caught:
            write_artifact(place, small_cnn, find_backend("onnxruntime"), target)
        assert caught.value.exit_code == 2
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == before
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["dist", "file"]


def test_ports_may_be_of_any_container() -> None:
    assert set(CONTAINERS) == {container.value for container in Container}
