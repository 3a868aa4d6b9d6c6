from pathlib import Path

import pytest

from planish.driver.model import read_model
from planish.driver.user_code import isolated_imports
from planish.ir.equal import differences
from planish.ir.errors import ModelError, UsageError
from planish.ir.storage import save

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
