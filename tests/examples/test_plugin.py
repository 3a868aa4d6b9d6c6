"""The example of a package that adds to planish, installed as users install it, and used from the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import Done
from commands import planish as planish_commands

import planish
from planish.backends import find_backend
from planish.driver.user_code import isolated_imports, resolve
from planish.ir.errors import ModelError

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"
pytestmark = pytest.mark.wide  # it is built and installed
BUILT = {"onnxruntime": "net.onnx", "tvm": "net.planish"}
"""The file of the model that each backend builds."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package is installed, from a copy, so that the checkout is left alone; and where the command runs."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    install = [sys.executable, "-m", "pip", "install", "./source", "--target", "site", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*install, *offline], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, Done]:
    """What commands have given in a process that has the package; the model is written in both forms, and built."""
    model, box = "source/model.py:build", ("-t", "acme-box")
    census, both = ("--instrument", "census"), "square-activations{gain=0.5}"
    commands = {
        "passes": ("passes", "--json"),
        "targets": ("targets", "--json"),
        "page": ("passes", "square-activations"),
        "watched": ("opt", model, "-p", both, *census),
        "fused": ("opt", model, "-p", "cleanup,fuse-squared-relu{required=true}", *box, "-o", "net.onnx"),
        "again": ("opt", "net.onnx", "-p", "square-activations", *box, "-o", "net.planish", *census),
    }
    for backend, file in BUILT.items():
        if find_backend(backend).available() is None:
            commands[backend] = ("build", file, "-p", "cleanup", "-b", backend, *box, "-o", backend)
    path = os.pathsep.join(filter(None, (str(folder / "site"), os.environ.get("PYTHONPATH"))))
    found = dict(
        zip(commands, planish_commands([*commands.values()], folder, {**os.environ, "PYTHONPATH": path}), strict=True)
    )
    assert {name: row.stderr for name, row in found.items() if row.code} == {}
    return found


def test_it_is_listed_with_its_package(done: dict[str, Done]) -> None:
    passes, targets = (json.loads(done[command].stdout) for command in ("passes", "targets"))
    assert passes["fuse-squared-relu"].endswith("(of planish-acme 1.0)")
    assert passes["square-activations"].startswith("Replace every Relu by its square")
    assert targets["acme-box"].endswith("(of planish-acme 1.0)")
    page = done["page"].stdout
    assert "package      planish-acme 1.0" in page
    assert "gain=1.0  a number above 0\n      what the square is multiplied by." in page


def test_its_instrument_watches(done: dict[str, Done]) -> None:
    assert "census after square-activations: -1 Relu, +1 acme::SquaredRelu" in done["watched"].stderr
    assert "acme::SquaredRelu(%gemm) {gain = 0.5}" in done["watched"].stdout
    assert "census after square-activations: the same operators" in done["again"].stderr


@pytest.mark.parametrize("backend", BUILT)
def test_both_backends_run_its_operator(folder: Path, done: dict[str, Done], backend: str) -> None:
    pytest.importorskip(backend)
    features = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    with isolated_imports(EXAMPLE):
        import torch

        module, *_ = resolve("model.py:build", EXAMPLE)()
        expected = module(torch.from_numpy(features)).detach().numpy()
    found = planish.load(folder / backend)(features)[0]  # this process has no such package
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_the_package_its_operator_is_unknown(folder: Path, done: dict[str, Done]) -> None:
    with pytest.raises(ModelError, match="no package that is installed has operators of the domain 'acme'"):
        planish.read(folder / "net.onnx")
