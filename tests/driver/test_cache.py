"""What builds take from earlier ones: nothing that has changed, and nothing that is damaged."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from planish.driver.build import build
from planish.driver.cache.store import Store
from planish.driver.cache.values import KeptValues
from planish.driver.cli import app
from planish.driver.integrity import check_integrity
from planish.driver.page.page import read_page
from planish.driver.recipe_file import make_recipe
from planish.driver.reporter import Reporter
from planish.ir.errors import BudgetError, CheckError, ModelError, UsageError
from planish.ir.hash import structural_hash
from planish.ir.storage import load, save
from planish.passes.base import PassContext
from planish.passes.instrument import Instrument
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline
from planish.targets.load import load_target

MEASURED = ("measurements.json", "report.html", "timings.json")
"""The files of an artifact in which times are."""
PASSES = ("cleanup", "fuse", "passes_of_mine:Negate", "cse", {"prune-channels": {"ratio": 0.25, "importance": "l1"}})


class Listener(Reporter):
    """Hears which passes run, and what is noted and warned of."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def running(self, name: str, number: int, total: int) -> None:
        self.ran.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A cache of the test's own, in which builds keep what they make."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PLANISH_CACHE", str(folder))
    monkeypatch.setenv("PLANISH_CACHE_SIZE", "1GB")
    found = Store.of_user()
    assert found is not None
    return found


@pytest.fixture
def built(folder: Path, store: Store) -> Callable[..., Listener]:
    """Builds a recipe of the user's folder, with changes, and tells what was heard."""

    def run(fresh: bool = False, instruments: tuple[Instrument, ...] = (), **changes: object) -> Listener:
        data = {"calibration": "data.py:calibration", "evaluation": "data.py:test"}
        content = {"model": "net.planish", "data": data, "backend": "onnxruntime", "passes": PASSES}
        heard = Listener()
        build(make_recipe({**content, "folder": folder, **changes}), heard, instruments, fresh=fresh)
        return heard

    return run


def files(folder: Path, *, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "dist").iterdir() if path.name not in but}


def of_the_pipeline(heard: Listener) -> list[str]:
    """The passes that ran, without those of backends."""
    return [name for name in heard.ran if name != "legalize"]


def test_an_unchanged_recipe_runs_nothing_and_gives_the_same_files(
    built: Callable[..., Listener], folder: Path
) -> None:
    assert "prune-channels" in built().ran
    before = files(folder)
    again = built()
    assert again.ran == []
    assert any(note.startswith("nothing has changed since the last build") for note in again.notes)
    assert files(folder) == before
    assert "prune-channels" in built(fresh=True).ran
    assert files(folder, but=MEASURED).items() <= before.items()


@pytest.mark.wide
@pytest.mark.parametrize("backend", ["onnxruntime", "tvm"])
def test_builds_in_two_folders_differ_by_measured_times_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    found: list[dict[str, bytes]] = []
    for name in ("one", "another/deeper"):
        place = shutil.copytree(folder, tmp_path / name)
        monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / f"cache of {name}"))
        data = {"calibration": "data.py:calibration", "evaluation": "data.py:test"}
        passes = ["cleanup", {"prune-channels": {"ratio": 0.25}}, {"quantize": {"required": False}}]
        content = {"model": "model.py:build", "data": data, "backend": backend, "passes": passes, "folder": place}
        build(make_recipe(content), times=tmp_path / "one" / "dist" if found else None)
        found.append(files(place, but=MEASURED))
    assert found[0] == found[1]


def test_arrays_that_passes_compute_outlive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.driver.cache.values._WORTH", -1.0)
    monkeypatch.setattr("planish.driver.cache.values._MOST_BYTES", float("inf"))

    def run(most: int, *, reaches_the_end: bool = False) -> tuple[list[str], list[float]]:
        """What a step computes that is killed after so many computations, and what it is given."""
        values, computed = KeptValues(tmp_path, ["key of the source", "key of the step"], 0), list[str]()

        def value(name: str, number: float, *inner: str) -> float:
            def compute() -> list[np.ndarray]:
                if len(computed) == most:
                    raise KeyboardInterrupt
                for it in inner:
                    value(it, 0.0)
                computed.append(name)
                return [np.array(number)]

            return float(values.remember(compute)[0])

        values.before(None, None)
        given = list[float]()
        with suppress(KeyboardInterrupt):
            given += (value("a", 1.0), value("b", 2.0, "within b"), value("c", 3.0))
            values.before(None, None)
            given.append(value("a", 4.0))
        if reaches_the_end:
            values.reached(1, None)
        return computed, given

    assert run(3) == (["a", "within b", "b"], [])
    damaged, *_ = sorted(tmp_path.iterdir())
    assert run(10) == (["c", "a"], [1.0, 2.0, 3.0, 4.0])
    damaged.write_bytes(damaged.read_bytes()[:-30])
    assert len(run(10, reaches_the_end=True)[0]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "pipeline", ["prune-channels{max_drop=50,round_to=1}", "quantize{if_slower=keep}", "factorize{max_drop=50}", "gptq"]
)
def test_a_pass_that_is_killed_ends_in_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: str
) -> None:
    monkeypatch.setattr("planish.driver.cache.values._WORTH", -1.0)
    monkeypatch.setattr("planish.driver.cache.values._MOST_BYTES", float("inf"))
    samples = np.random.default_rng(0).standard_normal((8, 16, 8)).astype(np.float32)
    target = load_target("native")
    kept, count = tmp_path / "values", 0

    def run(most: float) -> str:
        """The hash of the graph, or nothing where the pass is killed after some values."""
        nonlocal count
        graph, count = load(folder / "net.planish"), 0
        values = KeptValues(kept, ["source", "step"], 0)

        def remember(compute: Callable[[], Sequence[np.ndarray]]) -> Sequence[np.ndarray]:
            nonlocal count
            if count >= most:
                raise KeyboardInterrupt
            found, count = values.remember(compute), count + 1
            return found

        context = PassContext(target, graph.clone(), [{"features": batch} for batch in samples], remember=remember)
        with suppress(KeyboardInterrupt):
            PassManager(parse_pipeline(pipeline), [values]).run(graph, context)
            return structural_hash(graph)
        return ""

    whole = run(float("inf"))
    for most in range(1, count, max(count // 3, 1)):
        assert run(most) == ""
        assert list(kept.iterdir())
        assert run(float("inf")) == whole


def test_what_the_amount_does_not_decide_is_computed_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planish.driver.cache.values._WORTH", -1.0)
    monkeypatch.setattr("planish.driver.cache.values._MOST_BYTES", float("inf"))
    samples = np.random.default_rng(0).standard_normal((8, 16, 8)).astype(np.float32)
    target = load_target("native")

    def run(pipeline: str, kept: Path) -> tuple[str, int]:
        """The hash of the graph, and how often what is shared was computed."""
        graph, count = load(folder / "net.planish"), 0
        values = KeptValues(kept, ["source", pipeline], 0)

        def share(about: str, compute: Callable[[], Sequence[np.ndarray]]) -> Sequence[np.ndarray]:
            def counted() -> Sequence[np.ndarray]:
                nonlocal count
                count += 1
                return compute()

            return values.share(about, counted)

        batches = [{"features": batch} for batch in samples]
        context = PassContext(target, graph.clone(), batches, remember=values.remember, share=share)
        PassManager(parse_pipeline(pipeline), [values]).run(graph, context)
        return structural_hash(graph), count

    first, computed = run("prune-channels{flops=0.25}", tmp_path / "shared")
    assert computed
    found = {}
    for pipeline in (
        "prune-channels{flops=0.5}",
        "prune-channels{flops=0.5,round_to=1}",
        "group(cse,prune-channels{flops=0.5})",
    ):
        found[pipeline] = run(pipeline, tmp_path / "shared")
        assert found[pipeline][0] == run(pipeline, tmp_path / pipeline)[0] != first
    assert [bool(count) for _, count in found.values()] == [False, True, True]


def test_an_unchanged_recipe_is_answered_without_torch(folder: Path, store: Store) -> None:
    build(folder / "recipe.yaml")
    program = "import sys; sys.modules['torch'] = None; from planish.driver.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program, "build", "recipe.yaml"], check=False, capture_output=True)
    assert (done.returncode, b"nothing has changed" in done.stderr) == (0, True), done.stderr.decode()


def test_a_budget_and_a_place_are_no_reason_to_build_anew(built: Callable[..., Listener], folder: Path) -> None:
    built()
    assert built(budget={"size": "10 MB"}, output="elsewhere").ran == []
    assert (folder / "elsewhere" / "model.onnx").read_bytes() == (folder / "dist" / "model.onnx").read_bytes()


def test_a_budget_is_held_to_what_was_measured_earlier(built: Callable[..., Listener]) -> None:
    without = {"calibration": "data.py:calibration"}
    built(data=without, passes=["dce"])
    with pytest.raises(UsageError, match="a budget on the metric needs evaluation data"):
        built(data=without, passes=["dce"], budget={"metric_drop": "1%"})
    with pytest.raises(BudgetError, match="the size is"):
        built(data=without, passes=["dce"], budget={"size": "10 B"})


def test_another_option_of_the_last_pass_runs_that_pass_alone(built: Callable[..., Listener], folder: Path) -> None:
    other = (*PASSES[:-1], {"prune-channels": {"ratio": 0.5, "importance": "l1"}})
    built()
    assert of_the_pipeline(built(passes=other))[:1] == ["prune-channels"]
    assert "negate" not in built(passes=(*PASSES[:-1], {"prune-channels": {"ratio": 0.5, "importance": "l2"}})).ran
    built(passes=other)
    taken, graphs = files(folder, but=MEASURED), read_page(folder / "dist")["graphs"]
    built(passes=other, fresh=True)
    assert files(folder, but=MEASURED) == taken
    assert read_page(folder / "dist")["graphs"] == graphs
    assert len(graphs["steps"]) > 2


def test_what_the_result_depends_on_is_looked_at(built: Callable[..., Listener], folder: Path, store: Store) -> None:
    built()
    edits: dict[str, tuple[str, Callable[[str], str]]] = {
        "the data": ("data.py", lambda text: text.replace("samples(1)", "samples(3)")),
        "a pass of the user's": ("passes_of_mine.py", lambda text: text.replace('{"negate": 1}', '{"negate": 2}')),
    }
    for what, (name, edit) in edits.items():
        path = folder / name
        path.write_text(edit(path.read_text()))
        sys.modules.pop("passes_of_mine", None)
        assert "prune-channels" in built().ran, what
        assert built().ran == [], what
    graph = load(folder / "net.planish")
    constant = next(it for it in graph.constants.values() if it.data.size > 16)
    constant.data = constant.data * np.float32(2)
    save(graph, folder / "net.planish")
    assert "cse" in built().ran
    assert "cse" in built(seed=1).ran
    assert "cse" in built(verify="numeric,probes=3").ran


def test_instruments_see_every_pass(built: Callable[..., Listener]) -> None:
    built()
    assert "cse" in built(instruments=(Instrument(),)).ran


@pytest.mark.wide
def test_what_is_damaged_is_made_again(built: Callable[..., Listener], folder: Path, store: Store) -> None:
    built()
    before = files(folder, but=MEASURED)
    for path in (store.folder / "objects").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "cse" in built().ran
    assert files(folder, but=MEASURED) == before
    for path in store.folder.rglob("*.json"):
        path.write_text(path.read_text().replace("0", "1", 1))
    assert "cse" in built().ran
    assert files(folder, but=MEASURED) == before


def test_a_pass_behind_kept_steps_is_held_to_the_last_lossy_one(built: Callable[..., Listener]) -> None:
    """The graph is the opposite of its source there, which nothing but a lossy pass may have made of it."""
    built(passes=(*PASSES[:3], "cse", "dce"))
    again = built(passes=(*PASSES[:3], "cse", "fuse-bias"))
    assert "negate" not in again.ran
    with pytest.raises(CheckError, match="pass wrong declares itself rounding"):
        built(passes=(*PASSES[:3], "cse", "passes_of_mine:Wrong"))


@pytest.mark.wide
def test_a_merge_runs_again_so_that_what_is_left_of_its_adapters_is_measured(built: Callable[..., Listener]) -> None:
    passes = ("cleanup", {"lora": {"rank": 2, "start": "pissa"}}, "merge-lora", "quantize")
    first = built(passes=passes)
    heard = built(passes=(*passes[:3], {"quantize": {"observer": "mse"}}))
    assert "merge-lora" in heard.ran
    for it in (first, heard):
        (left,) = (note for note in it.notes if "of what the adapter does is left after quantize" in note)
        assert 50 < float(left.partition("%")[0]) < 150


@pytest.mark.wide
def test_nothing_is_kept_where_nothing_may_be(
    built: Callable[..., Listener], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANISH_CACHE_SIZE", "0")
    assert built().ran == built().ran != []
    monkeypatch.setenv("PLANISH_CACHE_SIZE", "1GB")
    (tmp_path / "file").touch()
    monkeypatch.setenv("PLANISH_CACHE", str(tmp_path / "file"))
    heard = built()
    assert "cse" in heard.ran
    assert any(re.match("nothing of this build is kept for later ones: the cache .*", it) for it in heard.warnings)


def test_what_was_asked_for_least_recently_goes_first(store: Store) -> None:
    names = [store.put([bytes([number]) * 1000]) for number in range(4)]
    for age, name in zip((40, 30, 20, 10), names, strict=True):
        path = store.folder / "objects" / name[:2] / name
        os.utime(path, (time.time() - age, time.time() - age))
    assert store.get(names[0]) is not None  # used just now
    assert store.trim(2000) == 2000
    assert [store.get(name) is not None for name in names] == [True, False, False, True]
    assert store.count() == {"objects": (2, 2000)}
    assert store.trim(0) == 2000


@pytest.mark.wide
def test_a_killed_build_is_taken_up_where_it_was(folder: Path, store: Store) -> None:
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        recipe.read_text().replace("[cleanup]", json.dumps([*PASSES[:-1], "passes_of_mine:Signal", "dce"]))
    )
    passes = folder / "passes_of_mine.py"
    passes.write_text(passes.read_text().replace("number: int = 2", f"number: int = {int(signal.SIGKILL)}"))
    program = (
        "from planish.driver.cache import steps\nsteps._WORTH, steps._SHARE = -1.0, 0\n"
        "from planish.driver.cli import main\nmain()"
    )
    command = [sys.executable, "-c", program, "build", "recipe.yaml"]
    assert subprocess.run(command, cwd=folder, check=False).returncode == -signal.SIGKILL
    recipe.write_text(recipe.read_text().replace('"passes_of_mine:Signal", ', ""))
    done = subprocess.run([*command, "--all"], cwd=folder, check=True, capture_output=True, text=True)
    assert re.search(r"the graph after \d+ of \d+ steps is that of an earlier build", done.stderr)
    taken = files(folder, but=MEASURED)
    subprocess.run([*command, "--fresh"], cwd=folder, check=True)
    assert files(folder, but=MEASURED) == taken


def test_a_byte_that_flips_anywhere_is_noticed(artifact: Path, tmp_path: Path) -> None:
    for original in artifact.iterdir():
        (tmp_path / original.name).write_bytes(original.read_bytes())
    whole = check_integrity(tmp_path)
    assert (whole.files, whole.faults) == (4, ())
    draw = np.random.default_rng(0)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for place in draw.integers(0, len(content), 40).tolist():
            path.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << int(draw.integers(8))]) + content[place + 1 :]
            )
            assert not is_whole(tmp_path), (path.name, place)
        path.write_bytes(content)
    (tmp_path / "more").touch()
    assert check_integrity(tmp_path).faults == (f"{tmp_path / 'more'} is no part of the artifact",)


def is_whole(directory: Path) -> bool:
    try:
        return not check_integrity(directory).faults
    except ModelError:  # the manifest makes no sense any more
        return False


def test_the_command_line_tells_of_the_cache_and_of_artifacts(artifact: Path, store: Store, tmp_path: Path) -> None:
    store.put([b"object"])
    shown = CliRunner().invoke(app, ["cache", "--json"])
    assert json.loads(shown.stdout)["objects"] == "1 files, 6 B"
    assert CliRunner().invoke(app, ["cache", "--prune", "0"]).exit_code == 0
    assert store.count() == {}
    assert CliRunner().invoke(app, ["cache", "--prune", "much"]).exit_code == 2
    assert CliRunner().invoke(app, ["verify", str(artifact)]).exit_code == 0
    shutil.copytree(artifact, tmp_path / "other")
    (tmp_path / "other" / "more").touch()
    found = CliRunner().invoke(app, ["verify", str(tmp_path / "other")])
    assert (found.exit_code, "more is no part of the artifact" in found.stderr) == (4, True)
