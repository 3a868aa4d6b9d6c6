"""Operators are trained through: their gradients are right, and rounding passes them straight on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from planish.ir.ops import operators

Arguments = Callable[[], list[Any]]


def wave(*shape: int) -> Tensor:
    """Doubles without ties or zeros, since gradcheck's finite differences must not cross a kink."""
    count = torch.tensor(shape).prod()
    return (torch.sin(torch.arange(1, count + 1) * 2.4) * 2).double().reshape(shape).requires_grad_()


CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "AveragePool": (
        [wave(1, 2, 5, 5)],
        {"kernel_shape": (3, 3), "pads": (1, 0, 0, 1), "ceil_mode": 1, "strides": (2, 2)},
    ),
    "BatchNormalization": (
        [wave(2, 3, 2), wave(3), wave(3), wave(3), (wave(3).detach() ** 2 + 1).requires_grad_()],
        {},
    ),
    "Clip": ([wave(7), torch.tensor(-0.5).double(), torch.tensor(0.7).double()], {}),
    "Concat": ([wave(2, 3), wave(2, 1)], {"axis": 1}),
    "Conv": ([wave(1, 2, 5, 4), wave(3, 2, 3, 2), wave(3)], {"auto_pad": "SAME_UPPER", "strides": (2, 1)}),
    "ConvTranspose": ([wave(1, 2, 3), wave(2, 2, 3), wave(2)], {"strides": (2,), "pads": (1, 0)}),
    "Det": ([wave(2, 1, 3, 3)], {}),
    "Einsum": ([wave(2, 3), wave(3, 2)], {"equation": "ij,jk->ik"}),
    "Gather": ([wave(4, 2), torch.tensor([0, -1, 0])], {"axis": 0}),
    "Gemm": ([wave(3, 2), wave(3, 4), wave(4)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    "LayerNormalization": ([wave(2, 4), wave(4), wave(4)], {"stash_type": 11}),
    "MaxPool": ([wave(1, 1, 5, 5)], {"kernel_shape": (2, 2), "pads": (1, 1, 1, 1)}),
    "Pad": ([wave(2, 3), [1, 2, 0, 1]], {"mode": "reflect"}),
    "PRelu": ([wave(2, 3), wave(3)], {}),
    "ReduceL2": ([wave(2, 3), [1]], {}),
    "Resize": ([wave(1, 1, 4, 3), None, None, [1, 1, 6, 5]], {"mode": "cubic"}),
    "ScatterND": ([wave(4, 2), torch.tensor([[2], [0]]), wave(2, 2)], {"reduction": "add"}),
    "Slice": ([wave(5, 2), [-1], [-6], [0], [-2]], {}),
    "Softmax": ([wave(2, 3)], {"axis": 0}),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    arguments, attributes = CASES[name]
    function = operators()[name].function
    assert torch.autograd.gradcheck(lambda *inputs: function(*inputs, **attributes), arguments)


@pytest.mark.parametrize("statistics_learn", [False, True])
def test_a_batch_normalization_is_trained_as_it_runs(statistics_learn: bool) -> None:
    kind = operators()["BatchNormalization"]
    assert kind.trainable is not None
    arguments = [*CASES["BatchNormalization"][0]]
    if not statistics_learn:
        arguments[3:] = [statistic.detach() for statistic in arguments[3:]]
    assert torch.autograd.gradcheck(lambda *inputs: kind.trainable(*inputs, epsilon=0.01), arguments)
    assert torch.allclose(kind.trainable(*arguments, epsilon=0.01), kind.function(*arguments, epsilon=0.01))


def test_determinants_of_large_matrices_are_computed_on_any_number_of_threads() -> None:
    x = torch.sin(torch.arange(4 * 300 * 300) * 2.4).double().reshape(2, 2, 300, 300) / 300 + torch.eye(300)
    given = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        y = operators()["Det"].function(x)
        single = torch.linalg.det(x[1, 0])
        empty = operators()["Det"].function(torch.empty(0, 300, 300))
    finally:
        torch.set_num_threads(given)
    assert y.shape == (2, 2)
    assert torch.allclose(y[1, 0], single)
    assert empty.shape == (0,)


def test_rounding_passes_the_gradient_straight_through_inside_the_range_only() -> None:
    quantize = operators()["QuantizeLinear"].trainable
    assert quantize is not None
    x = torch.tensor([-100.0, -0.7, 0.4, 100.0], requires_grad=True)
    y = quantize(x, torch.tensor(0.5), torch.tensor(10, dtype=torch.int8))
    assert y.tolist() == [-128, 9, 11, 127]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 2, 0]


def test_training_and_running_round_alike() -> None:
    quantize = operators()["QuantizeLinear"]
    assert quantize.trainable is not None
    x = torch.linspace(-40, 40, 1001)
    scale, zero_point = torch.tensor(0.25), torch.tensor(101, dtype=torch.uint8)
    trained = quantize.trainable(x, scale, zero_point)
    assert trained.dtype is torch.float32
    assert torch.equal(trained, quantize.function(x, scale, zero_point).float())


def test_the_scale_learns_by_how_far_its_elements_are_rounded() -> None:
    """The gradient of LSQ (Esser et al., ICLR 2020): `round(v) - v` inside the range, its bound outside."""
    quantize, dequantize = operators()["QuantizeLinear"].trainable, operators()["DequantizeLinear"].function
    assert quantize is not None
    scale, zero_point = torch.tensor(1.0, requires_grad=True), torch.tensor(0, dtype=torch.int8)
    for value, gradient in ((3.2, -0.2), (2.9, 0.1), (300.0, 127.0)):
        scale.grad = None
        dequantize(quantize(torch.tensor(value), scale, zero_point), scale, zero_point).backward()
        assert scale.grad is not None
        assert scale.grad.item() == pytest.approx(gradient, abs=1e-5)
