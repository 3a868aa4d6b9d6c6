"""The examples from end to end: what their models compute stays the same, and their recipes keep their budgets."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import planish
from planish.backends.artifact import write_artifact
from planish.backends.manifest import MEASUREMENTS, REPORT, TIMINGS
from planish.backends.tvm.backend import Tvm
from planish.ir.equal import differences
from planish.ir.interpreter import Interpreter
from planish.ir.text import parse_graph, print_graph, weights
from planish.targets.load import native

RTOL, ATOL = 1e-3, 1e-4


def test_a_graph_prints_and_parses_back(example) -> None:
    for graph in (example.graph, example.optimized):
        assert differences(parse_graph(print_graph(graph), weights(graph)), graph) == []


def test_every_way_to_run_it_agrees_with_the_model(example) -> None:
    for graph in (example.graph, example.optimized):
        [output] = Interpreter(graph).run(example.feeds).values()
        np.testing.assert_allclose(output, example.expected, RTOL, ATOL)
        [output] = planish.compile(graph, backend="onnxruntime")(**example.feeds)
        np.testing.assert_allclose(output, example.expected, RTOL, ATOL)


# where an image's width isn't known, TVM has no kernels but its own, which take minutes
@pytest.mark.parametrize(
    "example",
    [
        *(pytest.param(name, marks=pytest.mark.wide) for name in ("digits", "minilm")),
        pytest.param("ocr", marks=pytest.mark.slow),
    ],
    indirect=True,
)
def test_tvm_agrees_with_the_model(example, tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    write_artifact(tmp_path / "dist", example.optimized, Tvm(checks_kernels=False), native())
    [output] = planish.load(tmp_path / "dist")(**example.feeds)
    np.testing.assert_allclose(output, example.expected, RTOL, ATOL)


@pytest.mark.wide
def test_digits_loses_at_most_a_point_and_three_quarters_of_its_size(digits) -> None:
    assert digits.untouched.score.value > 0.98
    assert digits.drop <= 0.01
    assert digits.shrinkage >= 4
    changed = {row.text.partition("{")[0] for row in digits.passes if any(row.counts.values())}
    assert {"prune-channels", "factorize", "distill", "quantize"} <= changed

    images = np.zeros((3, 1, 8, 8), np.float32)
    assert planish.load(digits.directory)(images)[0].shape == (3, 10)


@pytest.mark.slow
def test_a_second_build_is_the_same_to_the_byte(digits, built) -> None:
    assert digest(built("digits").directory) == digest(digits.directory)


def test_passes_of_ones_own_are_named_in_a_recipe(built) -> None:
    artifact = built("custom_pass")
    counts = {row.text: row.counts for row in artifact.passes}
    assert counts["custom:mean_to_pool"] == {"mean-to-pool": 1}
    assert counts["custom:RoundWeights{bits=6}"]["weights"] > 0
    assert artifact.drop <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("name", "drop", "times_smaller"), [("minilm", 0.01, 3.5), ("ocr", 0.005, 2.5)])
def test_pretrained_models_keep_their_budget(built, name: str, drop: float, times_smaller: float) -> None:
    artifact = built(name)
    assert artifact.drop <= drop
    assert artifact.shrinkage >= times_smaller
    assert artifact.load().inputs == planish.load(artifact.directory).inputs


@pytest.fixture(scope="module")
def digits(built):
    return built("digits")


def digest(directory: Path) -> dict[str, str]:
    """The files by content, without what was measured."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.iterdir()
        if path.name not in (MEASUREMENTS, REPORT, TIMINGS)
    }
