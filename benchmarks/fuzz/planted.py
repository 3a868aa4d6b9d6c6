"""Faults that are planted in passes and backends, and what fails over them.

A case is called by what has the fault, and which: `quantize types`, `tvm numbers`, `mistake 3`.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from planish.backends import find_backend
from planish.backends.tvm.compiler import client as compiler
from planish.ir.builder import Builder
from planish.ir.cache_folder import VARIABLE
from planish.ir.equal import differences
from planish.ir.errors import CheckError, PassError, PlanishError
from planish.ir.graph import Graph
from planish.ir.storage import save
from planish.ir.text import parse_graph
from planish.ir.types import DType, TensorType
from planish.passes.base import Pass, PassContext, PassResult
from planish.passes.group import Group
from planish.passes.pipeline import pass_classes
from planish.passes.reproducer import Reproducer, reproducing
from planish.targets.load import load_target

if TYPE_CHECKING:
    from random_graphs.graphs import Sample

sys.path[:0] = [str(Path(__file__).parents[2] / "tests" / part) for part in ("", "passes")]

_NET = """graph "classifier"(%x: float32[batch, 4, 6, 6]) {
  const %w: float32[8, 4, 3, 3]
  const %b: float32[8]
  const %v: float32[8, 8, 1, 1]
  const %u: float32[8, 16]
  const %t: float32[5, 16]
  const %d: float32[5]
  const %axes: int64[2] = [2, 3]
  %a: float32[batch, 8, 3, 3] = Conv(%x, %w, %b) {kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]} @ "stem"
  %r: float32[batch, 8, 3, 3] = Relu(%a) @ "stem"
  %e: float32[batch, 8, 3, 3] = Conv(%r, %v) @ "body.point"
  %m: float32[batch, 8] = ReduceMean(%e, %axes) {keepdims = 0} @ "body.mean"
  %h: float32[batch, 16] = MatMul(%m, %u) @ "body.wide"
  %g: float32[batch, 16] = Tanh(%h) @ "body.gate"
  %y: float32[batch, 5] = Gemm(%g, %t, %d) {alpha = 0.5, transB = 1} @ "head"
  return y = %y
}"""
_SHAPES = {"w": (8, 4, 3, 3), "b": (8,), "v": (8, 8, 1, 1), "u": (8, 16), "t": (5, 16), "d": (5,)}
_DATA = """
import numpy as np


def _batches(seed):
    random = np.random.default_rng(seed)
    for _ in range(4):
        yield {"x": random.standard_normal((16, 4, 6, 6), np.float32), "labels": random.integers(0, 5, 16)}


def calibration():
    return _batches(1)


def test():
    return _batches(2)
"""
_ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["wide"]}
_STEPS = {
    "gptq": "gptq{bits=4}",
    "load-lora": "load-lora{adapter=adapter}",
    "merge-lora": "lora{rank=2},merge-lora",
    "qat": "quantize{if_slower=keep},qat",
    "quantize": "quantize{if_slower=keep}",
    "quantize-mixed": "quantize-mixed{max_drop=0.5}",
    "tune-scales": "quantize{if_slower=keep},tune-scales",
}
"""What passes stand behind, or are told; the others stand alone."""


def names() -> list[str]:
    """All cases."""
    from test_effects import PLANTED  # which imports pytest

    passes = [name for name, kind in pass_classes().items() if not issubclass(kind, Group)]
    return [
        *(f"{name} {fault}" for name in passes for fault in FAULTS),
        *(f"{backend} numbers" for backend in ("onnxruntime", "tvm")),
        "tvm kernel",
        *(f"mistake {number}" for number in range(len(PLANTED))),
    ]


# -- faults of passes


def _numbers(graph: Graph) -> None:
    op = Builder(graph)
    graph.outputs = {name: op.Mul(value, np.float32(64)) for name, value in graph.outputs.items()}


def _types(graph: Graph) -> None:
    value = next(iter(graph.outputs.values()))
    value.type = TensorType(DType.float32, (7, 7, 7))


def _malformed(graph: Graph) -> None:
    node = next(iter(graph.outputs.values())).producer
    assert node is not None
    node.attributes = {"slope": 1}


def _crash(graph: Graph) -> None:
    raise RuntimeError("out of luck")


FAULTS: Mapping[str, Callable[[Graph], None]] = {
    "numbers": _numbers,
    "types": _types,
    "malformed": _malformed,
    "crash": _crash,
}


def _faulty(kind: type[Pass], fault: str) -> Any:
    """A pass's `run`, with a fault as its last rewrite."""
    right = kind.run

    def run(self: Pass, graph: Graph, context: PassContext) -> PassResult:
        result = right(self, graph, context)
        node = next((value.producer for value in graph.outputs.values() if value.producer), None)
        if node is None or not context.applies("plant", node):
            return result
        FAULTS[fault](graph)
        return replace(result, counts={**result.counts, "plant": 1})

    return mock.patch.object(kind, "run", run)


# -- faults of backends


def _computing_otherwise(name: str) -> Any:
    """A backend that takes Tanh for a sigmoid."""
    kind = type(find_backend(name))
    right = kind.compile

    def compile(self: Any, legal: Graph, source: Graph, *rest: Any) -> Any:
        changed = legal.clone()
        for node in [node for node in changed.nodes if node.operator == "Tanh"]:
            op = Builder(changed, node, node.location)
            changed.replace_uses(node.outputs[0], op.Sigmoid(node.operand(0)))
            changed.erase(node)
        return right(self, changed, source, *rest)

    return mock.patch.object(kind, "compile", compile)


_KERNEL = '''
import importlib.abc, importlib.util, sys


class Plant(importlib.abc.MetaPathFinder):
    """Kernels take Tanh for exp."""

    def find_spec(self, name, path=None, target=None):
        if name != "planish.backends.tvm.kernels.vector_math":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.ELEMENTS["Tanh"] = module.ELEMENTS["Exp"]

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Plant())
'''


@contextmanager
def _wrong_kernel() -> Generator[None]:
    """Compilers that start meanwhile have a wrong kernel; those that went on before are ended."""
    folder = Path("planted").absolute()
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_KERNEL)
    paths = filter(None, [str(folder), os.environ.get("PYTHONPATH")])
    compiler._end_all()
    try:
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(paths)):
            yield
    finally:
        compiler._end_all()


# -- cases


@contextmanager
def planted(name: str) -> Generator[None]:
    """Have the fault of a case in this process, and in the compilers that it starts."""
    what, _, fault = name.partition(" ")
    if name == "tvm kernel":
        patch = _wrong_kernel()
    elif what in ("onnxruntime", "tvm"):
        patch = _computing_otherwise(what)
    elif what == "mistake":
        step = mistaken(name)
        patch = mock.patch.dict(pass_classes(), {step.name: type(step)})
    else:
        patch = _faulty(pass_classes()[what], fault)
    with patch:
        yield


def mistaken(name: str) -> Pass:
    """The pass with a mistake of the suite's in it."""
    from test_effects import PLANTED, planted

    return planted(*PLANTED[int(name.partition(" ")[2])])


def told_by(name: str) -> str:
    """What bisection has to say of a case."""
    what = name.partition(" ")[0]
    if what in ("onnxruntime", "tvm"):
        return "body.gate:"
    return f", {mistaken(name).name if what == 'mistake' else what}"


def fail(name: str, run: Callable[..., tuple[int, str]]) -> str | None:
    """What a build in the working folder says, or None if it ends well.

    Args:
        name: the name of the case, whose fault is planted.
        run: runs a command; returns its exit code and what it says.
    """
    what = name.partition(" ")[0]
    if what == "mistake":
        return _fail_by_mistake(name)
    random = np.random.default_rng(1)
    weights = {key: random.standard_normal(shape, np.float32) for key, shape in _SHAPES.items()}
    scaled = {key: (array / np.sqrt(array[0].size)).astype(np.float32) for key, array in weights.items()}
    save(parse_graph(_NET, scaled), Path("net.planish"))
    Path("data.py").write_text(_DATA)
    if what == "load-lora":
        _write_adapter(random)
    recipe = {
        "model": "net.planish",
        "data": {"calibration": "data.py:calibration", "evaluation": "data.py:test", "metric": "accuracy"},
        "backend": what if what in ("onnxruntime", "tvm") else "onnxruntime",
        "passes": [] if what in ("onnxruntime", "tvm", "legalize") else [_STEPS.get(what, what)],
        "output": "dist",
    }
    Path("recipe.yaml").write_text(json.dumps(recipe))  # which is YAML, too
    with mock.patch.dict(os.environ, {VARIABLE: str(Path("cache").absolute())}):  # another case's builds have no fault
        code, said = run("build", "recipe.yaml")
    return said if code else None


def excuse(name: str) -> str:
    """Why a build's checks may see nothing wrong in a case; empty if they have to."""
    what, _, fault = name.partition(" ")
    if what == "mistake":
        told = "every graph that the pass leaves is right, and only what it counts is wrong"
        return told if _is_right(mistaken(name)) else ""
    if fault == "numbers" and what in pass_classes() and pass_classes()[what].max_drift == math.inf:
        return "the pass declares that it may move the outputs by any amount"
    return ""


def _write_adapter(random: np.random.Generator) -> None:
    from safetensors.numpy import save_file

    Path("adapter").mkdir()
    stem = "base_model.model.net.body.wide.lora"
    shapes = {f"{stem}_A.weight": (2, 8), f"{stem}_B.weight": (16, 2)}
    arrays = {key: random.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    save_file(arrays, "adapter/adapter_model.safetensors")
    Path("adapter/adapter_config.json").write_text(json.dumps(_ADAPTER))


def _samples() -> Iterator["Sample"]:
    """The graphs among which the suite finds every mistake."""
    from test_effects import MANY, SHOWING, focused

    return map(focused, dict.fromkeys([*SHOWING, *range(MANY)]))


def _is_right(step: Pass) -> bool:
    """Whether a pass with a mistake makes of each of the suite's graphs what the pass without it does."""
    right = getattr(import_module(type(step).__module__), type(step).__name__)()
    return not any(differences(_applied(right, given.graph), _applied(step, given.graph)) for given in _samples())


def _applied(step: Pass, graph: Graph) -> Graph:
    changed = graph.clone()
    step.apply(changed, PassContext(load_target("x86-64"), graph))
    return changed


def _fail_by_mistake(name: str) -> str | None:
    """What is said of the first of the suite's graphs on which the checks of a build see the mistake."""
    step = mistaken(name)
    for given in _samples():
        try:
            with reproducing(case := Reproducer(given.graph, step.name, "x86-64", probes=given.probes)):
                case.run()
        except Exception as error:  # of whatever kind: the pass may fall over its own mistake
            if not isinstance(error, PlanishError) or isinstance(error, CheckError | PassError):
                return "\n".join([str(error), *getattr(error, "__notes__", ())])
    return None
