"""Training a graph gives the losses that training the module gives, whether it was traced or read from a file."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import planish
from planish.ir.graph import Graph
from planish.ir.module import to_module
from planish.ir.ops import operators
from planish.passes.training.trainer import is_weight

STEPS = 50


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x).mean(1))


def convolutional() -> nn.Module:
    first = (nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*first, nn.Conv2d(8, 8, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def losses(forward: Callable[[torch.Tensor], torch.Tensor], weights: list[nn.Parameter], x: torch.Tensor) -> np.ndarray:
    optimizer, found = torch.optim.AdamW(weights, 1e-2), []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(forward(x.roll(step, 1)), torch.arange(len(x)) % 4)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return np.array(found)


def of_graph(graph: Graph, x: torch.Tensor) -> np.ndarray:
    module = to_module(graph, training=True).requires_grad_(False)
    chosen = [place for place, constant in enumerate(graph.constants.values()) if is_weight(constant)]
    weights = [module.get_parameter(f"constant_{place}").requires_grad_() for place in chosen]
    return losses(lambda x: module(x)[0], weights, x)


@pytest.mark.parametrize(
    ("make", "shape"),
    [(convolutional, (8, 2, 8, 8)), (Encoder, (8, 6, 16)), (Recurrent, (8, 5, 6))],
    ids=["cnn", "transformer", "lstm"],
)
def test_a_graph_is_trained_as_its_module_is(
    make: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module, x = make().eval(), torch.randn(shape)
    graph = planish.trace(module, (x,))
    planish.write(graph, tmp_path / "model.onnx")

    original = copy.deepcopy(module)  # whose weights aren't the graph's
    wanted = losses(original, list(original.parameters()), x)

    assert wanted[-1] < 0.8 * wanted[0]
    np.testing.assert_allclose(of_graph(graph, x), wanted, rtol=1e-4)
    np.testing.assert_allclose(of_graph(planish.read(tmp_path / "model.onnx"), x), wanted, rtol=1e-4)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"layout": 1}, {"outputs": 1}, {"outputs": 2, "activations": ("Sigmoid", "Tanh", "Tanh") * 2}, {"clip": 0.1}],
    ids=str,
)
def test_an_lstm_in_training_computes_what_it_does_otherwise(direction: str, settings: dict[str, object]) -> None:
    generator = torch.Generator().manual_seed(0)
    count, definition = 1 + (direction == "bidirectional"), operators()["LSTM"]
    settings = {"outputs": 3, **settings, "direction": direction}
    assert definition.trainable is not None
    shapes = [(5, 3, 4), (count, 8, 4), (count, 8, 2), (count, 16), *[(count, 3, 2)] * 2]
    if "layout" in settings:
        shapes[0], shapes[4:] = (3, 5, 4), [(3, count, 2)] * 2
    x, w, r, b, h, c = (torch.randn(shape, generator=generator) for shape in shapes)
    for inputs in ((x, w, r), (x, w, r, b, None, h, c), (x, w, r, b, torch.tensor([5, 2, 3], dtype=torch.int32))):
        expected, got = (function(*inputs, **settings) for function in (definition.function, definition.trainable))
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_an_lstm_in_training_takes_stacked_samples(direction: str, layout: int) -> None:
    generator = torch.Generator().manual_seed(0)
    count, definition = 1 + (direction == "bidirectional"), operators()["LSTM"]
    assert definition.trainable is not None
    x, states = ((3, 5, 4), (3, count, 2)) if layout else ((5, 3, 4), (count, 3, 2))
    w, r, b = (torch.randn(shape, generator=generator) for shape in [(count, 8, 4), (count, 8, 2), (count, 16)])
    x, h, c = (torch.randn(4, *shape, generator=generator) for shape in (x, states, states))

    def run(x: torch.Tensor, h: torch.Tensor | None, c: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        return definition.trainable(x, w, r, b, None, h, c, outputs=3, direction=direction, layout=layout)

    cases = (((x, None, None), (0, None, None)), ((x, h, c[0]), (0, 0, None)), ((x[0], h, c), (None, 0, 0)))
    for started, axes in cases:
        got = torch.vmap(run, axes)(*started)
        for place, found in enumerate(zip(*got, strict=True)):
            own = (it if axis is None else it[place] for it, axis in zip(started, axes, strict=True))
            torch.testing.assert_close(found, run(*own))


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (1,)])
def test_a_normalization_in_training_computes_what_it_does_otherwise(axis: int, shape: tuple[int, ...]) -> None:
    x, scale, bias = torch.randn(2, 3, 4), torch.randn(shape), torch.randn(shape)
    definition = operators()["LayerNormalization"]
    assert definition.trainable is not None
    for inputs in ((x, scale, bias), (x, scale)):
        torch.testing.assert_close(definition.trainable(*inputs, axis=axis), definition.function(*inputs, axis=axis))


@pytest.mark.parametrize("shape", [(2, 6, 32, 40), (2, 6, 5, 7), (2, 6, 1100)])
def test_a_depthwise_convolution_in_training_computes_what_it_does_otherwise(shape: tuple[int, ...]) -> None:
    """Its channels come last where the image is large, which is nobody's concern but torch's."""
    torch.manual_seed(0)
    definition = operators()["Conv"]
    assert definition.trainable is not None
    inputs = [torch.randn(it, requires_grad=True) for it in (shape, (12, 1, *[3] * (len(shape) - 2)), (12,))]
    settings = {"group": 6, "pads": (1,) * 2 * (len(shape) - 2)}
    found = [function(*inputs, **settings) for function in (definition.function, definition.trainable)]
    wanted, got = ([it, *torch.autograd.grad(it.square().sum(), inputs)] for it in found)
    for pair in zip(got, wanted, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


def test_a_hard_swish_in_training_computes_what_it_does_otherwise() -> None:
    definition, x = operators()["HardSwish"], torch.linspace(-5, 5, 101)
    assert definition.trainable is not None
    torch.testing.assert_close(definition.trainable(x), definition.function(x))
    assert definition.function(torch.tensor(1e38)) == torch.tensor(1e38)


@pytest.mark.parametrize(("name", "exponents"), [("Sqrt", ()), ("Pow", ([[0.5], [2.0]],))], ids=["Sqrt", "Pow"])
def test_a_root_of_zero_has_a_finite_gradient(name: str, exponents: Sequence[list[list[float]]]) -> None:
    """Magnitudes of spectra are such roots, and what rounds before them makes zeros."""
    x = torch.tensor([0.0, 4.0, 0.25], requires_grad=True)
    definition = operators()[name]
    operands = [torch.tensor(it) for it in exponents]

    roots = definition.function(x, *operands)

    torch.testing.assert_close(roots.detach(), definition.function(x.detach(), *operands))
    (gradient,) = torch.autograd.grad(roots.reshape(-1, 3)[0].sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.25, 1.0]))
