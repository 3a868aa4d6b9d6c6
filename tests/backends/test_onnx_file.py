from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import planish
from planish import optimize, trace
from planish.backends.onnx_file import write_onnx
from planish.frontends.onnx import read_onnx
from planish.ir.builder import Builder
from planish.ir.equal import differences
from planish.ir.graph import Graph, Location
from planish.ir.storage import load
from planish.ir.storage import save as save_graph
from planish.ir.types import DType


def test_it_reads_back_equal_with_locations_and_all(small_cnn, tmp_path) -> None:
    for number, node in enumerate(small_cnn.nodes):
        node.location = Location(f"block.{number}", f"net.py:{number}")
    write_onnx(small_cnn, tmp_path / "model.onnx")
    again = read_onnx(tmp_path / "model.onnx")
    assert [node.location for node in again.nodes] == [node.location for node in small_cnn.nodes]
    small_cnn.rename(small_cnn.outputs["y"], "y")  # the file calls the value as the output
    assert differences(small_cnn, again) == []


def test_equal_graphs_give_equal_bytes_and_nothing_is_left_beside_them(small_cnn, tmp_path) -> None:
    for graph, name in ((small_cnn, "a.onnx"), (small_cnn.clone(), "b.onnx")):
        write_onnx(graph, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_large_weights_lie_in_a_file_beside_it(make_graph, tmp_path) -> None:
    weight = np.random.default_rng(0).random((100, 100), dtype=np.float32)
    write_onnx(make_graph(lambda op, x: op.MatMul(x, weight), "n", 100), tmp_path / "model.onnx", inline_bytes=1000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx").stat().st_size < 1000
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    x = np.eye(100, dtype=np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], weight, rtol=1e-6)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Arrays of any element type that computes, of any bits but NaN's; the last byte may be half full or less."""
    dtype = draw(st.sampled_from([dtype for dtype in DType if dtype is not DType.string]))
    shape = draw(st.sampled_from([(), (0,), (1,), (3,), (2, 5), (7, 3)]))
    size = int(np.prod(shape, dtype=int)) * dtype.numpy.itemsize
    bits = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    mask = 1 if dtype is DType.bool else (1 << min(dtype.bits, 8)) - 1
    array = (bits & mask).view(dtype.numpy).reshape(shape)
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(array), np.ones_like(array), array) if dtype.is_float else array


@settings(deadline=None)
@given(array=arrays(), inline_bytes=st.sampled_from([0, 10**9]), large=st.booleans())
def test_elements_of_every_type_come_back_bit_for_bit(
    array: np.ndarray, inline_bytes: int, large: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Weights come back from text, `.planish` and ONNX files, whether they lie in the model or beside it."""
    array = np.concatenate([array.reshape(-1)] * 700) if large else array  # more than text shows, or a conversion keeps
    graph = Graph("net")
    op, weight = Builder(graph, location=Location("layer")), graph.add_constant(array, "w")
    is_identical = not DType.of(array.dtype).name.startswith("float6")  # which Identity doesn't take
    graph.outputs["y"] = op.Identity(weight, name="y") if is_identical else op.Cast(weight, to=DType.float32, name="y")
    folder: Path = tmp_path_factory.mktemp("elements")
    save_graph(graph, folder / "g.planish")
    write_onnx(graph, folder / "g.onnx", inline_bytes)
    for again in (load(folder / "g.planish"), read_onnx(folder / "g.onnx")):
        assert differences(graph, again) == []


def test_the_file_is_of_the_lowest_version_that_has_its_types(make_graph, tmp_path) -> None:
    for dtype, version in ((DType.int4, 10), (DType.float4_e2m1fn, 11), (DType.int2, 13), (DType.float6_e2m3fn, 14)):
        write_onnx(make_graph(lambda op, x, to=dtype: op.Cast(x, to=to), "n"), tmp_path / "model.onnx")
        model = onnx.load(tmp_path / "model.onnx")
        assert model.ir_version == version
        onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("inline_bytes", [1 << 30, 0])
def test_weights_in_another_layout_come_back(inline_bytes: int, tmp_path) -> None:
    """Weights of a type of several bytes, of a packed one, and of one that has no bytes."""
    graph = Graph()
    for dtype in (DType.float32, DType.int4, DType.string):
        array = (np.arange(900).reshape(20, 45) % 8).astype(str if dtype is DType.string else dtype.numpy)
        graph.outputs[f"{dtype}"] = graph.add_constant(array.astype(dtype.numpy).T, f"{dtype}")
    write_onnx(graph, tmp_path / "model.onnx", inline_bytes)
    onnx.checker.check_model(tmp_path / "model.onnx")
    assert differences(graph, read_onnx(tmp_path / "model.onnx")) == []


def test_tied_weights_stay_one_tensor(tmp_path) -> None:
    """An embedding that is also the head, from torch through clean-up and ONNX."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(300, 64)
            self.head = nn.Linear(64, 300, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.table(tokens))

    graph = trace(Tied(), (torch.zeros(2, 5, dtype=torch.long),))
    for inline_bytes in (1 << 30, 0):
        write_onnx(optimize(graph, "cleanup").graph, tmp_path / "model.onnx", inline_bytes)
        size = sum(file.stat().st_size for file in tmp_path.iterdir())
        assert 300 * 64 * 4 <= size < 300 * 64 * 4 + 8000
        graph = read_onnx(tmp_path / "model.onnx")
        assert sum(constant.data.nbytes > 1000 for constant in graph.constants.values()) == 1
        for file in tmp_path.iterdir():
            file.unlink()


def test_a_file_says_who_wrote_it(make_graph, tmp_path) -> None:
    write_onnx(make_graph(lambda op, x: op.Relu(x), "n"), tmp_path / "model.onnx", metadata={"planish.target": "board"})
    model = onnx.load(tmp_path / "model.onnx")
    assert (model.producer_name, model.producer_version) == ("planish", planish.__version__)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("planish.target", "board")]
