from pathlib import Path

import numpy as np
import pytest

import planish
from planish.driver.model import read_model
from planish.driver.user_code import isolated_imports
from planish.ir.builder import Builder
from planish.ir.equal import differences
from planish.ir.errors import ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.reinfer import reinfer
from planish.ir.storage import save
from planish.ir.text import parse_graph
from planish.ir.types import DType, TensorType
from planish.passes.probes import run_graph

WIDE = """
import torch


def build(width=8, names=()):
    return torch.nn.Linear(width, 2), torch.zeros(2, width)
"""


def test_factory_and_file_give_the_same_graph(folder: Path) -> None:
    with isolated_imports(folder):
        graph = read_model("model.py:build", folder)
    assert [str(value.type) for value in graph.inputs] == ["float32[batch, 8]"]
    save(graph, folder / "net.planish")
    assert not differences(graph, read_model("net.planish", folder))


@pytest.mark.parametrize("reference", ["wide.py:build{width=16}", "wide.py:build{width: 16, names: [a, b]}"])
def test_a_factory_takes_options(folder: Path, reference: str) -> None:
    (folder / "wide.py").write_text(WIDE)
    with isolated_imports(folder):
        assert [str(value.type) for value in read_model(reference, folder).inputs] == ["float32[2, 16]"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("wide.py:build{widht=16}", r"takes the options \(width=8, names=\(\)\), .* argument 'widht'"),
        ("wide.py:build{width=16", r"not of the form \{key=value"),
    ],
)
def test_options_that_a_factory_does_not_take(folder: Path, reference: str, message: str) -> None:
    (folder / "wide.py").write_text(WIDE)
    with isolated_imports(folder), pytest.raises(UsageError, match=message):
        read_model(reference, folder)


@pytest.fixture
def image(folder: Path) -> Path:
    """A folder with the file of a model that halves images of any size."""
    graph = Graph("image")
    x = graph.add_input("x", TensorType(DType.float32, ("batch", 1, "height", "width")))
    graph.outputs["y"] = Builder(graph).MaxPool(x, kernel_shape=(2, 2), strides=(2, 2))
    save(graph, folder / "image.planish")
    return folder


@pytest.mark.parametrize(
    "reference",
    [
        "image.planish{height=48,width=9}",
        "image.planish{height: 48, width: 9}",
        'image.planish{"height": 48, "width": 9}',
    ],
)
def test_a_file_takes_sizes_of_symbolic_dimensions(image: Path, reference: str) -> None:
    graph = read_model(reference, image)
    assert [str(value.type) for value in graph.inputs] == ["float32[batch, 1, 48, 9]"]
    assert [str(value.type) for value in graph.outputs.values()] == ["float32[batch, 1, 24, 4]"]


@pytest.mark.parametrize(
    ("sizes", "kind", "message"),
    [
        ("hight=48", UsageError, "no input with a symbolic dimension 'hight', .*; did you mean 'height'"),
        ("height=0", UsageError, "the size of 'height' must be a whole number from 1, not 0"),
        ("height=true", UsageError, "must be a whole number from 1, not True"),
        ("height=1", ModelError, "MaxPool"),
    ],
)
def test_sizes_that_a_model_cannot_have(image: Path, sizes: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_model(f"image.planish{{{sizes}}}", image)


@pytest.fixture
def rated(folder: Path) -> Path:
    """A folder with the file of a model that takes every second number at a rate of 16000 and all at others."""
    text = """graph "rated"(%x: float32[1, n], %rate: int64[], %gain: float32[1]) {
      const %high: int64[] = 16000
      const %none: int64[1] = [0]
      const %all: int64[1] = [9223372036854775807]
      const %axis: int64[1] = [1]
      const %two: int64[1] = [2]
      %is_high: bool[] = Equal(%rate, %high)
      %y: float32[1, m] = If(%is_high) {else_branch = graph "low"() {
        %c: float32[1, n] = Neg(%x)
        return c = %c
      }, then_branch = graph "high"() {
        %s: float32[1, m] = Slice(%x, %none, %all, %axis, %two)
        return s = %s
      }}
      %z: float32[1, m] = Mul(%y, %gain)
      return z = %z
    }"""
    graph = parse_graph(text)
    reinfer(graph)
    save(graph, folder / "rated.planish")
    return folder


@pytest.mark.parametrize(("rate", "length"), [(16000, 4), (8000, 8)])
def test_an_input_of_one_number_takes_a_value_and_one_branch_is_left(rated: Path, rate: int, length: int) -> None:
    graph = read_model(f"rated.planish{{rate={rate},n=8,gain=2}}", rated)
    x = np.arange(8, dtype=np.float32)[None]
    wanted = 2 * (x[:, ::2] if rate == 16000 else -x)

    cleaned = planish.optimize(graph, "cleanup").graph

    assert [(it.name, it.index) for it in graph.inputs] == [("x", 0)]
    assert "If" not in {node.operator for node in cleaned.nodes}
    assert [str(value.type) for value in cleaned.outputs.values()] == [f"float32[1, {length}]"]
    for each in (graph, cleaned):
        np.testing.assert_array_equal(run_graph(each, [{"x": x}])[0]["z"], wanted)


@pytest.mark.parametrize("value", ["rate=1.5", "rate=true", "rate=many", f"rate={2**63}", "gain=off", "gain="])
def test_values_that_an_input_cannot_have(rated: Path, value: str) -> None:
    name = value.partition("=")[0]
    with pytest.raises(UsageError, match=f"the input '{name}' of type .* can't be"):
        read_model(f"rated.planish{{{value}}}", rated)


def test_only_inputs_of_one_number_take_values(rated: Path) -> None:
    with pytest.raises(UsageError, match="no such input of one number; there are gain, n, rate"):
        read_model("rated.planish{x=1}", rated)


@pytest.mark.parametrize(
    ("reference", "kind", "message"),
    [
        ("net.onx", UsageError, "'net.onx' is not a model: give"),
        ("modl.onnx", UsageError, r"there is no model .*modl.onnx; did you mean 'model.onnx'\?"),
        ("model.onnx", ModelError, "model.onnx is not an ONNX"),
        ("model.pt2", ModelError, "model.pt2 is not a torch.export archive"),
        ("model.planish", ModelError, "model.planish is no planish graph"),
        ("model.py:MODEL", UsageError, "has no 'MODEL'"),
        ("model.py:raises", ModelError, r"model.py:raises failed: TypeError.*model.py:\d+\)"),
        ("model.py:forgetful", ModelError, r"must return \(module, example inputs\).*not \(Net\)"),
        ("model.py:swapped", ModelError, r"must return \(module, example inputs\).*not \(Tensor, Net\)"),
        ("model.py:data_dependent", ModelError, "torch.export refuses Choosy"),
        ("model.py:with_nan", ModelError, "weight 'first.weight' of first.* holds NaN"),
    ],
)
def test_bad_models(folder: Path, reference: str, kind: type[Exception], message: str) -> None:
    for suffix in ("onnx", "pt2", "planish"):
        (folder / f"model.{suffix}").write_bytes(b"no model at all")
    with isolated_imports(folder), pytest.raises(kind, match=message):
        read_model(reference, folder)
