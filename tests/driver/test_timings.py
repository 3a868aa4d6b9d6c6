"""What passes are told of times: kept with an artifact, and told again, so that a build decides as it did."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from planish.driver.build import build
from planish.driver.cli import app
from planish.driver.integrity import check_integrity
from planish.driver.job import prepare
from planish.driver.profiling import GraphProfiler
from planish.driver.rebuild import differences
from planish.driver.recipe import Recipe
from planish.driver.recipe_file import make_recipe
from planish.driver.reporter import SILENT, Reporter
from planish.driver.timings import Earlier, Timings
from planish.driver.user_code import isolated_imports
from planish.ir.errors import ModelError
from planish.ir.graph import Graph
from planish.passes.base import PassContext, Profile
from planish.passes.cleanup.cse import CommonSubexpressionElimination
from planish.passes.cleanup.dce import DeadCodeElimination
from planish.targets.load import load_target

TIMED = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from planish.ir.builder import Builder
from planish.passes.base import Effect, Pass, PassResult


@dataclass(frozen=True)
class Stretch(Pass):
    '''Stretches the model by a number that its times decide.'''

    name: ClassVar[str] = "stretch"
    effect: ClassVar[Effect] = Effect.LOSSY
    max_drift: ClassVar[float] = 10.0

    def run(self, graph, context):
        (profile,) = context.profile([graph])
        (layers,) = context.timing.layers([graph])
        (rounds,) = context.timing.rounds([graph])
        seconds = profile.seconds + sum(profile.modules.values()) + sum(layers.values()) + rounds.mean()
        for name, value in graph.outputs.items():
            graph.outputs[name] = Builder(graph).Mul(value, np.float32(1 + seconds))
        return PassResult({"stretch": 1})
"""


class Warnings(Reporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def recipe(folder: Path, name: str, **changes: object) -> Recipe:
    (folder / "timed.py").write_text(TIMED)
    content = {"model": "net.planish", "data": {"calibration": "data.py:calibration"}, "backend": "onnxruntime"}
    passes = ["cleanup", "timed:Stretch", "cse"]
    return make_recipe({**content, "passes": passes, "output": name, "folder": folder, **changes})


def unmeasured(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.name not in ("measurements.json", "report.html")
    }


@pytest.fixture
def caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A new cache for each build that asks for one."""

    def fresh() -> None:
        monkeypatch.setenv("PLANISH_CACHE", str(tmp_path_factory.mktemp("cache")))

    monkeypatch.setenv("PLANISH_CACHE_SIZE", "1GB")
    fresh()
    return fresh


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("something was timed")


def test_another_build_by_the_same_times_makes_the_same(
    folder: Path, caches: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(recipe(folder, "first")).directory
    kept = build(recipe(folder, "kept", passes=["cleanup", "timed:Stretch", "dce"])).directory
    assert json.loads((kept / "timings.json").read_text()) == json.loads((first / "timings.json").read_text())
    caches()
    monkeypatch.setattr(GraphProfiler, "__call__", refuse)
    again = build(recipe(folder, "again"), times=first).directory
    assert unmeasured(again) == unmeasured(first)
    assert differences(first, folder, SILENT) == []


@pytest.mark.wide
def test_what_differs_in_what_is_built_again_is_named(folder: Path, caches: Callable[[], None]) -> None:
    bounds = {"budget": {"latency": "1 s", "size": "1 MB"}}  # which the manifest has as numbers
    artifact = build(recipe(folder, "dist", **bounds)).directory
    caches()
    assert CliRunner().invoke(app, ["verify", str(artifact), "--rebuild", "--json"]).exit_code == 0
    text = (folder / "data.py").read_text()
    (folder / "data.py").write_text(text.replace("samples(1)", "samples(3)"))
    result = CliRunner().invoke(app, ["verify", "dist", "--rebuild", "--json"])
    assert result.exit_code == 4
    (fault,) = json.loads(result.stdout)["faults"]
    assert fault.startswith("data.calibration is ")
    moved = shutil.copytree(artifact, folder / "elsewhere" / "dist")
    away = CliRunner().invoke(app, ["verify", str(moved), "--rebuild"])
    assert (away.exit_code, "net.planish" in away.output) == (2, True)
    found = CliRunner().invoke(app, ["verify", str(moved), "--rebuild", "--folder", str(folder), "--json"])
    assert json.loads(found.stdout)["faults"] == [fault]


@pytest.mark.parametrize(("asked", "taken"), [("auto", "tvm"), ("onnxruntime", "onnxruntime")])
def test_the_backend_of_the_earlier_build_is_taken_where_the_recipe_leaves_the_choice(
    folder: Path, asked: str, taken: str
) -> None:
    with isolated_imports(folder):
        assert prepare(recipe(folder, "dist", backend=asked), SILENT, (), Earlier((), "tvm")).backend == taken


@pytest.mark.wide
def test_times_that_were_changed_or_are_of_another_pass_are_not_gone_by(
    folder: Path, caches: Callable[[], None]
) -> None:
    artifact = build(recipe(folder, "dist")).directory
    heard = Warnings()
    build(recipe(folder, "idle", passes=["cleanup", "timed:Stretch{required=True}"]), heard, times=artifact)
    assert [text for text in heard.texts if "timed anew" in text] == [
        "timed:Stretch{required=true} was timed anew, since the times that were given have none for it"
    ]
    path = artifact / "timings.json"
    path.write_text(path.read_text().replace("timed:Stretch", "timed:Squeeze", 1))
    assert check_integrity(artifact).faults
    with pytest.raises(ModelError, match=r"timings\.json is damaged"):
        build(recipe(folder, "again"), times=artifact)
    with pytest.raises(ModelError, match="is not an artifact"):
        build(recipe(folder, "again"), times=folder)


@dataclass
class Clock:
    """Times that are counted up, so that none is like another."""

    count: int = 0

    def __call__(self, graphs: Sequence[Graph], **_: Any) -> list[Profile]:
        return [Profile(np.array(self._seconds()), {"a": self.count / 7}, {}) for _ in graphs]

    def layers(self, graphs: Iterable[Graph]) -> list[Mapping[str, float]]:
        return [{"a": self._seconds()[0], **({"b": 1.0} if number else {})} for number, _ in enumerate(graphs)]

    def rounds(self, graphs: Sequence[Graph]) -> list[np.ndarray]:
        return [np.array(self._seconds()) for _ in graphs]

    def _seconds(self) -> list[float]:
        self.count += 1
        return [1 / (3 * self.count), 2 / (3 * self.count)]


def ask(context: PassContext, graph: Graph, count: int = 2) -> list[Any]:
    assert context.profile is not None
    assert context.timing is not None
    profiles = [(it.rounds.tolist(), it.modules, it.conversions) for it in context.profile([graph] * count)]
    rounds = [it.tolist() for it in context.timing.rounds([graph] * count)]
    return [profiles, list(context.timing.layers([graph] * count)), rounds]


def test_what_passes_are_told_comes_back_in_order_by_pass() -> None:
    graph, clock = Graph(), Clock()
    context = PassContext(load_target("x86-64-avx2"), graph, profile=clock, timing=clock)
    noted = Timings()
    first, second = CommonSubexpressionElimination(), DeadCodeElimination()
    heard: dict[str, Any] = {}
    for step in (first, second):
        noted.before(step, graph)
        heard[step.name] = ask(noted.noting(context), graph)
    assert heard["cse"] != heard["dce"]
    assert heard["cse"][1][0].keys() == {"a"}
    assert heard["cse"][1][1].keys() == {"a", "b"}
    assert heard["cse"][0][0][0] == [0.3333, 0.6667]

    def again(step: Any, told: Any, count: int = 2) -> tuple[Any, Timings]:
        timings = Timings(told)
        timings.before(step, graph)
        return ask(timings.noting(context), graph, count), timings

    told = json.loads(json.dumps(noted.told))
    taken = clock.count
    assert again(first, told)[0] == heard["cse"]
    found, timings = again(second, told)  # behind those of the other pass
    assert found == heard["dce"]
    assert timings.told == noted.told[3:]
    assert (clock.count, timings.missed) == (taken, [])
    assert again(second, told[:3])[1].missed == ["dce"] * 3
    with pytest.raises(ModelError, match="the times given for cse aren't of what it asks for"):
        again(first, told, count=3)
    with pytest.raises(ModelError, match="the times given for cse aren't of what it asks for"):
        again(first, [["cse", [{"seconds": 1}]]])


def test_without_anything_to_time_nothing_is_noted() -> None:
    context = PassContext(load_target("x86-64-avx2"), Graph())
    timings = Timings()
    noting = timings.noting(context)
    assert (noting.profile, noting.timing) == (None, None)
    assert replace(noting, remember=context.remember) == context
