"""A user's folder: a small model, its data, passes of their own, and a recipe."""

import shutil
from pathlib import Path

import pytest

from planish.driver.build import build
from planish.driver.model import read_model
from planish.driver.user_code import isolated_imports
from planish.ir.storage import save
from planish.targets.features import FEATURES
from planish.targets.load import load_target

MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, features):
        return self.second(torch.relu(self.first(features)))


class Choosy(nn.Module):
    def forward(self, features):
        return features if features.sum() > 0 else -features


def build():
    torch.manual_seed(0)
    return Net(), (torch.zeros(2, 8),), ({0: torch.export.Dim("batch")},)


def raises():
    weights = None
    return weights["first"]


def with_nan():
    net, *rest = build()
    net.first.weight.data[0, 0] = float("nan")
    return net, *rest


def data_dependent():
    return Choosy(), (torch.zeros(2, 8),)


def forgetful():
    return Net()


def swapped():
    return torch.zeros(2, 8), Net()
"""

DATA = """
import numpy as np
import torch
from model import build


def samples(seed, count=48):
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


def labelled(seed):
    features = samples(seed)
    net = build()[0].eval()
    return features, net(torch.from_numpy(features)).argmax(1).numpy()


def calibration():
    yield {"features": samples(1)}


def test():
    features, labels = labelled(2)
    for start in range(0, 48, 16):
        yield {"features": features[start : start + 16], "labels": labels[start : start + 16]}


def misnamed():
    yield {"feature": samples(1)}


def wrong_shape():
    yield {"features": samples(1)[:, :7]}


def wrong_dtype():
    yield samples(1).astype(np.float64)


def breaks_off():
    yield {"features": samples(1)}
    raise OSError("the disk is gone")
"""

PASSES = """
import signal
from dataclasses import dataclass
from typing import ClassVar

from planish.ir.builder import Builder
from planish.passes.base import Effect, Pass, PassResult


@dataclass(frozen=True)
class Negate(Pass):
    '''Turns the model into its opposite.'''

    name: ClassVar[str] = "negate"
    effect: ClassVar[Effect] = Effect.LOSSY
    max_drift: ClassVar[float] = 10.0

    def run(self, graph, context):
        graph.outputs.update({name: Builder(graph).Neg(value) for name, value in graph.outputs.items()})
        return PassResult({"negate": 1})


class Wrong(Negate):
    name: ClassVar[str] = "wrong"
    effect: ClassVar[Effect] = Effect.ROUNDING


@dataclass(frozen=True)
class Idle(Pass):
    name: ClassVar[str] = "idle"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, graph, context):
        return PassResult({}, ["first: nothing to do here"])


@dataclass(frozen=True)
class Explode(Idle):
    name: ClassVar[str] = "explode"

    def run(self, graph, context):
        raise RuntimeError("out of luck")


@dataclass(frozen=True)
class Signal(Idle):
    name: ClassVar[str] = "signal"
    number: int = 2

    def run(self, graph, context):
        signal.raise_signal(self.number)
"""

RECIPE = """
model: net.planish
data: {calibration: data.py:calibration, evaluation: data.py:test, metric: accuracy}
backend: onnxruntime
passes: [cleanup]
output: dist/
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no search of a small model wait for the machine to change its pace."""
    monkeypatch.setattr("planish.driver.measurement.PATIENT_SECONDS", 0.0)


FILES = {"model.py": MODEL, "data.py": DATA, "passes_of_mine.py": PASSES, "recipe.yaml": RECIPE}


def write_files(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).write_text(text)


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the model's graph, traced once."""
    folder = tmp_path_factory.mktemp("traced")
    write_files(folder)
    with isolated_imports(folder):
        save(read_model("model.py:build", folder), folder / "net.planish")
    return folder / "net.planish"


@pytest.fixture(scope="session")
def artifact(traced: Path) -> Path:
    """The folder of an artifact of the model, built once: nobody writes into it."""
    return build(traced.with_name("recipe.yaml")).directory


@pytest.fixture
def folder(tmp_path: Path, traced: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, which is the working directory as well."""
    write_files(tmp_path)
    shutil.copy(traced, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def other_machine(folder: Path) -> Path:
    """A target like this machine, which has an instruction set that this machine lacks."""
    native = load_target("native")
    lacking = min(FEATURES[native.architecture].keys() - native.features, key=lambda name: (name != "xop", name))
    file = folder / "other.toml"
    file.write_text(
        f"description = 'another'\narchitecture = {native.architecture!r}\nmcpu = {native.mcpu!r}\n"
        f"features = [{lacking!r}]\nthreads = 1\n"
    )
    return file
