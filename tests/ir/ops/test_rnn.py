"""Recurrent layers against torch's own, and against ONNX Runtime for what torch's lack."""

from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from planish.ir.graph import Value
from planish.ir.infer import infer
from planish.ir.ops import operators
from planish.ir.types import DType, TensorType

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
TIME, BATCH, SIZE, HIDDEN = 5, 3, 4, 2


def made(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def inputs(operator: str, directions: int) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(3)
    rows = GATES[operator] * HIDDEN
    shapes = [(TIME, BATCH, SIZE), (directions, rows, SIZE), (directions, rows, HIDDEN), (directions, 2 * rows)]
    x, w, r, b = (made(generator, *shape) for shape in shapes)
    states = [made(generator, directions, BATCH, HIDDEN) for _ in range(2 if operator == "LSTM" else 1)]
    return [x, w, r, b, None, *states]


def reordered(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """The gates in torch's order."""
    parts = tensor.chunk(len(order))
    return torch.cat([parts[place] for place in order])


@pytest.mark.parametrize(("operator", "directions"), [*product(GATES, (1, 2))])
def test_layers_are_those_of_torch(operator: str, directions: int) -> None:
    x, w, r, b, _, *states = inputs(operator, directions)
    assert x is not None
    layer = getattr(torch.nn, operator)(SIZE, HIDDEN, bidirectional=directions == 2)
    order = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}[operator]
    with torch.no_grad():
        for index in range(directions):
            suffix = "_l0" + "_reverse" * index
            for name, tensor in (("weight_ih", w), ("weight_hh", r)):
                getattr(layer, name + suffix).copy_(reordered(tensor[index], order))
            for name, bias in zip(("bias_ih", "bias_hh"), b[index].chunk(2), strict=True):
                getattr(layer, name + suffix).copy_(reordered(bias, order))
        expected, last = layer(x, tuple(states) if len(states) == 2 else states[0])
        attributes: dict[str, Any] = {"linear_before_reset": 1} if operator == "GRU" else {}
        attributes |= {"direction": "bidirectional"} if directions == 2 else {}
        count = 1 + len(states)
        y, *found = operators()[operator].function(x, w, r, b, None, *states, **attributes, outputs=1 + len(states))
    wanted = expected.reshape(TIME, BATCH, directions, HIDDEN).transpose(1, 2)
    assert len(found) == count - 1
    for got, want in zip((y, *found), (wanted, *(last if isinstance(last, tuple) else (last,))), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        (
            "RNN",
            {"activations": ["Affine", "HardSigmoid"], "activation_alpha": [0.5, 0.3], "activation_beta": [0.1, 0.4]},
        ),
        ("RNN", {"activations": ["LeakyRelu", "ThresholdedRelu"], "activation_alpha": [0.2, 0.3], "clip": 0.8}),
        ("GRU", {"activations": ["Sigmoid", "Softsign", "HardSigmoid", "Relu"], "clip": 1.0}),
        ("LSTM", {"activations": ["Sigmoid", "Elu", "Tanh"] * 2, "activation_alpha": [0.7, 0.9]}),
        ("LSTM", {"input_forget": 1, "clip": 0.5}),
    ],
)
@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
def test_layers_are_those_of_onnx_runtime(operator: str, attributes: dict[str, Any], lengths: list[int] | None) -> None:
    """Sequences have several lengths; layers have both directions, activations, clipping and peepholes."""
    given = inputs(operator, 2)
    given[4] = None if lengths is None else torch.tensor(lengths, dtype=torch.int32)
    if operator == "LSTM":
        given.append(made(torch.Generator().manual_seed(4), 2, 3 * HIDDEN))
    outputs = ["y", "h", "c"] if operator == "LSTM" else ["y", "h"]
    feeds = {f"i{index}": tensor.numpy() for index, tensor in enumerate(given) if tensor is not None}
    names = ["" if tensor is None else f"i{index}" for index, tensor in enumerate(given)]
    node = onnx.helper.make_node(operator, names, outputs, direction="bidirectional", hidden_size=HIDDEN, **attributes)
    known = {key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()}
    found = operators()[operator].function(*given, direction="bidirectional", outputs=len(outputs), **known)
    for got, want in zip(found, run(node, feeds, outputs), strict=True):
        np.testing.assert_allclose(got.numpy(), want, 1e-4, 1e-5)


def run(node: onnx.NodeProto, feeds: dict[str, np.ndarray], outputs: list[str]) -> list[Any]:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "rnn",
        [info(name, onnx.helper.np_dtype_to_tensor_dtype(data.dtype), data.shape) for name, data in feeds.items()],
        [info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)


def test_types_hold_for_any_number_of_steps() -> None:
    x, w, r = (Value("x", TensorType(DType.float32, shape)) for shape in (("t", "n", 4), (2, 8, 4), (2, 8, 2)))
    y, h, c = infer("LSTM", [x, w, r], {"direction": "bidirectional", "hidden_size": 2}, 3)
    assert (y.shape, h.shape, c.shape) == (("t", 2, "n", 2), (2, "n", 2), (2, "n", 2))
    y, h = infer("GRU", [x, w, r], {"direction": "bidirectional", "layout": 1}, 2)
    assert (y.shape, h.shape) == (("t", "n", 2, 2), ("t", 2, 2))


def test_no_step_at_all_leaves_the_state() -> None:
    x, w, r, b, _, h = inputs("RNN", 1)
    assert x is not None
    y, last = operators()["RNN"].function(x[:0], w, r, b, None, h, outputs=2)
    assert y.shape == (0, 1, BATCH, HIDDEN)
    assert last is not None
    torch.testing.assert_close(last, h)


def test_gradients_pass_straight_through_the_rounding_of_inputs_and_states() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w, r = (made(generator, *shape) for shape in ((TIME, BATCH, SIZE), (1, SIZE, 8), (1, HIDDEN, 8)))
    scale, zero_point = torch.tensor([0.01]), torch.zeros(1, dtype=torch.int8)
    integers = [(it / scale).round().clamp(-127, 127).to(torch.int8) for it in (w, r)]
    grids = [scale, zero_point, scale, zero_point]
    gradients: list[Tensor] = []
    for operator, weights, others in (
        ("com.microsoft::DynamicQuantizeLSTM", integers, [None] * 5 + grids),
        ("LSTM", [(it * scale).mT for it in integers], []),
    ):
        leaf = x.clone().requires_grad_()
        operators()[operator].function(leaf, *weights, *others).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert 0 < (gradients[0] - gradients[1]).norm() < 0.05 * gradients[1].norm()
