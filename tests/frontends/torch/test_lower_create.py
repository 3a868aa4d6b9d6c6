"""Tensors that are made: of numbers, of sequences, of random numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import planish
from planish.frontends.torch import trace
from planish.ir.interpreter import Interpreter

Function = Callable[..., Any]


def rows(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 4, 5), torch.randint(-9, 9, (batch, 4, 5))


MADE: dict[str, Function] = {
    "range": lambda x, i: x + torch.arange(5),
    "range of fractions": lambda x, i: x + torch.arange(0, 1, 0.2),
    "range downwards": lambda x, i: x + torch.arange(10, 0, -2.0),
    "range of the batch": lambda x, i: x + torch.arange(x.shape[0])[:, None, None],
    "range from one": lambda x, i: x + torch.arange(1, x.shape[0] + 1, dtype=torch.float32)[:, None, None],
    "range by twos": lambda x, i: x + torch.arange(0, 2 * x.shape[0], 2)[:, None, None],
    "zeros and ones": lambda x, i: x + torch.zeros(4, 5) + torch.ones(4, 5, dtype=torch.int64),
    "alike": lambda x, i: torch.zeros_like(x) + torch.ones_like(i) + torch.full_like(x, 2, dtype=torch.int64),
    "new": lambda x, i: x.new_zeros((4, 5)) + x.new_ones(x.shape) + x.new_full((5,), 3),
    "full": lambda x, i: x + torch.full((x.shape[0], 1, 5), 2.5),
    "full of truth": lambda x, i: torch.full((5,), True) & (x > 0),
    "empty but written": lambda x, i: torch.empty_like(x).copy_(x[0, 0]) + torch.empty(x.shape).fill_(2),
    "filled": lambda x, i: x.clone().fill_(3.0) + x.clone().fill_(x[0, 0, 0]) + x.clone().zero_(),
    "eye": lambda x, i: x @ torch.eye(5),
    "linspace": lambda x, i: x + torch.linspace(0, 1, 5),
    "logspace": lambda x, i: x + torch.logspace(0, 1, 5),
    "meshgrid": lambda x, i: torch.meshgrid(torch.arange(3), torch.arange(2), indexing="xy"),
    "triangles": lambda x, i: (torch.tril_indices(4, 5, -1), torch.triu_indices(4, 5)),
    "repeats": lambda x, i: x.repeat_interleave(torch.tensor([2, 0, 1, 3]), 1),
    "counts": lambda x, i: torch.bincount((i[0, 0] + 9), minlength=4),
    "weighed counts": lambda x, i: torch.bincount((i[0, 0] + 9), x[0, 0].double()),
}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
def test_results_are_torchs(holds: Function, is_symbolic: bool) -> None:
    holds(MADE, rows, is_symbolic)


RANDOM: dict[str, tuple[Function, float, float]] = {
    "uniform": (lambda x: torch.rand(x.shape), 0.5, 1 / 12),
    "uniform alike": (lambda x: torch.rand_like(x) * 2, 1, 1 / 3),
    "normal": (lambda x: torch.randn_like(x) * 3 + 1, 1, 9),
    "normal of a mean": (lambda x: torch.normal(x * 0 + 2, 0.5), 2, 0.25),
    "integers": (lambda x: torch.randint(0, 4, x.shape).float(), 1.5, 1.25),
    "coins": (lambda x: torch.bernoulli(x * 0 + 0.25), 0.25, 0.1875),
    "exponential": (lambda x: torch.empty_like(x).exponential_(2.0), 0.5, 0.25),
    "permutation": (lambda x: torch.randperm(4000).float() / 4000, 0.5, 1 / 12),
    "draws": (lambda x: torch.multinomial(torch.tensor([1.0, 0.0, 3.0]), 4000, replacement=True).float(), 1.5, 0.75),
}


class Random(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: function(x) for name, (function, _, _) in RANDOM.items()}


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
def test_random_numbers_are_distributed_as_torchs(is_symbolic: bool) -> None:
    x = torch.zeros(50, 80)
    graph = trace(Random(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},) if is_symbolic else None)
    runs = [
        list(Interpreter(graph).run({"x": x.numpy()}).values()),
        planish.compile(graph, backend="onnxruntime")(x.numpy()),
    ]
    for arrays in runs:
        for array, (name, (_, mean, variance)) in zip(arrays, RANDOM.items(), strict=True):
            error = 6 * np.sqrt(variance / 4000)
            assert abs(array.mean() - mean) < error, name
            assert array.var() == pytest.approx(variance, rel=0.3), name
