"""A graph in a file: whole or not at all, memory-mapped, the same bytes each time; broken files are refused by name."""

import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject, SearchStrategy
from safetensors import safe_open
from safetensors.numpy import save_file

from planish.ir.equal import differences
from planish.ir.errors import ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.storage import load, save
from planish.ir.text import parse_graph, weights
from planish.ir.types import DType

TEXT = """\
graph "g"(%x: float32[batch, 64]) {
  const %w: float32[64, 64]
  const %s: float32[] = 2.0
  %y: float32[batch, 64] = MatMul(%x, %w) @ "fc" "model.py:1"
  %z: float32[batch, 64] = Mul(%y, %s)
  return z = %z
}
"""


@pytest.fixture
def graph() -> Graph:
    return parse_graph(TEXT, {"w": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)})


@pytest.fixture
def file(graph: Graph, tmp_path: Path) -> Path:
    save(graph, tmp_path / "g.planish")
    return tmp_path / "g.planish"


@contextmanager
def no_large_files() -> Generator[None]:
    """The kernel refuses to write more than 4 kB into a file, as a full disk does.

    Not a fixture: pytest writes its own progress before a fixture ends, into a file perhaps.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@settings(max_examples=50)
@given(st.data())
def test_any_graph_comes_back_equal(
    graphs: SearchStrategy[Graph], tmp_path_factory: pytest.TempPathFactory, data: DataObject
) -> None:
    graph = data.draw(graphs)
    path = tmp_path_factory.getbasetemp() / "any.planish"
    save(graph, path)
    assert differences(graph, load(path)) == []


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype is not DType.string], ids=str)
def test_large_constants_of_every_type_come_back(dtype: DType, tmp_path: Path) -> None:
    data = (np.arange(60) % 8).reshape(3, 20).astype(dtype.numpy)
    graph = Graph()
    graph.outputs["y"] = graph.add_constant(data, "w")
    save(graph, tmp_path / "g.planish")
    again = load(tmp_path / "g.planish").constants["w"].data
    assert again.dtype == data.dtype
    assert again.tobytes() == data.tobytes()


def test_weights_are_mapped_not_read(file: Path) -> None:
    held = load(file).constants["w"].data
    while not isinstance(held, np.memmap):
        assert isinstance(held.base, np.ndarray)
        held = held.base
    assert held.filename == file.resolve()


def test_writing_into_a_loaded_weight_leaves_the_file_alone(file: Path) -> None:
    before = file.read_bytes()
    load(file).constants["w"].data[:] = 0
    assert file.read_bytes() == before


def test_a_transposed_view_is_stored_as_it_reads(file: Path, graph: Graph) -> None:
    turned = Graph()
    turned.outputs["y"] = turned.add_constant(graph.constants["w"].data.T, "w")
    save(turned, file)
    assert np.array_equal(load(file).constants["w"].data, graph.constants["w"].data.T)


def test_a_graph_may_overwrite_the_file_that_it_is_mapped_from(file: Path, graph: Graph) -> None:
    again = load(file)
    again.add_constant(np.arange(100), "more")
    save(again, file)
    assert differences(again, load(file)) == []
    assert np.array_equal(again.constants["w"].data, graph.constants["w"].data)


def test_the_same_graph_gives_the_same_bytes(file: Path, graph: Graph) -> None:
    save(graph.clone(), file.with_name("twin"))
    save(load(file), file.with_name("again"))
    assert file.with_name("twin").read_bytes() == file.read_bytes()
    assert file.with_name("again").read_bytes() == file.read_bytes()


def test_the_file_is_a_safetensors_file_that_others_may_read(file: Path, graph: Graph) -> None:
    with safe_open(file, framework="np") as opened:
        assert list(opened.keys()) == ["w"]
        assert np.array_equal(opened.get_tensor("w"), weights(graph)["w"])
    plain = file.with_name("plain")
    plain.touch()
    assert file.stat().st_mode == plain.stat().st_mode


def test_a_full_disk_leaves_the_old_file_and_nothing_else(file: Path, graph: Graph) -> None:
    before = file.read_bytes()
    with no_large_files(), pytest.raises(UsageError, match=r"g\.planish can't be written"):
        save(graph, file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_missing_folder_is_an_error_of_the_system(graph: Graph, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save(graph, tmp_path / "missing" / "g.planish")


@pytest.mark.parametrize("kept", [0, 4, 8, 200, 1000, -1])
def test_a_truncated_file_is_refused_by_name(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"g\.planish is no planish graph, or a broken one"):
        load(file)


@pytest.mark.parametrize("content", [b"hello, world, this is text\n", b"\x08\x09\x12\x07pytorch" * 20, b"\0" * 100])
def test_a_foreign_file_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx is no planish graph, or a broken one"):
        load(path)


def test_safetensors_without_a_graph_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"model\.safetensors is a safetensors file without a planish graph"):
        load(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"MatMul(%x", b"MatMul(%q", r"g\.planish: line 4, column \d+: no value %q"),
        (b'"w":{', b'"v":{', r"g\.planish: line 2, column 9: there is no data for %w"),
        (b"%w: float32[64, 64]", b"%w: float32[64, 65]", r"g\.planish: line 2, column 9: cannot reshape"),
    ],
)
def test_a_corrupt_file_is_refused_by_name_and_place(file: Path, old: bytes, new: bytes, message: str) -> None:
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))
    with pytest.raises(ModelError, match=message):
        load(file)


@pytest.mark.parametrize("name", ["missing.planish", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"can't be read: "):
        load(tmp_path / name)
