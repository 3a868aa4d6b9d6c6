"""Two models side by side: how often they agree and how sure that is, and how far apart their distributions are."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import planish
from planish.driver.comparison import Gate, compare
from planish.ir.builder import Builder
from planish.ir.errors import BudgetError, UsageError
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((8, 4)).astype(np.float32)
NUDGED = WEIGHT + RANDOM.standard_normal((8, 4)).astype(np.float32) / 5
X = RANDOM.standard_normal((200, 8)).astype(np.float32)


def classifier(weight: np.ndarray, *, softened: bool = False) -> Graph:
    graph = Graph()
    op = Builder(graph)
    y = op.MatMul(graph.add_input("x", TensorType(DType.float32, ("batch", 8))), weight)
    graph.outputs["y"] = op.Softmax(y) if softened else y
    return graph


@pytest.mark.parametrize("softened", [False, True])
def test_accuracy_and_agreement_have_intervals(tmp_path: Path, softened: bool) -> None:
    labels = (X @ WEIGHT).argmax(1)
    np.savez(tmp_path / "data.npz", x=X, labels=labels)
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path, weight in zip(paths, (WEIGHT, NUDGED), strict=True):
        planish.write(classifier(weight, softened=softened), path)
    found = compare(str(paths[0]), str(paths[1]), "native", str(tmp_path / "data.npz"), "accuracy")
    wanted, got = X @ WEIGHT, X @ NUDGED
    same = float((wanted.argmax(1) == got.argmax(1)).mean())
    divergence = (softmax(wanted, 1) * (log_softmax(wanted, 1) - log_softmax(got, 1))).sum(1).mean()
    (output,) = found.outputs
    assert output.agreement == pytest.approx(same)
    assert output.divergence == pytest.approx(divergence, rel=1e-3)
    assert output.agreement_interval is not None
    assert output.agreement_interval[0] < same < output.agreement_interval[1]
    assert found.flips == (round(200 * (1 - same)), 0)
    assert found.drop_interval is not None
    assert found.drop_interval[0] < 1 - same < found.drop_interval[1]
    assert found.mcnemar is not None
    assert found.mcnemar < 0.01


def test_a_gate_tells_all_that_is_missed(tmp_path: Path) -> None:
    for name, weight in (("a", WEIGHT), ("b", NUDGED)):
        planish.write(classifier(weight), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=X, labels=(X @ WEIGHT).argmax(1))
    a, b = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    found = compare(a, b, "native", str(tmp_path / "data.npz"), "accuracy")
    Gate.of("50%", 0.5, "10000%").check(found)
    with pytest.raises(
        BudgetError, match=r"metric accuracy drops by 0.*, more than 0.001; the cosine of output 'y' is"
    ):
        Gate.of("0.1%", 0.9999, None).check(found)
    with pytest.raises(UsageError, match="needs data with labels"):
        Gate.of("1%", None, None).check(compare(a, b, "native", None, "accuracy"))
    with pytest.raises(UsageError, match="--max-slower: 'a bit' is not an amount"):
        Gate.of(None, None, "a bit")
