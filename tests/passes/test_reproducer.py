"""Whatever fails leaves a reproducer that holds all that it takes, and fails again."""

import re
import tempfile
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.errors import CheckError, ModelError, PassError
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.pipeline import format_pipeline, parse_pipeline
from planish.passes.probes import make_probes
from planish.passes.reproducer import Reproducer, read_reproducer, reproducing
from planish.passes.verification import Verification

PASSES = """
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from planish.ir.builder import Builder
from planish.ir.types import DType, TensorType
from planish.passes.base import Effect, Pass, PassResult


@dataclass(frozen=True)
class Faulty(Pass):
    name: ClassVar[str] = "faulty"
    effect: ClassVar[Effect] = Effect.ROUNDING
    fault: Literal["numbers", "edges", "nan", "shape", "names", "inputs", "types", \
"malformed", "runs", "crash", "none"] = "none"

    def run(self, graph, context):
        if self.fault != "none":
            getattr(self, f"_{self.fault}")(graph, Builder(graph), graph.outputs["y"])
        return PassResult({})

    def _numbers(self, graph, op, y):
        graph.outputs["y"] = op.Abs(graph.inputs[0])

    def _edges(self, graph, op, y):
        graph.outputs["y"] = op.Where(op.Equal(graph.inputs[0], np.float32(1)), np.float32(7), y)

    def _nan(self, graph, op, y):
        graph.outputs["y"] = op.Sqrt(graph.inputs[0])

    def _shape(self, graph, op, y):
        graph.outputs["y"] = op.Transpose(y, perm=[1, 0])

    def _names(self, graph, op, y):
        graph.outputs = {"z": y}

    def _inputs(self, graph, op, y):
        graph.add_input("more", y.type)

    def _types(self, graph, op, y):
        y.type = TensorType(DType.float32, (7, 7, 7))

    def _malformed(self, graph, op, y):
        y.producer.attributes = {"slope": 1}

    def _runs(self, graph, op, y):
        op.Reshape(y, op.Cast(op.ReduceSum(op.Relu(y), np.array([0, 1])), to=7))
        graph.outputs["y"] = op.Reshape(y, op.Cast(op.ReduceMax(y, np.array([0])), to=7))

    def _crash(self, graph, op, y):
        raise RuntimeError("out of luck")


@dataclass(frozen=True)
class Fickle(Pass):
    name: ClassVar[str] = "fickle"
    effect: ClassVar[Effect] = Effect.EXACT
    second: str = ""
    runs: ClassVar[list[int]] = []

    def run(self, graph, context):
        self.runs.append(1)
        if len(self.runs) == 1:
            raise RuntimeError("out of luck")
        if self.second:
            raise ValueError(self.second)
        return PassResult()


@dataclass(frozen=True)
class Louder(Pass):
    name: ClassVar[str] = "louder"
    effect: ClassVar[Effect] = Effect.LOSSY
    max_drift: ClassVar[float] = 0.1

    def run(self, graph, context):
        graph.outputs["y"] = Builder(graph).Mul(graph.outputs["y"], np.float32(2))
        return PassResult({"louder": 1})
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where reproducers are left, beside the passes."""
    (tmp_path / "faulty_passes.py").write_text(PASSES)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "left").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "left"))
    return tmp_path


def relu(*dtypes: DType) -> Graph:
    graph = Graph("relu")
    for index, dtype in enumerate(dtypes or [DType.float32]):
        x = graph.add_input(f"x{index}", TensorType(dtype, ("n", 3)))
        graph.outputs["y" if not index else f"y{index}"] = Builder(graph).Relu(x) if not index else x
    return graph


def left_by(case: Reproducer, kind: type[Exception]) -> tuple[Reproducer, str]:
    """What a failing case leaves, as it is read again, and the failure."""
    with pytest.raises(kind) as raised, reproducing(case):
        case.run()
    text = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", ())])
    (path,) = set(re.findall(r"planish opt (\S+)", text))
    return read_reproducer(Path(path)), text


FAULTS = {
    "faulty_passes:Faulty{fault=numbers}": "output 'y' differs by up to",
    "faulty_passes:Faulty{fault=edges}": "on edge values",
    "faulty_passes:Faulty{fault=nan}": "output 'y' has become NaN",
    "faulty_passes:Faulty{fault=shape}": r"output 'y' was float32\[2, 3\] and is float32\[3, 2\]",
    "faulty_passes:Faulty{fault=names}": "changed the model's outputs",
    "faulty_passes:Faulty{fault=inputs}": "changed the model's inputs",
    "faulty_passes:Faulty{fault=types}": "left a graph whose types are wrong",
    "faulty_passes:Faulty{fault=malformed}": "left a malformed graph",
    "faulty_passes:Faulty{fault=runs}": "left a graph that doesn't run",
    "faulty_passes:Faulty{fault=crash}": "out of luck",
    "faulty_passes:Louder": "moved the outputs by 1 ",
}


@pytest.mark.parametrize("data", [False, True], ids=["random", "data"])
@pytest.mark.parametrize("pipeline", FAULTS)
def test_each_kind_of_failure_fails_again(pipeline: str, data: bool) -> None:
    kind = PassError if "crash" in pipeline else CheckError
    batches = [{"x0": np.float32([[2, -2, 3]])}] if data else []
    expected = (
        FAULTS[pipeline].replace(r"2, 3\]", r"1, 3\]").replace(r"3, 2\]", r"3, 1\]") if data else FAULTS[pipeline]
    )
    left, text = left_by(Reproducer(relu(), f"dce,{pipeline}", calibration=batches), kind)
    assert re.search(expected, text)
    with pytest.raises(kind, match=expected):
        left.run()


@pytest.mark.parametrize(
    ("second", "told"), [("", "doesn't fail again"), ("another", "fails with another error, PassError: .*another")]
)
def test_what_does_not_fail_in_the_same_way_is_no_reproducer(second: str, told: str) -> None:
    step = parse_pipeline(f"faulty_passes:Fickle{{second={second}}}")[0]
    step.runs.clear()
    case = Reproducer(relu(), format_pipeline([step]))
    with pytest.raises(PassError, match=rf"out of luck.*\n.* has all that was run, but {told}"), reproducing(case):
        case.run()


def test_it_holds_the_very_probes() -> None:
    case = Reproducer(relu(), "faulty_passes:Faulty{fault=numbers}", seed=5, verification=Verification(edges=False))
    left, _ = left_by(case, CheckError)
    assert left.verification == case.verification
    for held, made in zip(left.probes, make_probes(case.graph, (), 5), strict=True):
        np.testing.assert_array_equal(held["x0"], made["x0"])
    replace(left, probes=[{"x0": np.ones((2, 3), np.float32)}]).run()  # on which nothing is wrong


def test_data_of_all_types_come_back(folder: Path) -> None:
    dtypes = [DType.float32, DType.bfloat16, DType.int4, DType.string, DType.bool]
    graph = relu(*dtypes)
    batches = [{value.name: np.ones((size, 3)).astype(value.dtype.numpy) for value in graph.inputs} for size in (2, 4)]
    batches = [{**feeds, "x3": np.array([["a", "", "ü"]] * len(feeds["x3"]), object)} for feeds in batches]
    Reproducer(graph, "dce", calibration=batches).write(folder / "case")
    read = read_reproducer(folder / "case")
    assert read.run().outputs.keys() == graph.outputs.keys()
    for held, given in zip(read.calibration, batches, strict=True):
        for name, array in given.items():
            assert held[name].dtype == array.dtype
            np.testing.assert_array_equal(held[name], array)
    assert held["x1"].dtype == ml_dtypes.bfloat16


def test_labels_come_back_where_they_are_numbers(folder: Path) -> None:
    batches, labels = [{"x0": np.ones((size, 3), np.float32)} for size in (2, 4)], [np.arange(2), np.arange(4)]
    Reproducer(relu(), "dce", calibration=batches, labels=labels).write(folder / "case")
    Reproducer(relu(), "dce", calibration=batches, labels=[["a"], ["b"]]).write(folder / "texts")

    read = read_reproducer(folder / "case")
    for held, given in zip(read.context.labels, labels, strict=True):
        np.testing.assert_array_equal(held, given)
    assert read_reproducer(folder / "texts").labels == []
    np.savez(folder / "case/labels.npz", *labels[:1])
    with pytest.raises(ModelError, match="has labels for 1 batches, and there are 2"):
        read_reproducer(folder / "case")


def test_batches_of_a_graph_without_inputs_are_counted(folder: Path) -> None:
    graph = relu()
    (x,) = graph.inputs
    graph.replace_uses(x, graph.add_constant(np.ones((1, 3), np.float32), "one"))
    graph.inputs = []
    Reproducer(graph, "dce", calibration=[{}, {}], probes=[{}], labels=[np.arange(2), np.arange(4)]).write(
        folder / "case"
    )
    read = read_reproducer(folder / "case")
    assert (read.calibration, read.probes, len(read.labels)) == ([{}, {}], [{}], 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"0/x1": np.ones((2, 3), np.float32)}, "'0/x1' is float32.*, which no input of the graph is"),
        ({"0/x0": np.ones((2, 3))}, "'0/x0' is float64"),
        ({"0/x0": np.ones((2, 3, 4), np.float32)}, "'0/x0' is float32"),
        ({"0/x0": np.array([None])}, "objects, which would be unpickled"),
    ],
)
@pytest.mark.parametrize("file", ["calibration.npz", "probes.npz"])
def test_what_does_not_fit_the_graph_is_refused(folder: Path, file: str, arrays, message: str) -> None:
    Reproducer(relu(), "dce").write(folder / "case")
    np.savez(folder / "case" / file, **arrays)
    with pytest.raises(ModelError, match=message):
        read_reproducer(folder / "case")


def test_inputs_that_are_missing_are_named(folder: Path) -> None:
    Reproducer(relu(DType.float32, DType.int64), "dce").write(folder / "case")
    np.savez(folder / "case" / "probes.npz", **{"0/x0": np.ones((2, 3), np.float32)})
    with pytest.raises(ModelError, match="lacks some of the inputs x0, x1"):
        read_reproducer(folder / "case")


def test_what_no_file_holds_does_not_hide_the_failure(folder: Path) -> None:
    """A batch with a sequence can't be written; the failure is told all the same."""
    faulty, structure = "faulty_passes:Faulty{fault=malformed}", Verification("structure")
    case = Reproducer(relu(), faulty, calibration=[{"x0": [np.ones(3)]}], verification=structure)
    with (
        pytest.raises(CheckError, match="left a malformed graph.*\nno reproducer could be written: input 'x0'"),
        reproducing(case),
    ):
        case.run()
    assert not list((folder / "left").iterdir())
