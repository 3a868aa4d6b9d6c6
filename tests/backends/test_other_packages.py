"""A backend of another package: found by its name, given what it runs, and used like planish's own."""

import numpy as np
import pytest

import planish
from planish.backends import backend_names, find_backend
from planish.driver.lowering import Lowering
from planish.driver.recipe_file import make_recipe
from planish.driver.reporter import SILENT
from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.verification import Verification
from planish.targets.load import load_target

THEIRS = """
from planish.backends import Backend, Executable
from planish.ir.interpreter import Interpreter
from planish.ir.storage import load, save
from planish.passes.legalization.support import Support


class Theirs(Backend):
    name = "theirs"

    def available(self):
        return None

    def support(self):
        return Support(expanded={"Swish": lambda node: True})

    def compile(self, legal, source, target, directory):
        save(legal, directory / "graph.planish")
        return [directory / "graph.planish"]

    def load(self, directory, inputs, outputs, threads):
        made = Interpreted()
        made.inputs, made.outputs = inputs, outputs
        made.graph = load(directory / "graph.planish")
        return made


class Interpreted(Executable):
    def run(self, feeds):
        return list(Interpreter(self.graph).run(feeds).values())


BACKEND = Theirs()
"""


@pytest.fixture
def graph() -> Graph:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, ("n", 3)))
    graph.outputs["y"] = Builder(graph).Swish(x)
    return graph


def test_it_compiles_what_it_runs_and_is_a_candidate(install, graph, tmp_path) -> None:
    install("[planish.backends]\ntheirs = others:BACKEND\n", THEIRS)
    assert backend_names() == ("onnxruntime", "tvm", "theirs")
    assert make_recipe({"model": "net.onnx", "backend": "theirs"}).backend == "theirs"
    x = np.array([[1, -2, 3]], np.float32)
    executable = planish.compile(graph, "theirs", "x86-64")
    assert [node.operator for node in executable.graph.nodes] == ["Sigmoid", "Mul"]
    np.testing.assert_allclose(executable(x)[0], x / (1 + np.exp(-x)), rtol=1e-6)
    candidates = Lowering(load_target("x86-64"), [{"x": x}], Verification(), tmp_path, SILENT).candidates(graph, "auto")
    assert "theirs" in [candidate.backend for candidate in candidates]


def test_what_is_no_backend_is_refused_with_its_package(install) -> None:
    install("[planish.backends]\nodd = others:BACKEND\n", THEIRS)
    with pytest.raises(
        UsageError, match="'odd' in planish.backends, of the package others 1.0 .* is no Backend object"
    ):
        find_backend("odd")
    with pytest.raises(UsageError, match="unknown backend 'od'; did you mean 'odd'"):
        find_backend("od")
