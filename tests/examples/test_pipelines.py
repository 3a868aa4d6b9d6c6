"""The commands of the pipelines' files run, in a copy of their folder; what needs a network is left out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from planish.passes.units import show_bytes

EXAMPLE = Path(__file__).parents[2] / "examples" / "pipelines"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("pipelines") / "copy", dirs_exist_ok=True))


def run(command: str, folder: Path) -> None:
    scripts = Path(sys.executable).parent
    ours = {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=os.environ | ours, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def commands(content: Any) -> list[str]:
    """What a file of GitHub's, GitLab's or pre-commit's runs, but for installing."""
    if isinstance(content, list):
        return [command for item in content for command in commands(item)]
    if not isinstance(content, dict):
        return []
    own = [content[key] for key in ("run", "entry") if isinstance(content.get(key), str)]
    found = [*own, *content.get("script", []), *(command for value in content.values() for command in commands(value))]
    return [command for command in found if not command.startswith("pip install")]


@pytest.mark.wide
@pytest.mark.parametrize("file", [".github/workflows/model.yml", ".gitlab-ci.yml", ".pre-commit-config.yaml"])
def test_what_a_pipeline_runs_ends_well(folder: Path, file: str) -> None:
    found = commands(yaml.safe_load((EXAMPLE / file).read_text()))
    assert found
    for command in found:
        run(command.replace("--dry-run", "--dry-run recipe.yaml"), folder)  # pre-commit adds the files


@pytest.mark.wide
def test_the_makefile_builds_holds_and_releases(folder: Path) -> None:
    run("make release", folder)
    card = (folder / "README.dist.md").read_text()
    measured = json.loads((folder / "dist" / "measurements.json").read_text())
    assert yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]["metrics"][0]["type"] == "agreement"
    assert f"| size | {show_bytes(measured['untouched']['size_bytes'])} |" in card


@pytest.mark.wide
def test_a_run_is_logged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/runs.db")
    run("make && python mlflow_log.py dist", folder)
    (found,) = mlflow.search_runs(output_format="list")
    assert found.data.metrics["size_bytes"] < 2_000_000
