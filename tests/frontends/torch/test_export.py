"""What torch exports is what the module computes, in the module's own order."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from planish.frontends.torch import trace
from planish.ir.interpreter import Interpreter


class Record(dict[str, Any]):
    """A container of a library's own, whose parts are in another order once it is put together again."""


def taken_apart(record: Record) -> tuple[list[Any], list[str]]:
    return list(record.values()), list(record)


def put_together(parts: Iterable[Any], names: list[str]) -> Record:
    return Record(sorted(zip(names, parts, strict=True)))


pytree.register_pytree_node(Record, taken_apart, put_together)


class Recorded(nn.Module):
    def forward(self, x: Tensor) -> Record:
        return Record(b=x, a=Record(d=x + 1, c=x + 2), last=x + 3)


def test_results_stay_in_the_order_in_which_the_module_holds_them() -> None:
    graph = trace(Recorded(), (torch.zeros(2),))
    outputs = Interpreter(graph).run({graph.inputs[0].name: np.zeros(2, np.float32)})
    assert [array.tolist() for array in outputs.values()] == [[n, n] for n in range(4)]
