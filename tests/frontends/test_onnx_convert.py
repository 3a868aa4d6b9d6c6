"""Old models are converted in a process that stays, each in a child of its own."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto, helper

from planish.frontends import onnx_convert
from planish.ir.errors import ModelError

SHAPE = ("a", "b")


def old_model(name: str, operator: str = "Relu") -> ModelProto:
    x, y = (helper.make_tensor_value_info(value, TensorProto.FLOAT, SHAPE) for value in ("x", "y"))
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], name=name)], "graph", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def converted(name: str) -> str:
    return onnx_convert.normalized(old_model(name), Path("model.onnx")).graph.node[0].name


def test_threads_get_their_own_models() -> None:
    names = [f"layer{number}" for number in range(20)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(converted, names)) == names


def test_a_process_that_was_killed_is_told_and_replaced() -> None:
    assert converted("before") == "before"
    worker = onnx_convert._worker(os.getpid())._process
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    with pytest.raises(ModelError, match=r"model\.onnx: .* onnx's converter crashes on it \(SIGKILL\)"):
        converted("while")
    assert converted("after") == "after"


def test_a_forked_process_has_a_worker_of_its_own() -> None:
    assert converted("parent") == "parent"
    child = os.fork()
    if not child:
        os._exit(0 if converted("child") == "child" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert converted("parent again") == "parent again"
