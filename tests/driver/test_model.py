from pathlib import Path

import pytest

from planish.driver.model import read_model
from planish.driver.user_code import isolated_imports
from planish.ir.builder import Builder
from planish.ir.equal import differences
from planish.ir.errors import ModelError, UsageError
from planish.ir.graph import Graph
from planish.ir.storage import save
from planish.ir.types import DType, TensorType

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
        ("hight=48", UsageError, "no input with a symbolic dimension 'hight'; did you mean 'height'"),
        ("height=0", UsageError, "the size of 'height' must be a whole number from 1, not 0"),
        ("height=true", UsageError, "must be a whole number from 1, not True"),
        ("height=1", ModelError, "MaxPool"),
    ],
)
def test_sizes_that_a_model_cannot_have(image: Path, sizes: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_model(f"image.planish{{{sizes}}}", image)


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
