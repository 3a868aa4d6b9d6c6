import json
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from planish.backends.manifest import read_measurements
from planish.driver.api import optimize
from planish.driver.build import build
from planish.driver.recipe_file import make_recipe
from planish.driver.reporter import Reporter
from planish.ir.errors import BudgetError, CheckError, ModelError, PassError, TargetError, UsageError
from planish.ir.graph import Graph
from planish.ir.storage import save
from planish.ir.text import parse_graph
from planish.passes.base import PassContext
from planish.passes.instrument import Instrument


def recipe(folder: Path, **changes: object) -> object:
    data = {"calibration": "data.py:calibration", "evaluation": "data.py:test"}
    content = {"model": "net.planish", "data": data, "backend": "onnxruntime", "passes": ["cleanup"]}
    return make_recipe({**content, "folder": folder, **changes})


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "dist" in path.name]


class Listener(Reporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_an_artifact_is_built_and_measured(folder: Path) -> None:
    artifact = build(recipe(folder, model="model.py:build"))
    assert artifact.untouched.score is not None
    assert artifact.built.score is not None
    assert artifact.built.score.value == 1.0  # the labels are what the model itself says
    assert (artifact.drop, artifact.flips) == (0.0, (0, 0))
    assert artifact.passes[0].text == "source"
    assert artifact.passes[0].metric == 1.0
    assert [row.drift for row in artifact.passes[1:]] == [0.0] * (len(artifact.passes) - 1)

    manifest = json.loads((artifact.directory / "manifest.json").read_text())
    assert manifest["recipe"]["model"] == "model.py:build"
    assert read_measurements(artifact.directory)["built"]["metric"] == 1.0

    features = np.random.default_rng(3).standard_normal((5, 8)).astype(np.float32)
    assert artifact.load()(features)[0].shape == (5, 4)


def test_a_second_build_gives_the_same_bytes_and_replaces_the_first(folder: Path) -> None:
    first = build(folder / "recipe.yaml")
    model = (first.directory / "model.onnx").read_bytes()
    (first.directory / "stale").touch()
    second = build(folder / "recipe.yaml")
    assert (second.directory / "model.onnx").read_bytes() == model
    assert not (second.directory / "stale").exists()
    assert leftovers(folder) == ["dist"]


def test_the_metric_is_evaluated_after_lossy_passes(folder: Path) -> None:
    artifact = build(recipe(folder, passes=["dce", "passes_of_mine:Negate", "dce"]))
    assert [row.metric for row in artifact.passes][:2] == [1.0, None]
    assert artifact.passes[2].metric == artifact.built.score.value < 0.5
    assert artifact.passes[3].metric is None
    worse, better = artifact.flips
    assert artifact.drop == pytest.approx((worse - better) / 48)


def test_a_metric_that_falls_unbounded_is_warned_about(folder: Path) -> None:
    listener = Listener()
    build(recipe(folder, passes=["dce", "passes_of_mine:Negate"]), listener)
    (warning,) = [text for text in listener.warnings if "metric" in text]
    assert re.match(
        r"the metric accuracy gets worse by 1\.0000 \(95 % between 0\.8930 and 1\.0000\), and no budget", warning
    )
    build(recipe(folder, passes=["dce"]), same := Listener())
    assert not any("metric" in text for text in same.warnings)


def test_what_a_pass_lacks_is_told_before_any_runs(folder: Path) -> None:
    with pytest.raises(UsageError, match="static int8 quantization needs calibration data"):
        build(recipe(folder, passes=["passes_of_mine:Explode", "quantize"], data={}))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"passes": ["passes_of_mine:Wrong"]}, CheckError, "pass wrong declares itself rounding, but output 'output'"),
        (
            {"passes": ["passes_of_mine:Negate"], "budget": {"metric_drop": "1%"}},
            BudgetError,
            "the metric drops by 1.0000, more than 0.01",
        ),
        (
            {"budget": {"latency": "1 ns", "size": "10 B"}},
            BudgetError,
            "the latency is .*, more than 1 ns; the size is",
        ),
        ({"budget": {"size": "300 B"}}, BudgetError, "the budget is missed, so nothing is written: the size is"),
        ({"passes": ["passes_of_mine:Explode"]}, PassError, "out of luck"),
        ({"passes": ["passes_of_mine:Signal{number=2}"]}, KeyboardInterrupt, None),
        ({"data": {"evaluation": "data.py:calibration"}}, ModelError, "data.py:calibration has no labels"),
        ({"budget": {"metric_drop": 0.1}, "data": {}}, UsageError, "needs evaluation data with labels"),
        ({"data": {"evaluation": "data.py:test", "metric": "acuracy"}}, UsageError, "did you mean 'accuracy'"),
        ({"target": "x87"}, UsageError, "unknown target 'x87'"),
    ],
)
def test_nothing_is_written_unless_all_is_well(
    folder: Path, changes: dict[str, object], kind: type[BaseException], message: str | None
) -> None:
    with pytest.raises(kind, match=message):
        build(recipe(folder, **changes))
    assert leftovers(folder) == []


@pytest.mark.wide
def test_a_gate_holds_an_artifact_to_the_one_before_it(folder: Path) -> None:
    gate = {"against": "dist", "max_drop": "1%", "max_larger": "10%"}
    build(recipe(folder, gate=gate), first := Listener())
    assert any("dist is built for the first time" in note for note in first.notes)
    build(recipe(folder, gate=gate))
    before = (folder / "dist" / "model.onnx").read_bytes()
    with pytest.raises(BudgetError, match=r"the artifact is too far from .*dist: the drop of accuracy is 1\.0000"):
        build(recipe(folder, gate=gate, passes=["passes_of_mine:Negate"]))
    assert (folder / "dist" / "model.onnx").read_bytes() == before
    with pytest.raises(UsageError, match="'elsewhere' is not a model"):
        build(recipe(folder, gate={**gate, "against": "elsewhere"}))


def test_a_failed_build_leaves_the_older_artifact(folder: Path) -> None:
    model = build(folder / "recipe.yaml").directory / "model.onnx"
    before = model.read_bytes()
    with pytest.raises(BudgetError):
        build(recipe(folder, budget={"size": "10 B"}))
    assert model.read_bytes() == before


def test_a_folder_that_is_no_artifact_is_refused_before_the_work(folder: Path) -> None:
    (folder / "dist").mkdir()
    (folder / "dist" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="exists and is not an artifact"):
        build(recipe(folder, model="model.py:raises"))
    assert leftovers(folder) == ["dist"]


def test_one_source_of_data_is_split(folder: Path) -> None:
    data = {"calibration": "data.py:test", "evaluation": "data.py:test"}
    artifact = build(recipe(folder, data=data))
    assert artifact.built.score is not None
    assert artifact.built.score.hits is not None
    assert len(artifact.built.score.hits) == 32  # of 48 samples in three batches, the first batch calibrates


def test_a_source_without_labels_calibrates_only(folder: Path) -> None:
    listener = Listener()
    data = {"calibration": "data.py:calibration", "evaluation": "data.py:calibration"}
    artifact = build(recipe(folder, data=data), listener)
    assert artifact.metric is None
    assert listener.notes == ["data.py:calibration has no labels: it calibrates, and no metric is evaluated"]


def test_agreement_with_the_untouched_model_needs_no_labels(folder: Path) -> None:
    data = {"calibration": "data.py:calibration", "evaluation": "data.py:calibration", "metric": "agreement"}
    artifact = build(recipe(folder, data=data))
    assert artifact.untouched.score is not None
    assert artifact.built.score is not None
    assert artifact.untouched.score.value == 1.0
    assert (artifact.built.score.value, artifact.flips) == (1.0, (0, 0))


def test_a_pass_that_changes_nothing_is_warned_about(folder: Path) -> None:
    listener = Listener()
    build(recipe(folder, passes=["cleanup", "passes_of_mine:Idle"], data={}), listener)
    assert listener.warnings == ["passes_of_mine:Idle changed nothing: first: nothing to do here"]


@pytest.mark.parametrize(
    ("pipeline", "idle"),
    [
        ("fuse,cleanup{skip=first}", []),
        ("fuse-gelu,fuse", ["fuse-gelu"]),
        ("fixpoint(fuse-bias,fuse-gelu)", ["fuse-gelu"]),
        ("group(cse,dce){only=x},dce{skip=y}", ["cse", "dce", "dce{skip=y}"]),
    ],
)
def test_what_was_asked_for_by_name_and_never_changed_anything_is_warned_about(pipeline: str, idle: list[str]) -> None:
    source = """graph "main"(%x: float32[2, 3]) {
      const %w: float32[3, 4] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
      const %b: float32[4] = [1.0, 2.0, 3.0, 4.0]
      %p: float32[2, 4] = MatMul(%x, %w)
      %y: float32[2, 4] = Add(%p, %b)
      return y = %y
    }"""
    listener = Listener()
    optimize(parse_graph(source, {}), pipeline, reporter=listener)
    assert listener.warnings == [f"{step} changed nothing" for step in idle]


def test_what_a_backend_can_t_run_is_refused_before_the_passes(folder: Path) -> None:
    pytest.importorskip("tvm")
    graph = parse_graph(
        """graph "distinct"(%x: float32[6]) {
          %y: float32[unique_x__4331b4743e_0] = Unique(%x) @ "net.head"
          return y = %y
        }"""
    )
    save(graph, folder / "distinct.planish")
    ran: list[str] = []

    class Watch(Instrument):
        def start(self, graph: Graph, context: PassContext) -> None:
            ran.append(graph.name)

    for backend in ("tvm", "auto"):
        asked = recipe(folder, model="distinct.planish", data={}, backend=backend)
        with pytest.raises(TargetError, match="net.head: tvm can't run Unique") if backend == "tvm" else nullcontext():
            assert build(asked, instruments=[Watch()]).built.backend == "onnxruntime"
        assert bool(ran) == (backend == "auto")


def test_what_is_for_another_machine_is_written_and_not_run(folder: Path, other_machine: Path) -> None:
    pytest.importorskip("tvm")
    listener = Listener()
    artifact = build(recipe(folder, target=other_machine.name, backend="tvm", bundle_runtime=True), listener)
    assert "this machine can't run what is built for other: it is neither checked nor measured" in listener.warnings
    assert (artifact.speedup, artifact.is_slower, artifact.drop) == (None, False, 0.0)
    assert read_measurements(artifact.directory)["built"]["latency_seconds"] is None
    files = json.loads((artifact.directory / "manifest.json").read_text())["files"]
    assert {"libtvm_runtime.so", "model.so"} <= files.keys()
    assert artifact.built.size == sum(
        file["size"] for name, file in files.items() if not name.startswith(("libtvm", "TVM"))
    )
    with pytest.raises(TargetError, match=r"the artifact uses .*\w, which this machine lacks"):
        artifact.load()


def test_a_runtime_goes_with_artifacts_that_can_run_on_it(folder: Path) -> None:
    listener = Listener()
    build(recipe(folder, data={}, bundle_runtime=True), listener)
    assert listener.notes == ["an artifact of onnxruntime carries no runtime: install it on the target"]
    told = "this machine's runtime, which isn't for aarch64: build without it, and install"
    with pytest.raises(UsageError, match=told):
        build(recipe(folder, data={}, target="aarch64", bundle_runtime=True))


def test_a_latency_that_can_t_be_measured_is_no_budget(folder: Path, other_machine: Path) -> None:
    pytest.importorskip("tvm")
    with pytest.raises(UsageError, match="a budget on the latency needs a machine that runs what is built for other"):
        build(recipe(folder, target=other_machine.name, backend="tvm", budget={"latency": "5 ms"}))
    assert not leftovers(folder)
