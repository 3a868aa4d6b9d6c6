"""Grouped matrix products, as mixtures of experts make them, with rows that no group owns."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from planish.frontends.torch import trace
from planish.ir.errors import ModelError

pytest.importorskip("transformers.integrations.moe")  # registers the operator that it exports for float32


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(3, 4, 5))

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        return torch.ops.transformers.grouped_mm_fallback(x, self.weights, ends)


@pytest.mark.parametrize("rows", [2, 7, Dim("rows")])
def test_each_row_is_multiplied_by_its_groups_matrix(rows: Any, agrees: Callable[..., None]) -> None:
    module = Grouped()
    sizes = (rows,) if isinstance(rows, int) else (5, 2, 9)
    dynamic = None if isinstance(rows, int) else ({0: rows}, None)
    graph = trace(module, (torch.randn(sizes[0], 4), torch.tensor([1, 1, 2])), dynamic_shapes=dynamic)
    for size in sizes:
        for ends in ([0, 1, 2], [2, 2, 2], [1, 2, size], [0, 0, 0]):
            agrees(graph, module, (torch.randn(size, 4), torch.tensor(ends)))


def test_groups_of_columns_are_refused() -> None:
    class Columns(nn.Module):
        def forward(self, a: Tensor, b: Tensor, ends: Tensor) -> Tensor:
            return F.grouped_mm(a, b, offs=ends)

    inputs = torch.randn(4, 8).bfloat16(), torch.randn(8, 8).bfloat16(), torch.tensor([4, 8], dtype=torch.int32)
    with pytest.raises(ModelError, match="only a matrix of rows times one matrix for each group"):
        trace(Columns(), inputs)
