"""The example of a package that adds to planish, installed as users install it, and used from the command line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import planish
from planish.driver.user_code import isolated_imports, resolve
from planish.ir.errors import ModelError

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"
MAIN = "from planish.driver.cli import main; main()"

Run = Callable[..., subprocess.CompletedProcess[str]]


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
def run(folder: Path) -> Run:
    """Runs `planish` in a process that has the package."""
    path = os.pathsep.join(filter(None, (str(folder / "site"), os.environ.get("PYTHONPATH"))))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def optimized(folder: Path, run: Run) -> subprocess.CompletedProcess[str]:
    """The model with the operator of the package in it, written in both forms."""
    pipeline = "cleanup,fuse-squared-relu{required=true}"
    run("opt", "source/model.py:build", "-p", pipeline, "-t", "acme-box", "-o", "net.onnx")
    return run(
        "opt", "net.onnx", "-p", "square-activations", "-t", "acme-box", "-o", "net.planish", "--instrument", "census"
    )


def test_it_is_listed_with_its_package(run: Run) -> None:
    passes, targets = (json.loads(run(command, "--json").stdout) for command in ("passes", "targets"))
    assert passes["fuse-squared-relu"].endswith("(of planish-acme 1.0)")
    assert passes["square-activations"].startswith("Replace every Relu by its square")
    assert targets["acme-box"].endswith("(of planish-acme 1.0)")
    page = run("passes", "square-activations").stdout
    assert "package      planish-acme 1.0" in page
    assert "gain=1.0  a number above 0\n      what the square is multiplied by." in page


def test_its_instrument_watches(run: Run) -> None:
    done = run("opt", "source/model.py:build", "-p", "square-activations{gain=0.5}", "--instrument", "census")
    assert "census after square-activations: -1 Relu, +1 acme::SquaredRelu" in done.stderr
    assert "acme::SquaredRelu(%gemm) {gain = 0.5}" in done.stdout


@pytest.mark.parametrize(("backend", "model"), [("onnxruntime", "net.onnx"), ("tvm", "net.planish")])
def test_both_backends_run_its_operator(run: Run, folder: Path, optimized, backend: str, model: str) -> None:
    pytest.importorskip(backend)
    assert "census after square-activations: the same operators" in optimized.stderr
    run("build", model, "-p", "cleanup", "-b", backend, "-t", "acme-box", "-o", backend)

    features = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    with isolated_imports(EXAMPLE):
        import torch

        module, *_ = resolve("model.py:build", EXAMPLE)()
        expected = module(torch.from_numpy(features)).detach().numpy()
    found = planish.load(folder / backend)(features)[0]  # this process has no such package
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_the_package_its_operator_is_unknown(folder: Path, optimized) -> None:
    with pytest.raises(ModelError, match="no package that is installed has operators of the domain 'acme'"):
        planish.read(folder / "net.onnx")
