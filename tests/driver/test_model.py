from pathlib import Path

import pytest

from planish.driver.model import read_model
from planish.driver.user_code import isolated_imports
from planish.ir.equal import differences
from planish.ir.errors import ModelError, UsageError
from planish.ir.storage import save


def test_factory_and_file_give_the_same_graph(folder: Path) -> None:
    with isolated_imports(folder):
        graph = read_model("model.py:build", folder)
    assert [str(value.type) for value in graph.inputs] == ["float32[batch, 8]"]
    save(graph, folder / "net.planish")
    assert not differences(graph, read_model("net.planish", folder))


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
