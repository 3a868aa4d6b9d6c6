"""Workers of a search: whoever they are and whatever becomes of them, the results are the same."""

import importlib
import json
import os
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from planish.driver.executor import opened
from planish.driver.recipe_file import make_recipe
from planish.driver.search import search
from planish.ir.errors import UsageError

FATAL = """
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from planish.passes.base import Effect, Pass, PassResult


@dataclass(frozen=True)
class Fatal(Pass):
    '''Kills the first process that runs it.'''

    name: ClassVar[str] = "fatal"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph, context):
        if not Path(os.environ["VICTIM"]).exists():
            Path(os.environ["VICTIM"]).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return PassResult()
"""
TECHNIQUES = [["fatal:Fatal"], [{"prune-channels": {"ratio": 0.25}}, {"prune-channels": {"ratio": 0.5}}]]


@contextmanager
def cluster(kind: str) -> Generator[str]:
    """The text that names two workers."""
    if kind != "dask":
        yield {"processes": "processes://2", "ray": "ray://"}[kind]
        return
    distributed = importlib.import_module("distributed")
    with closing(distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")) as found:
        yield f"dask://{found.scheduler_address.removeprefix('tcp://')}"


def found(folder: Path, place: str | None) -> tuple[list[object], dict[str, object]]:
    """The plans of a search with what they measure but for times, and the graphs that are kept, by their keys."""
    data = {"calibration": "data.py:calibration", "evaluation": "data.py:test"}
    content = {"model": "net.planish", "data": data, "backend": "onnxruntime", "budget": {"metric_drop": "50%"}}
    recipe = make_recipe({**content, "search": {"goal": "size", "passes": TECHNIQUES}, "folder": folder})
    outcome = search(recipe, executor=place)
    points = [(str(it.plan), it.shrinkage, it.drop, it.failure) for it in outcome.points]
    kept = Path(os.environ["PLANISH_CACHE"], "builds/steps")
    graphs = {path.name: json.loads(json.loads(path.read_text())["record"])["graph"] for path in kept.iterdir()}
    return points, graphs


@pytest.mark.wide
@pytest.mark.parametrize("kind", ["processes", "dask", "ray"])
def test_a_search_by_workers_of_which_one_dies_gives_the_same_bytes(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    package = {"dask": "distributed"}.get(kind, kind)
    if kind != "processes":
        pytest.importorskip(package)
    (folder / "fatal.py").write_text(FATAL)
    monkeypatch.setenv("PLANISH_CACHE_SIZE", "1GB")
    victims = tmp_path_factory.mktemp("victims")
    monkeypatch.setenv("VICTIM", str(victims))  # it is there: nobody is killed
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path_factory.mktemp("alone")))
    points, graphs = found(folder, None)
    monkeypatch.setenv("VICTIM", str(victims / "one"))
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path_factory.mktemp("together")))
    with cluster(kind) as place:
        others, made = found(folder, place)
    assert others == points
    shared = graphs.keys() & made.keys()  # which graphs are worth keeping goes by the time that they took
    assert {name: graphs[name] for name in shared} == {name: made[name] for name in shared} != {}
    assert (victims / "one").read_text() != str(os.getpid())


def test_executors_that_are_none_are_refused() -> None:
    for place in ("2", "processes://none", "dask://", "http://localhost:1"):
        with pytest.raises(UsageError, match="is none of processes://COUNT"), opened(place):
            pass
