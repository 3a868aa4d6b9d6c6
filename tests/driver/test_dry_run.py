"""What a build would do, told without building."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from planish.driver.cli import app
from planish.driver.dry_run import dry_run
from planish.driver.recipe_file import make_recipe
from planish.driver.reporter import SILENT
from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.storage import save
from planish.ir.types import DType, TensorType

PASSES = ["cleanup", {"prune-channels": {"ratio": 0.5}}, "quantize"]
MEASURING = [{"prune-channels": {"speedup": 2.0}}, "quantize-mixed"]


def test_exact_passes_run_and_of_lossy_ones_places_are_told(folder: Path) -> None:
    found = dry_run(
        make_recipe(
            {
                "model": "net.planish",
                "passes": PASSES,
                "target": "x86-64-avx512-vnni",
                "data": {"calibration": "data.py:calibration"},
                "folder": folder,
            }
        ),
        SILENT,
    )
    rows = {row.text: row for row in found.rows}
    assert rows["prune-channels{ratio=0.5}"].counts["groups"] > 0
    assert rows["quantize"].counts["layers"] == 2
    assert rows["quantize"].cost.parameters == rows["cse"].cost.parameters  # nothing was pruned
    assert found.backends == {"onnxruntime": "", "tvm": ""}
    assert found.calibration > 0
    assert not (folder / "dist").exists()


def test_what_a_build_would_refuse_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="calibration"):
        dry_run(make_recipe({"model": "net.planish", "passes": PASSES, "folder": folder}), SILENT)


def test_passes_that_measure_are_given_what_a_build_gives_them(folder: Path) -> None:
    named = {"model": "model.py:build", "data": {"calibration": "data.py:calibration"}, "backend": "onnxruntime"}
    found = dry_run(make_recipe({**named, "passes": MEASURING, "folder": folder}), SILENT)
    assert found.rows[-1].text == "quantize-mixed"


def test_a_backend_that_cannot_run_the_model_says_why(folder: Path) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.string, (2,)))
    graph.outputs["y"] = Builder(graph).StringConcat(x, x)
    save(graph, folder / "words.planish")
    ended = CliRunner().invoke(app, ["build", "words.planish", "--dry-run"])
    assert ended.exit_code == 0
    assert "tvm can't run the model: TVM has no tensors of string" in ended.output
    assert "in onnxruntime  runs" in ended.output
    assert not (folder / "dist").exists()
