"""What operators make of symbolic sizes: expressions that hold for every size, not for the one tried."""

from typing import Any

import numpy as np
import pytest

from planish.ir.dims import evaluate
from planish.ir.graph import Constant, Value
from planish.ir.infer import infer
from planish.ir.types import DType, TensorType

END = 2**63 - 1


def tensor(*shape: int | str) -> Value:
    return Value("x", TensorType(DType.float32, shape))


def ints(*values: int) -> Constant:
    return Constant("ints", np.array(values))


IMAGE = tensor("n", 8, "h", "w")
CASES: dict[str, tuple[str, list[Value | None], dict[str, Any], tuple[int | str, ...]]] = {
    "convolution": ("Conv", [IMAGE, tensor(16, 8, 3, 3)], {"pads": (1, 1, 1, 1)}, ("n", 16, "h", "w")),
    "strided": (
        "Conv",
        [tensor("n", 8, "h", 32), tensor(16, 8, 3, 3)],
        {"strides": (2, 2)},
        ("n", 16, "(h - 3) // 2 + 1", 15),
    ),
    "same": ("Conv", [tensor("n", 8, "h", 32), tensor(4, 8, 3, 3)], {"auto_pad": "SAME_UPPER"}, ("n", 4, "h", 32)),
    "global pool": ("GlobalAveragePool", [IMAGE], {}, ("n", 8, 1, 1)),
    "keep": ("Reshape", [IMAGE, ints(0, 0, -1)], {}, ("n", 8, "h * w")),
    "flatten": ("Flatten", [tensor("n", 8, 2, 2)], {}, ("n", 32)),
    "transpose": ("Transpose", [IMAGE], {"perm": (0, 2, 3, 1)}, ("n", "h", "w", 8)),
    "expand": ("Expand", [tensor("n", 1, 4), ints(1, 5, 1)], {}, ("n", 5, 4)),
    "slice": ("Slice", [tensor("n", "s", 4), ints(1), ints(END), ints(1)], {}, ("n", "s - 1", 4)),
    "short end": ("Slice", [tensor("n", "s"), ints(1), ints(2**31 - 1), ints(1)], {}, ("n", "s - 1")),
    "last": ("Slice", [tensor("n", "s"), ints(-3), ints(END), ints(1)], {}, ("n", 3)),
    "reversed": ("Slice", [tensor("n", 4), ints(-1), ints(-END), ints(0), ints(-1)], {}, ("n", 4)),
    "concat": ("Concat", [tensor("n", "s"), tensor("n", 2)], {"axis": 1}, ("n", "s + 2")),
    "gather": ("Gather", [tensor("n", "s", 4), ints(0)], {"axis": 1}, ("n", 1, 4)),
    "reflect": ("Pad", [tensor("n", "s"), ints(0, 3, 0, 3)], {"mode": "reflect"}, ("n", "s + 6")),
    "zeros": ("Pad", [tensor("n", "s"), ints(0, 3, 0, 3)], {}, ("n", "s + 6")),
    "product": ("MatMul", [tensor("n", 1, "s", 4), tensor("n", 3, 4, "s")], {}, ("n", 3, "s", "s")),
    "tile": ("Tile", [tensor("n", 4), ints(2, 3)], {}, ("2 * n", 12)),
    "attention": ("Attention", [tensor("n", 2, "s", 8)] * 3, {"is_causal": 1}, ("n", 2, "s", 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_sizes_stay_symbolic(name: str) -> None:
    operator, inputs, attributes, shape = CASES[name]
    assert infer(operator, inputs, attributes)[0] == TensorType(DType.float32, shape)


@pytest.mark.parametrize("size", range(7, 40))
def test_ceiling_pools_have_one_formula_for_all_sizes(size: int) -> None:
    """A partial window counts only if it starts before the padding behind it, whatever the size."""
    attributes = {"kernel_shape": (3,), "strides": (3,), "pads": (1, 1), "ceil_mode": 1}
    symbolic = infer("AveragePool", [tensor(1, 2, "s")], attributes)[0].shape[2]
    concrete = infer("AveragePool", [tensor(1, 2, size)], attributes)[0].shape[2]
    assert evaluate(symbolic, {"s": size}) == concrete
