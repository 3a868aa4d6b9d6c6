"""The commands of the first hour: what they write builds, and what they say is there."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from planish.backends.manifest import read_manifest
from planish.driver import cli
from planish.driver.recipe_file import read_recipe
from planish.ir.storage import load


def planish(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def data(folder: Path) -> str:
    features = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
    np.savez(folder / "data.npz", features=features, labels=np.arange(32) % 4)
    return "data.npz"


def test_quantize_builds_int8_into_dist(folder: Path, data: str) -> None:
    result = planish("quantize", "net.planish", "-d", data, "-b", "onnxruntime", "--if-slower", "keep", "-q")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, "built dist"), result.stderr
    assert "running" not in result.stderr
    manifest = read_manifest(folder / "dist")
    assert {"python", "planish", "torch", "onnxruntime"} <= manifest["versions"].keys()
    assert len(manifest["data"]["calibration"]) == len(manifest["data"]["evaluation"]) == 64
    recipe = manifest["recipe"]
    assert recipe["passes"] == ["cleanup", "fuse", {"quantize": {"scheme": "int8", "if_slower": "keep"}}]


def test_quantize_takes_settings_as_build_does(folder: Path) -> None:
    options = ("net.planish", "-b", "onnxruntime", "--if-slower", "keep", "-q", "--fresh")
    result = planish("quantize", *options, "--set", "passes.quantize.block=64", "--set", "seed=5")
    assert result.exit_code == 0, result.stderr
    recipe = read_manifest(folder / "dist")["recipe"]
    options_of_pass = {"scheme": "int8-dynamic", "if_slower": "keep", "block": 64}
    assert (recipe["seed"], recipe["passes"][2]) == (5, {"quantize": options_of_pass})
    refused = planish("quantize", "net.planish", "--set", "passes.quantise.block=8")
    assert (refused.exit_code, "0 steps are called quantise" in refused.stderr) == (2, True)


def test_passes_is_another_name_of_pipeline(folder: Path) -> None:
    one, other = (planish("opt", "net.planish", option, "dce", "-o", "out.onnx") for option in ("--passes", "-p"))
    assert (one.exit_code, other.exit_code) == (0, 0), one.stderr


def test_distill_builds_the_student(folder: Path, data: str) -> None:
    """A student that is its teacher, with features of other names, has learned all that there is."""
    teacher = load(folder / "net.planish")
    names = [value.name for node in teacher.nodes for value in node.outputs]
    pair, options = f"{names[0]}->{names[0]}", ("-b", "onnxruntime", "-q", "--epochs", "1")
    result = planish("distill", "net.planish", "net.planish", "-d", data, "--feature", pair, *options)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, "built dist"), result.stderr
    recipe = read_manifest(folder / "dist")["recipe"]
    taught = {"teacher": "net.planish", "epochs": 1, "outputs": [], "features": [pair]}
    assert recipe["passes"] == ["cleanup", {"distill": taught}, "fuse"]
    assert recipe["data"]["evaluation"] is None
    assert not list(folder.glob(".planish-*"))


def test_what_init_writes_reads_as_a_recipe(folder: Path, data: str) -> None:
    assert planish("init", "net.planish", "-d", data, "-o", "mine/recipe.yaml").exit_code == 0
    recipe = read_recipe(folder / "mine" / "recipe.yaml")
    assert (recipe.model, recipe.data.calibration) == ("../net.planish", "../data.npz")
    assert [step.name for step in recipe.pipeline()][-1] == "quantize"
    again = planish("init", "net.planish", "-o", "mine/recipe.yaml")
    assert (again.exit_code, "recipe.yaml exists" in again.stderr) == (2, True)


def test_every_line_that_init_comments_out_is_right(folder: Path) -> None:
    assert planish("init", "net.planish", "-o", "new.yaml").exit_code == 0
    text = (folder / "new.yaml").read_text()
    for line in ("data: {", "- quantize", "- prune", "- distill", "budget"):
        assert f"# {line}" in text
        text = text.replace(f"# {line}", line)
    (folder / "new.yaml").write_text(text)
    recipe = read_recipe(folder / "new.yaml")
    assert [step.name for step in recipe.pipeline()][-3:] == ["prune-channels", "distill", "quantize"]
    assert recipe.budget.latency == pytest.approx(0.005)


def test_doctor_says_what_is_there() -> None:
    found = json.loads(planish("doctor", "--json").stdout)
    assert found["backend onnxruntime"] == "ready"
    assert {"planish", "packages", "machine", "instructions", "C compiler", "transformers"} <= found.keys()


def test_a_recipe_tells_all_its_mistakes_at_once(folder: Path) -> None:
    (folder / "bad.yaml").write_text(
        "model: nowhere.onnx\ndata: {calibration: data.py:calibratoin}\ntarget: nativ\npasses: [claenup, fuze]\nsed: 3"
    )
    said = planish("build", "bad.yaml").stderr
    assert said.startswith("error: bad.yaml has 5 mistakes:")
    for mistake in ("'sed'", "nowhere.onnx", "'calibratoin'", "'nativ'", "'claenup'", "'fuze'"):
        assert mistake in said
    (folder / "bad.yaml").write_text("model: net.planish\ntarget: nativ\npasses: [claenup]")
    assert planish("build", "bad.yaml").stderr.startswith("error: bad.yaml has 2 mistakes:")
    (folder / "bad.yaml").write_text("model: net.planish\npasses: [distill: {teacher: nobody.onnx}]")
    assert "there is no model" in planish("build", "bad.yaml").stderr


def test_flags_do_what_a_recipe_does(folder: Path, data: str) -> None:
    flags = ["--evaluation", "data.py:test", "--seed", "3", "--max-size", "10MB", "-b", "onnxruntime", "-p", "dce"]
    result = planish("build", "net.planish", "-d", data, *flags)
    assert result.exit_code == 0, result.stderr
    recipe = read_manifest(folder / "dist")["recipe"]
    assert (recipe["seed"], recipe["data"]["evaluation"], recipe["budget"]["size"]) == (3, "data.py:test", 10e6)
    missed = planish("build", "net.planish", "-o", "small", "-b", "onnxruntime", "--max-size", "10B")
    assert (missed.exit_code, (folder / "small").exists()) == (5, False)


def test_presets_are_a_row_unless_all_are_wanted(folder: Path) -> None:
    short, long = (planish("build", "net.planish", "-b", "onnxruntime", *more).stderr for more in ([], ["--all"]))
    assert "\ncleanup " in short
    assert "\nfold-constants " not in short
    assert long.count("\nfold-constants ") == 3
    assert "[1/31] split-sequences" in planish("build", "net.planish", "-b", "onnxruntime", "-v").stderr
