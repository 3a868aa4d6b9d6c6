"""The examples as users find them, each read once."""

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import planish
from planish import Graph
from planish.driver.recipe_file import read_recipe
from planish.driver.user_code import isolated_imports, resolve

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass
class Example:
    """An example's graph, the same before any lossy pass, and what the model itself gives for some inputs."""

    folder: Path
    graph: Graph
    optimized: Graph
    feeds: dict[str, np.ndarray]
    expected: np.ndarray


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.wide) for name in ("digits", "minilm", "ocr")])
def example(request: pytest.FixtureRequest) -> Example:
    return read(request.param)


@cache
def read(name: str) -> Example:
    if name == "ocr" and sys.version_info >= (3, 13):
        pytest.skip("rapidocr-onnxruntime has no release for this Python")
    folder = EXAMPLES / name
    with isolated_imports(folder):
        made = resolve("model.py:build", folder)()
        batch = next(resolve("data.py:test", folder)())
    feeds = {name: array[:2] for name, array in batch.items() if name != "labels"}
    if isinstance(made, Path):
        graph, expected = planish.read(made), run_onnx(made, feeds)
    else:
        module, inputs, dynamic_shapes = made
        graph, expected = planish.trace(module, inputs, dynamic_shapes=dynamic_shapes), run_torch(module, feeds)
    optimized = planish.optimize(graph, "cleanup,fuse", verify="structure").graph  # the tests check the numbers
    return Example(folder, graph, optimized, feeds, expected)


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory):
    """Builds an example's recipe into a folder of the test run."""

    def build(name: str):
        recipe = read_recipe(EXAMPLES / name / "recipe.yaml")
        return planish.build(recipe.model_copy(update={"output": tmp_path_factory.mktemp(name) / "dist"}))

    return build


def run_torch(module, feeds: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return module(*map(torch.from_numpy, feeds.values())).numpy()


def run_onnx(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return session.run(None, feeds)[0]
