"""Operators of the user's own, which torch knows by `torch.library` and planish by `planish.operator`."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import planish
from planish.ir.errors import ModelError
from planish.ir.ops import operators

NAME = "planish_tests::squared_relu"


@torch.library.custom_op(NAME, mutates_args=())
def squared_relu(x: Tensor, bias: Tensor | None = None, gain: float = 2.0, inverted: bool = False) -> Tensor:
    y = gain * torch.relu(x).square()
    return y if bias is None else y + bias


@squared_relu.register_fake
def _(x: Tensor, bias: Tensor | None = None, gain: float = 2.0, inverted: bool = False) -> Tensor:
    return torch.empty_like(x)


def spelled_out(op, node):
    relu = op.Relu(node.inputs[0])
    y = op.Mul(op.Mul(relu, relu), node.attributes.get("gain", 2.0))
    return y if node.input(1) is None else op.Add(y, node.input(1))


class Model(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return squared_relu(squared_relu(x, gain=0.5), x)


@pytest.fixture
def trace():
    shapes = ({0: torch.export.Dim("n")},)
    yield lambda: planish.trace(Model(), (torch.randn(3, 4),), dynamic_shapes=shapes)
    operators().pop(NAME, None)


def test_a_call_is_a_node_of_the_same_name(trace) -> None:
    @planish.operator(NAME, expansion=spelled_out)
    def meaning(x: Tensor, bias: Tensor | None = None, *, gain: float = 2.0, inverted: int = 0) -> Tensor:
        return squared_relu(x, bias, gain)

    graph = trace()
    assert [(node.operator, node.attributes, str(node.output.type)) for node in graph.nodes] == [
        (NAME, {"gain": 0.5}, "float32[n, 4]"),
        (NAME, {}, "float32[n, 4]"),
    ]
    x = np.array([[1, -2, 3, 0.5]], np.float32)
    expected = Model()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(planish.compile(graph, target="x86-64")(x)[0], expected, rtol=1e-6)


def test_without_a_meaning_it_is_refused(trace) -> None:
    with pytest.raises(
        ModelError, match=rf"^test_keep.py:\d+: unknown operator {NAME}; no package that is installed has operators"
    ):
        trace()


def test_other_defaults_would_be_another_operator(trace) -> None:
    @planish.operator(NAME)
    def meaning(x: Tensor, bias: Tensor | None = None, *, gain: float = 1.0, inverted: int = 0) -> Tensor:
        return squared_relu(x, bias, gain)

    with pytest.raises(ModelError, match=r"the default of gain is 2.0 in .*, but 1.0 in the operator registered"):
        trace()
