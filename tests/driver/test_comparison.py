"""Two models side by side: how often they agree and how sure that is, and how far apart their distributions are."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from typer.testing import CliRunner

import planish
from planish.driver.cli import app
from planish.driver.comparison import Comparison, compare
from planish.driver.gate import Gate
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


@pytest.mark.wide
def test_a_gate_tells_all_that_is_missed(tmp_path: Path) -> None:
    for name, weight in (("a", WEIGHT), ("b", NUDGED)):
        planish.write(classifier(weight), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=X, labels=(X @ WEIGHT).argmax(1))
    a, b = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    found = compare(a, b, "native", str(tmp_path / "data.npz"), "accuracy")
    Gate.of("50%", 0.5, "10000%").check(found)
    with pytest.raises(BudgetError, match=r"drop of accuracy is 0.*, but must be 0.001 at most; the cosine of y is"):
        Gate.of("0.1%", 0.9999, None).check(found)
    with pytest.raises(UsageError, match="needs data with labels"):
        Gate.of("1%", None, None).check(compare(a, b, "native", None, "accuracy"))
    np.savez(tmp_path / "unlabelled.npz", x=X)
    relative = compare(a, b, "native", str(tmp_path / "unlabelled.npz"), "agreement")
    assert (relative.flips, relative.a.metric) == (found.flips, 1.0)
    with pytest.raises(UsageError, match="--max-slower: 'a bit' is not an amount"):
        Gate.of(None, None, "a bit")


def test_a_gate_is_told_as_junit_and_markdown(tmp_path: Path) -> None:
    for name, weight in (("a", WEIGHT), ("b", NUDGED)):
        planish.write(classifier(weight), tmp_path / f"{name}.onnx")
    np.savez(tmp_path / "data.npz", x=X, labels=(X @ WEIGHT).argmax(1))
    a, b = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    report, table = tmp_path / "gate.xml", tmp_path / "gate.md"
    bounds = ["--max-drop", "50%", "--min-cosine", "0.9999", "--max-larger", "1%"]
    written = ["--junit", str(report), "--markdown", str(table)]
    result = CliRunner().invoke(app, ["compare", a, b, "-d", str(tmp_path / "data.npz"), *bounds, *written, "--json"])
    assert result.exit_code == 5
    assert "the cosine of y is 0.9" in result.stderr
    gate = json.loads(result.stdout)["gate"]
    assert [it["is_met"] for it in gate] == [True, False, True]
    suite = ET.fromstring(report.read_text())
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    assert [case.get("name") for case in suite.iter("testcase") if len(case)] == ["cosine of y"]
    assert table.read_text().splitlines()[0] == f"**{b}** against {a}: beyond 1 of 3 bounds"
    assert table.read_text().count("| yes |") == 2


def test_as_many_samples_as_are_said_to_suffice_find_a_regression() -> None:
    """Twice the bound is found in 95 of 100 draws and more, whatever share of the samples changes sides."""
    draw, bound = np.random.default_rng(0), 0.005
    for share in (0.01, 0.04):
        flips = (round(1000 * (share + 2 * bound) / 2), round(1000 * (share - 2 * bound) / 2))
        given = Comparison(None, None, [], "accuracy", 2 * bound, None, flips, None, 1000, None, 1.0)
        samples = Gate(max_drop=bound).sufficient_samples(given)
        assert samples is not None
        chances = [flips[0] / 1000, flips[1] / 1000, 1 - sum(flips) / 1000]
        drawn = draw.multinomial(samples, chances, 20_000)
        found = float(((drawn[:, 0] - drawn[:, 1]) / samples > bound).mean())
        assert 0.95 < found < 0.985
