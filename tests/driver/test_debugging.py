"""What a failed pass leaves can be run again, searched for the rewrite at fault, and shrunk."""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from planish.driver.cli import app
from planish.ir.equal import differences
from planish.ir.errors import ModelError
from planish.ir.storage import load
from planish.passes.pipeline import parse_pipeline
from planish.passes.reproducer import Reproducer, read_reproducer

PASSES = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.passes.base import Effect, Pass, PassResult


@dataclass(frozen=True)
class Careless(Pass):
    '''Writes every layer anew, and takes one operator for another.'''

    name: ClassVar[str] = "careless"
    effect: ClassVar[Effect] = Effect.ROUNDING
    crashes: bool = False

    def run(self, graph, context):
        for node in graph.nodes:
            if not context.applies("rewrite", node):
                continue
            if self.crashes and node.operator == "Relu":
                raise RuntimeError("out of luck")
            op = Builder(graph, node, node.location)
            operator = "Abs" if node.operator == "Relu" else node.operator
            graph.replace_uses(node.outputs[0], op(operator, *node.inputs, **node.attributes))
            graph.erase(node)
        return PassResult({"rewrite": len(graph)})


@dataclass(frozen=True)
class Clumsy(Pass):
    '''Writes one operator with an attribute that it hasn't, and another with other numbers.'''

    name: ClassVar[str] = "clumsy"
    effect: ClassVar[Effect] = Effect.ROUNDING

    def run(self, graph, context):
        for node in graph.nodes:
            if node.operator == "Relu":
                node.attributes = {"slope": 1}
            if node.operator == "Gemm" and context.applies("rewrite", node):
                node.attributes = {**node.attributes, "alpha": 2.0}
        return PassResult({"rewrite": 1})


@dataclass(frozen=True)
class Shy(Careless):
    '''Makes its mistake as long as there is no folder of a name.'''

    name: ClassVar[str] = "shy"

    def run(self, graph, context):
        return PassResult() if Path("small").exists() else super().run(graph, context)


@dataclass(frozen=True)
class Greedy(Careless):
    '''Takes an operator for another where data say that it does something, and isn't run without them.'''

    name: ClassVar[str] = "greedy"

    def require(self, context):
        if not context.calibration:
            raise UsageError("greedy needs data")

    def run(self, graph, context):
        least = min(array.min() for feeds in context.calibration for array in feeds.values())
        return super().run(graph, context) if least < 0 else PassResult()
"""
CARELESS = "careless:Careless"
AFTER_CLEANUP = len(parse_pipeline("cleanup")) + 1
"""The position of the first pass after `cleanup`."""

Run = Callable[..., Result]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in the user's folder, with temporary files in `tmp` there."""
    (folder / "careless.py").write_text(PASSES)
    (folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def reproducer_in(result: Result) -> Path:
    (path,) = set(re.findall(r"planish opt (\S+)", result.stderr))
    return Path(path)


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [("", 4, "pass careless declares itself rounding"), ("{crashes=true}", 1, "out of luck")],
)
def test_a_failure_is_seen_again_found_and_shrunk(run: Run, folder: Path, options: str, code: int, error: str) -> None:
    failed = run("opt", "net.planish", "-p", f"cleanup,{CARELESS}{options},dce", "-o", "out.onnx")
    assert failed.exit_code == code
    assert error in " ".join(failed.stderr.split())
    assert not (folder / "out.onnx").exists()
    left = reproducer_in(failed)

    again = run("opt", left)
    assert again.exit_code == code
    assert error in " ".join(again.stderr.split())

    found = run("bisect", left, "--json")
    assert found.exit_code == 0, found.stderr
    fault = json.loads(found.stdout)
    assert (fault["rewrite"], fault["position"], fault["step"]) == ("rewrite", AFTER_CLEANUP, CARELESS + options)
    assert fault["node"].startswith("Relu ")
    assert error in fault["reason"]

    shrunk = run("reduce", left, "-o", "small")
    assert shrunk.exit_code == 0, shrunk.stderr
    smaller = read_reproducer(folder / "small")
    assert [node.operator for node in smaller.graph.nodes] == ["Relu"]
    assert smaller.pipeline == CARELESS + options
    assert "Relu(" in shrunk.stdout
    assert run("opt", "small").exit_code == code


def test_what_is_shrunk_keeps_data_that_it_fails_with(run: Run, folder: Path) -> None:
    """A part of the graph is given what flows to it from the data of the whole."""
    failed = run("opt", "net.planish", "-p", "careless:Greedy", "-d", "data.py:test", "-o", "out.onnx")
    left = reproducer_in(failed)
    shrunk = run("reduce", left, "-o", "small")
    assert shrunk.exit_code == 0, shrunk.stderr
    smaller = read_reproducer(folder / "small")
    assert [node.operator for node in smaller.graph.nodes] == ["Relu"]
    (value,) = smaller.graph.inputs
    assert [feeds[value.name].shape for feeds in smaller.calibration] == [(16, 16)] * 3
    assert len(smaller.labels) == len(smaller.calibration)
    assert run("opt", "small").exit_code == 4


def test_what_is_shrunk_fails_by_the_same_check(run: Run, folder: Path) -> None:
    """Half of the graph would fail too, but otherwise: each layer of it is right in form, and wrong in its numbers."""
    left = reproducer_in(run("opt", "net.planish", "-p", "careless:Clumsy", "-o", "out.onnx"))
    shrunk = run("reduce", left, "-o", "small")
    assert shrunk.exit_code == 0
    assert "doesn't fail" not in shrunk.stderr
    assert [node.operator for node in read_reproducer(folder / "small").graph.nodes] == ["Relu"]
    for subject in (left, "small"):
        failed = run("opt", subject)
        assert failed.exit_code == 4
        assert "pass clumsy left a malformed graph: Relu" in " ".join(failed.stderr.split())


def test_what_is_shrunk_is_run_once_as_it_was_written(run: Run) -> None:
    left = reproducer_in(run("opt", "net.planish", "-p", "careless:Shy", "-o", "out.onnx"))
    shrunk = run("reduce", left, "-o", "small")
    assert "small doesn't fail in the same way" in " ".join(shrunk.stderr.split())


def test_a_failed_build_leaves_its_data_too(run: Run, folder: Path) -> None:
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("passes: [cleanup]", f"passes: [cleanup, '{CARELESS}']"))
    failed = run("build", "recipe.yaml")
    assert failed.exit_code == 4
    left = read_reproducer(reproducer_in(failed))
    assert [feeds["features"].shape for feeds in left.calibration] == [(48, 8)]
    assert differences(left.graph, load(folder / "net.planish")) == []
    assert "pass careless" in left.error
    for subject in ("recipe.yaml", reproducer_in(failed)):
        assert f"pass {AFTER_CLEANUP}, careless:Careless: rewrite rewrite of Relu" in run("bisect", subject).stdout


def test_where_nothing_fails_it_is_said(run: Run, folder: Path) -> None:
    assert run("bisect", "net.planish", "-p", "cleanup").stdout == "every check holds\n"
    Reproducer(load(folder / "net.planish"), "cleanup").write(folder / "fine")
    result = run("reduce", "fine", "-o", "small")
    assert result.exit_code == 2
    assert "doesn't fail here" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bisect", "net.planish"], "a model needs a pipeline"),
        (["opt", "net.planish"], "a model needs a pipeline"),
        (["bisect", "recipe.yaml", "-p", "dce"], "a recipe sets its own passes"),
        (["reduce", "net.planish", "-o", "small"], "net.planish is not the folder of a reproducer"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_reproducer_comes_back_as_it_was_written(folder: Path) -> None:
    feeds = [{"features": np.ones((2, 8), np.float32)}, {"features": np.zeros((1, 8), np.float32)}]
    written = Reproducer(load(folder / "net.planish"), "cleanup,dce", "x86-64", 7, feeds, "CheckError: bad")
    for _ in range(2):  # one that is there is replaced
        written.write(folder / "case")
    read = read_reproducer(folder / "case")
    assert (read.pipeline, read.target, read.seed, read.error) == ("cleanup,dce", "x86-64", 7, "CheckError: bad")
    assert differences(read.graph, written.graph) == []
    for one, other in zip(read.calibration, feeds, strict=True):
        np.testing.assert_array_equal(one["features"], other["features"])


@pytest.mark.parametrize("text", ["{", "[]", '{"pipeline": "dce"}'])
def test_a_broken_reproducer_is_named(folder: Path, text: str) -> None:
    (folder / "case").mkdir()
    (folder / "case" / "reproducer.json").write_text(text)
    with pytest.raises(ModelError, match="case is no reproducer, or a broken one"):
        read_reproducer(folder / "case")
