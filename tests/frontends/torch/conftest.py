"""Lowerings are tested by families: one module returns many functions' results, since a trace costs more than a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import planish
from planish.backends.base import Executable
from planish.frontends.torch import trace
from planish.ir.equal import differences
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.text import parse_graph, print_graph, weights
from planish.ir.verify import verify

Functions: TypeAlias = Mapping[str, Callable[..., Any]]
Inputs: TypeAlias = Callable[[int], tuple[Tensor, ...]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Trace each family with a batch of any size, which stands for a fixed one."""
    traced = [item for item in items if item.path.parent == Path(__file__).parent]
    default = {(item.path, item.name) for item in traced if not item.get_closest_marker("slow")}
    for item in traced:
        if item.name.endswith("fixed]") and (item.path, item.name.replace("fixed", "symbolic")) in default:
            item.add_marker(pytest.mark.wide)


@pytest.fixture(autouse=True)
def drawn_anew() -> None:
    """Let each test draw the same numbers from torch's generator, whatever ran before."""
    torch.manual_seed(0)


class Every(nn.Module):
    """The results of some functions of the same inputs, by name; modules among them have random parameters."""

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.functions = functions
        self.parts = nn.ModuleList([function for function in functions.values() if isinstance(function, nn.Module)])
        for parameter in self.parameters():
            nn.init.normal_(parameter)
        for name, buffer in self.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                nn.init.uniform_(buffer, 0.5, 2)

    def forward(self, *inputs: Tensor) -> dict[str, Any]:
        return {name: function(*inputs) for name, function in self.functions.items()}


def check_outputs(
    graph: Graph, module: nn.Module, inputs: tuple[Tensor, ...], executable: Executable | None = None
) -> None:
    """Hold the outputs of a graph, and of what was made of it, to the module's: number, types, shapes and values."""
    with torch.no_grad():
        expected = pytree.tree_leaves_with_path(module(*inputs))
    fed = {value.name: tensor.numpy() for value, tensor in zip(graph.inputs, inputs, strict=True)}
    check_arrays(graph, expected, list(Interpreter(graph).run(fed).values()), "interpreter")
    if executable is not None:
        check_arrays(graph, expected, executable(**fed), "runtime")


def check_arrays(graph: Graph, expected: list[Any], found: list[np.ndarray], by: str) -> None:
    assert len(found) == len(expected)
    for (path, tensor), (name, output), array in zip(expected, graph.outputs.items(), found, strict=True):
        where = f"{name}, {pytree.keystr(path)} by the {by}"
        assert array.dtype == tensor.numpy().dtype, where
        assert array.shape == tuple(tensor.shape), where
        assert output.type.rank == array.ndim, where
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-4, atol=1e-5, err_msg=where)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Threads that wait for each other would take longer than these little tensors."""
    torch.set_num_threads(1)


@pytest.fixture
def holds() -> Callable[..., Graph]:
    """A check of functions: traced with a batch of fixed or symbolic size, they compute what they compute in torch.

    The graph must also be well formed, read back from its text as it is, and run in ONNX Runtime unless `runs` is
    false.
    """

    def check(functions: Functions, inputs: Inputs, is_symbolic: bool, *, runs: bool = True) -> Graph:
        torch.manual_seed(0)
        module = Every(functions).eval()
        example = inputs(4)
        dynamic = (tuple({0: Dim.AUTO} for _ in example),) if is_symbolic else None
        graph = trace(module, example, dynamic_shapes=dynamic)
        assert all(isinstance(value.shape[0], str) == is_symbolic for value in graph.inputs if value.type.rank)
        verify(graph)
        assert differences(graph, parse_graph(print_graph(graph), weights(graph))) == []
        executable = planish.compile(graph, backend="onnxruntime") if runs else None
        for batch in (4, 1, 7) if is_symbolic else (4,):
            check_outputs(graph, module, inputs(batch), executable)
        return graph

    return check


@pytest.fixture
def agrees() -> Callable[[Graph, nn.Module, tuple[Tensor, ...]], None]:
    """A check that a graph computes what a module computes."""
    return check_outputs
