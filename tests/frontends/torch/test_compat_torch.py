"""What a module asks in Python of numbers and sizes: what is known of them is used, and the rest is refused."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

import planish
from planish.frontends.torch import trace
from planish.ir.errors import ModelError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter

Agrees = Callable[[Graph, nn.Module, tuple[Tensor, ...]], None]


CHECK = compile("assert length <= 9", "check.py", "exec")
"""An assertion that pytest doesn't see, and so leaves as it is."""


class Segments(nn.Module):
    """Attention within segments of a row whose lengths are data, as encoders of packed images have it."""

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        lengths = (ends[1:] - ends[:-1]).tolist()
        exec(CHECK, {"length": lengths[0]})
        return torch.cat([self._attend(part) for part in torch.split(x, lengths)])

    def _attend(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return x  # which is what it gives
        return F.scaled_dot_product_attention(x[None], x[None], x[None])[0]


def test_a_size_that_data_tells_is_taken_for_an_ordinary_one() -> None:
    torch.manual_seed(0)
    module = Segments()
    graph = trace(module, (torch.randn(9, 4), torch.tensor([0, 2, 6, 9])))
    executable = planish.compile(graph, backend="onnxruntime")
    for ends in ([0, 2, 6, 9], [0, 1, 8, 9], [0, 3, 6, 9]):
        x, row = torch.randn(9, 4), torch.tensor(ends)
        fed = {value.name: tensor.numpy() for value, tensor in zip(graph.inputs, (x, row), strict=True)}
        for found in (*Interpreter(graph).run(fed).values(), *executable(**fed)):
            np.testing.assert_allclose(found, module(x, row).numpy(), rtol=1e-4, atol=1e-5)


class Padded(nn.Module):
    """A convolution that pads as much as its buffers say, as encoders of sound have it."""

    stride: Tensor
    size: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 5, stride=3)
        self.register_buffer("stride", torch.tensor(3))
        self.register_buffer("size", torch.tensor(5))

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.ceil((x.shape[-1] - self.size) / self.stride).to(torch.int64)
        missing = steps * self.stride + self.size - x.shape[-1]
        return self.conv(F.pad(x, (0, missing)) if missing > 0 else x)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("length", [20, 21])
def test_a_number_in_a_buffer_is_known(agrees: Agrees, length: int) -> None:
    graph = trace(module := Padded(), (torch.randn(1, 2, length),))
    agrees(graph, module, (torch.randn(1, 2, length),))


def exported(module: nn.Module, *arguments: Tensor) -> None:
    torch.export.export(module.eval(), arguments, strict=False)


def test_torch_still_asks_what_only_data_tells() -> None:
    """Otherwise `ordinary_sizes` can go."""
    with pytest.raises(GuardOnDataDependentSymNode):
        exported(Segments(), torch.randn(9, 4), torch.tensor([0, 2, 6, 9]))


def test_torch_still_knows_no_numbers_in_buffers() -> None:
    """Otherwise `known_numbers` can go."""
    with pytest.raises(GuardOnDataDependentSymNode):
        exported(Padded(), torch.randn(1, 2, 20))


@pytest.mark.wide
def test_threads_may_trace_side_by_side(agrees: Agrees) -> None:
    """Each module takes a patch of its own, and none is left behind; threads take turns as often as they can."""
    patched = ShapeEnv.evaluate_expr, FakeTensorMode.from_tensor
    cases = [
        (Padded(), (torch.randn(1, 2, 20),)),
        (Segments(), (torch.randn(9, 4), torch.tensor([0, 2, 6, 9]))),
    ] * 3
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            graphs = list(pool.map(lambda case: trace(*case), cases))
    finally:
        sys.setswitchinterval(interval)
    for graph, (module, arguments) in zip(graphs, cases, strict=True):
        agrees(graph, module, arguments)
    assert patched == (ShapeEnv.evaluate_expr, FakeTensorMode.from_tensor)


class Counting(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Choosing(nn.Module):
    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        return x + 1 if number.item() > 1 else x


class Selecting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = x[x > 0]
        return x.sum() if kept.shape[0] == 0 else kept.mean()


def test_whether_there_is_anything_is_left_open() -> None:
    with pytest.raises(ModelError, match="data-dependent"):
        trace(Selecting(), (torch.randn(8),))


def test_a_number_that_changes_is_not_known() -> None:
    with pytest.raises(ModelError, match="changes 'calls' while it runs"):
        trace(Counting(), (torch.randn(2),))
    for number in (torch.tensor(3), torch.tensor(True)):
        with pytest.raises(ModelError, match="data-dependent"):
            trace(Choosing(), (torch.randn(2), number))
