"""Nodes that torch's own operators run: what they take and give back, and that they can do nothing but compute."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from planish.backends import backend_names
from planish.backends.legal import legalized
from planish.frontends.torch import trace
from planish.ir.builder import Builder
from planish.ir.equal import differences
from planish.ir.errors import ModelError, TargetError
from planish.ir.graph import Graph
from planish.ir.infer import find_operator
from planish.ir.interpreter import Interpreter
from planish.ir.ops.aten import inputs_and_attributes
from planish.ir.text import parse_graph, print_graph
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.targets.load import load_target

aten: Any = torch.ops.aten
X = torch.tensor([[4.0, 1.0, -2.0], [1.0, 3.0, 0.5], [-2.0, 0.5, 5.0]])
CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "one tensor": (aten.i0.default, (X,), {}),
    "several results": (aten.linalg_qr.default, (X, "complete"), {}),
    "truth": (aten.linalg_cholesky_ex.default, (X,), {"upper": True}),
    "a number of each kind": (aten.special_zeta.other_scalar, (X.abs(), 2), {}),
    "a fraction": (aten.special_zeta.other_scalar, (X.abs(), 2.5), {}),
    "a true number": (aten.full_like.default, (X > 0, True), {}),
    "a complex number": (aten.add.Scalar, (X, 2 + 1j), {}),
    "a whole float": (aten.logit.default, (X, 0), {}),
    "an element type": (aten.nansum.default, (X,), {"dtype": torch.float64}),
    "axes": (aten._fft_r2c.default, (X, [0, 1], 0, False), {}),
    "a list": (aten.block_diag.default, ([X, X[:1], X],), {}),
    "a list with gaps": (aten.index.Tensor, (X, [None, torch.tensor([2, 0])]), {}),
    "a tensor left out": (aten.native_layer_norm.default, (X, [3], None, X[0], 1e-5), {}),
    "where it lies": (aten.full_like.default, (X, 1.5), {"device": torch.device("cpu"), "layout": torch.strided}),
}


def graph_of(overload: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Graph, dict[str, Any]]:
    """A graph of one node, and what it is fed."""
    graph, feeds = Graph(), {}
    tensors, attributes = inputs_and_attributes(overload, arguments, keywords)
    operands = []
    for tensor in tensors:
        if tensor is None:
            operands.append(None)
            continue
        operands.append(graph.add_input(f"x{len(feeds)}", TensorType(DType[tensor.numpy().dtype.name], tensor.shape)))
        feeds[operands[-1].name] = tensor.numpy()
    results = Builder(graph)(overload.name(), *operands, outputs=len(overload._schema.returns), **attributes)
    graph.outputs = {f"y{i}": value for i, value in enumerate(results if isinstance(results, tuple) else (results,))}
    return graph, feeds


@pytest.mark.parametrize("case", CALLS)
def test_a_node_prints_parses_and_runs_as_the_call_that_it_was(case: str) -> None:
    overload, arguments, keywords = CALLS[case]
    graph, feeds = graph_of(overload, arguments, keywords)
    verify(graph)
    again = parse_graph(print_graph(graph))
    assert differences(graph, again) == []
    wanted = overload(*arguments, **keywords)
    found = Interpreter(again).run(feeds)
    for tensor, (name, array) in zip(wanted if isinstance(wanted, tuple) else (wanted,), found.items(), strict=True):
        assert graph.outputs[name].type == TensorType.of(array)
        np.testing.assert_array_equal(array, tensor.numpy(), strict=True)


@pytest.mark.parametrize(
    "name",
    [
        "from_file",  # reads files
        "add_.Tensor",  # writes into its argument
        "add.out",
        "bernoulli.p",  # draws random numbers
        "fbgemm_linear_fp16_weight",  # takes a tensor for a pointer
        "quantized_lstm.input",
        "_print",
        "__class__",
        "__name__",
        "add.default",
        "nonsense",
    ],
)
def test_what_could_do_more_than_compute_is_no_operator(name: str) -> None:
    with pytest.raises(ModelError, match=f"unknown operator aten::{name}"):
        find_operator(f"aten::{name}")


@pytest.mark.parametrize(
    "node",
    [
        "aten::linalg_qr()",
        "aten::linalg_qr(%x, %x)",
        'aten::linalg_qr(%x) {mode = "sideways"}',
        "aten::linalg_qr(%x) {speed = 1}",
        "aten::block_diag(%x)",
        "aten::block_diag(%x) {tensors = -1}",
        "aten::nansum(%x) {dtype = 99}",
        "aten::logit(%x) {eps = [1, 2]}",
    ],
)
def test_a_malformed_node_is_refused(node: str) -> None:
    graph = parse_graph(f'graph "g"(%x: float32[3, 3]) {{\n  %y: float32[3, 3] = {node}\n  return y = %y\n}}')
    with pytest.raises(ModelError):
        Interpreter(graph).run({"x": X.numpy()})


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x) @ x


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inverse = Inverse()

    def forward(self, x: Tensor) -> Tensor:
        return self.inverse(x).relu()


@pytest.mark.parametrize("backend", backend_names())
def test_a_backend_refuses_it_by_name_and_module(backend: str) -> None:
    graph = trace(Model(), (X,))
    np.testing.assert_allclose(Interpreter(graph).run({"x": X.numpy()})["output"], np.eye(3), atol=1e-6)
    with pytest.raises(
        TargetError, match=r"^inverse at .*: \w+ can't run aten::linalg_inv_ex: ONNX has no counterpart"
    ):
        legalized(graph, load_target("native"), backend)


@pytest.mark.parametrize("function", [aten.cauchy, lambda x: x.to_sparse()])
def test_tracing_refuses_what_may_not_be_a_node(function: Callable[[Tensor], Tensor]) -> None:
    class Of(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    with pytest.raises(ModelError, match=r"aten\..* has no counterpart among the operators"):
        trace(Of(), (X,))
