"""Windows of a convolution: with its weights they give its output."""

from typing import Any

import numpy as np
import pytest
import torch

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.passes.windows import positions, window_rows, windows


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((2, 3, 9, 8), {"pads": (1, 0, 2, 1), "strides": (2, 1)}),
        ((2, 3, 9, 8), {"dilations": (2, 2)}),
        ((2, 3, 9, 8), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
        ((2, 3, 9, 8), {"auto_pad": "SAME_LOWER", "strides": (3, 1), "dilations": (1, 2)}),
        ((2, 3, 9, 8), {"auto_pad": "VALID"}),
        ((1, 3, 9), {"pads": (2, 2)}),
        ((1, 3, 5, 6, 7), {"pads": (1,) * 6}),
    ],
)
def test_windows_times_weights_are_the_output(shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, shape))
    weight = random.standard_normal((4, 3, *(3,) * (len(shape) - 2))).astype(np.float32)
    output = Builder(graph).Conv(x, weight, **attributes)
    graph.outputs["y"] = output
    array = random.standard_normal(shape).astype(np.float32)
    assert output.producer is not None

    seen = windows(torch.from_numpy(array), output.producer)

    y = torch.tensordot(
        seen.movedim(1, len(shape) - 1).flatten(len(shape) - 1), torch.from_numpy(weight).flatten(1).T, 1
    )
    assert np.allclose(y.movedim(-1, 1).numpy(), Interpreter(graph).run({"x": array})["y"], atol=1e-4)

    count = positions(torch.from_numpy(array), output.producer)
    places = torch.arange(count - 1, -1, -1)
    rows = window_rows(torch.from_numpy(array), output.producer, places)
    assert torch.equal(rows, seen.movedim(1, len(shape) - 1).reshape(len(array), count, -1).flip(1))
