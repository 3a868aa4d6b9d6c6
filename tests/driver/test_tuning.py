"""`planish tune` as a user meets it: a file that is added to, that builds take, and that is never half-written."""

import json
from pathlib import Path

import pytest

pytest.importorskip("tvm")

from typer.testing import CliRunner, Result

from planish.driver import cli
from planish.driver.reporter import Reporter
from planish.driver.tuning import tune


def planish(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def measured(path: Path) -> dict[str, dict[str, object]]:
    """What a file has of the one target that it is for."""
    [kernels] = json.loads(path.read_text())["targets"].values()
    return kernels


@pytest.mark.wide
def test_a_model_is_tuned_and_built_by_what_was_found(folder: Path) -> None:
    result = planish("tune", "net.planish", "-o", "tuned.json", "--budget", "30", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["kernels"] == 2
    assert found["known"] == 0
    assert {finding["kernel"] for finding in found["findings"]} == measured(folder / "tuned.json").keys()
    before = (folder / "tuned.json").read_bytes()
    again = json.loads(planish("tune", "net.planish", "-o", "tuned.json", "--json").stdout)
    assert again["known"] == 2
    assert again["findings"] == []
    assert (folder / "tuned.json").read_bytes() == before

    result = planish("build", "net.planish", "-p", "dce", "-b", "tvm", "--tuned", "tuned.json", "-o", "dist")
    assert result.exit_code == 0, result.stderr
    manifest = json.loads((folder / "dist" / "manifest.json").read_text())
    assert manifest["tuned"]["file"] == "tuned.json"
    assert len(manifest["tuned"]["sha256"]) == 64


def test_no_time_is_no_error(folder: Path) -> None:
    result = planish("tune", "net.planish", "-o", "tuned.json", "--budget", "0")
    assert result.exit_code == 0
    assert "left as estimated" in result.stderr
    assert not (folder / "tuned.json").exists()


class Interrupt(Reporter):
    """Ends the work once the first kernel was measured."""

    def progress(self, description: str, done: int, total: int) -> None:
        if description == "measuring kernels":
            raise KeyboardInterrupt


@pytest.mark.wide
def test_an_interrupt_leaves_what_is_known(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        tune("net.planish", Path("tuned.json"), reporter=Interrupt())
    assert len(measured(folder / "tuned.json")) == 1
    assert {path.name for path in folder.iterdir()} == {*names, "tuned.json"}


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["tune", "net.planish", "-o", "tuned.txt"], 2, "tuned.txt must end in .json"),
        (["tune", "net.planish", "-o", "nowhere/tuned.json"], 2, "there is no folder nowhere"),
        (["tune", "net.planish", "-o", "broken.json"], 3, "broken.json is no database"),
        (["tune", "net.planish", "-o", "tuned.json", "-t", "aarch64"], 6, "kernels for aarch64 can't be measured here"),
        (["build", "net.planish", "-o", "x", "--tuned", "nowhere.json"], 2, "there is no database nowhere.json"),
        (["build", "net.planish", "-o", "x", "--tuned", "broken.json"], 3, "broken.json is no database"),
        (
            ["build", "net.planish", "-o", "x", "--tuned", "b.json", "-b", "onnxruntime"],
            2,
            "which onnxruntime doesn't use",
        ),
    ],
)
def test_what_can_t_be_done_is_said(folder: Path, arguments: list[str], code: int, expected: str) -> None:
    (folder / "broken.json").write_text("{")
    result = planish(*arguments)
    assert result.exit_code == code, result.stderr
    assert expected in " ".join(result.stderr.split())
    assert not (folder / "tuned.json").exists()
    assert (folder / "broken.json").read_text() == "{"
