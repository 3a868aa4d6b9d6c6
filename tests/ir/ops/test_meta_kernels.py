"""What is told of torch's operators without data is what torch's own kernels tell, and needs no compiler of torch's."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from planish.ir.ops.meta_kernels import _RULES, FastMeta

aten = torch.ops.aten
TYPES = (torch.float32, torch.float16, torch.int64, torch.bool)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def shapes(draw: np.random.Generator, axes: int) -> list[int]:
    return [int(size) for size in draw.choice([0, 1, 1, 2, 3, 5, 8], axes)]


def tensor(draw: np.random.Generator, axes: int) -> torch.Tensor:
    return meta(*shapes(draw, axes), dtype=TYPES[draw.integers(len(TYPES))])


def convolution(draw):
    rank, groups = int(draw.integers(1, 3)), int(draw.choice([1, 1, 2]))
    channels = int(draw.choice([2, 4]))
    x, weight = meta(*shapes(draw, 1), channels, *(8,) * rank), meta(4, channels // groups, *shapes(draw, rank))
    rows = [[int(size) for size in draw.integers(low, 3, rank)] for low in (1, 0, 1)]
    return (x, weight, draw.choice([None, 1]) and meta(int(draw.choice([4, 4, 3]))), *rows, False, [0] * rank, groups)


def pool(draw):
    rows = [[int(size) for size in draw.integers(low, high, 2)] for low, high in ((1, 4), (1, 3), (0, 3), (1, 3))]
    return (meta(*shapes(draw, 2), *draw.integers(1, 9, 2)), *rows, bool(draw.integers(5) == 0))


def product(draw, axes):
    batch = shapes(draw, axes + int(draw.integers(8) == 0))
    m, k, n = shapes(draw, 3)
    dtypes = draw.integers(0, 2, 2)
    return meta(*batch, m, k, dtype=TYPES[dtypes[0]]), meta(*batch, draw.choice([k, k, 3]), n, dtype=TYPES[dtypes[1]])


def concatenation(draw):
    shape, axis = shapes(draw, 3), int(draw.integers(-3, 3))
    parts = [meta(*(2 if place == axis % 3 else size for place, size in enumerate(shape))) for _ in range(2)]
    return [*parts, tensor(draw, 3)] if draw.integers(4) == 0 else parts, axis


def indices(draw):
    held = [
        None if draw.integers(2) else meta(*shapes(draw, int(draw.integers(3))), dtype=torch.int64) for _ in range(2)
    ]
    return tensor(draw, 3), held


def layer_norm(draw):
    inner = shapes(draw, int(draw.integers(1, 3)))
    return meta(*shapes(draw, 1), *inner), inner, meta(*inner), None, 1e-5


def reduction(draw):
    return (
        tensor(draw, 3),
        [int(axis) for axis in draw.choice(3, draw.integers(1, 3), replace=False)],
        bool(draw.integers(2)),
    )


def along(draw):
    return tensor(draw, 3), int(draw.integers(-3, 3))


DRAWN = {
    aten.mm.default: lambda draw: product(draw, 0),
    aten.bmm.default: lambda draw: product(draw, 1),
    aten.mean.dim: reduction,
    aten.sum.dim_IntList: reduction,
    aten.amax.default: reduction,
    aten.amin.default: reduction,
    aten.all.dim: lambda draw: (*along(draw), bool(draw.integers(2))),
    aten.any.dim: lambda draw: (*along(draw), bool(draw.integers(2))),
    aten.var_mean.correction: lambda draw: (meta(*shapes(draw, 3)), [1]),
    aten._softmax.default: lambda draw: (*along(draw), False),
    aten._log_softmax.default: lambda draw: (*along(draw), False),
    aten.cumsum.default: along,
    aten.arange.default: lambda draw: (int(draw.integers(9)),),
    aten.arange.start: lambda draw: (float(draw.integers(4)), 4.5),
    aten.arange.start_step: lambda draw: (7, float(draw.integers(6)), -0.75),
    aten.convolution.default: convolution,
    aten.max_pool2d_with_indices.default: pool,
    aten.cat.default: concatenation,
    aten.index.Tensor: indices,
    aten.native_layer_norm.default: layer_norm,
    aten.empty_like.default: lambda draw: (tensor(draw, 2),),
}
ELEMENTWISE = {
    aten.add.Tensor: lambda draw: (tensor(draw, 3), tensor(draw, int(draw.integers(4)))),
    aten.div.Tensor: lambda draw: (tensor(draw, 2), tensor(draw, 2)),
    aten.remainder.Tensor: lambda draw: (tensor(draw, 2), tensor(draw, 0)),
    aten.mul.Scalar: lambda draw: (tensor(draw, 2), float(draw.integers(3))),
    aten.where.self: lambda draw: (meta(*shapes(draw, 2), dtype=torch.bool), tensor(draw, 2), tensor(draw, 1)),
    aten.eq.Tensor: lambda draw: (tensor(draw, 2), tensor(draw, 2)),
    aten.erf.default: lambda draw: (tensor(draw, 2),),
    aten.clamp.default: lambda draw: (tensor(draw, 2), 0, 6),
    aten.bitwise_and.Tensor: lambda draw: (tensor(draw, 2), tensor(draw, 2)),
    aten.isnan.default: lambda draw: (tensor(draw, 2),),
    aten.add_.Tensor: lambda draw: (tensor(draw, 3), tensor(draw, int(draw.integers(4)))),
    aten.sub_.Tensor: lambda draw: (tensor(draw, 2), tensor(draw, 2)),
    aten.div_.Tensor: lambda draw: (tensor(draw, 2), tensor(draw, 0)),
    aten.round_.default: lambda draw: (tensor(draw, 2),),
    aten.clamp_.default: lambda draw: (tensor(draw, 2), 0, 255),
    aten.nan_to_num_.default: lambda draw: (tensor(draw, 2), 0.0),
}

NAMED = {
    aten.var_mean.correction: {"correction": 0, "keepdim": True},
    aten.sum.dim_IntList: {"dtype": torch.int32},
    aten.mean.dim: {"dtype": torch.float64},
    aten.cumsum.default: {"dtype": torch.int32},
}
"""What is given by name."""


def told(function, arguments, named):
    """What comes out: sizes and types, or what kind of fault."""
    try:
        result = function(*arguments, **named)
    except Exception as error:
        return type(error)
    return [(tuple(it.shape), it.dtype, it.device.type) for it in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("function", [*DRAWN, *ELEMENTWISE], ids=str)
def test_it_is_what_torch_tells(function) -> None:
    draw = np.random.default_rng(0)
    named = {"device": torch.device("meta")} if "arange" in str(function) else NAMED.get(function, {})
    kinds: Counter[bool] = Counter()
    for _ in range(50):
        arguments = {**DRAWN, **ELEMENTWISE}[function](draw)
        wanted = told(function, arguments, named)
        with FastMeta():
            assert told(function, arguments, named) == wanted, arguments
        kinds[function in ELEMENTWISE or _RULES[function](function, *arguments, **named) is not None] += 1
    assert kinds[True] >= 5, "torch was asked nearly always"


def test_every_kernel_is_drawn() -> None:
    assert DRAWN.keys() == _RULES.keys()


PROGRAM = """
import sys
from planish.ir.reinfer import reinfer
from planish.ir.text import parse_graph

graph = parse_graph('''
graph "main"(%x: float32[1, 4, 8, 8], %w: float32[4, 4, 3, 3], %m: float32[8, 8], %c: float32[4]) {
  %a: float32[1, 4, 6, 6] = Conv(%x, %w)
  %b: float32[1, 4, 6, 6] = BatchNormalization(%a, %c, %c, %c, %c)
  %d: float32[1, 4, 3, 3] = MaxPool(%b) {kernel_shape = [2, 2], strides = [2, 2]}
  %e: float32[1, 4, 1, 1] = GlobalAveragePool(%d)
  %f: float32[1, 4, 8, 8] = MatMul(%x, %m)
  %g: float32[1, 4, 8, 8] = Softmax(%f)
  %h: float32[1, 4, 8, 8] = Add(%g, %e)
  return h = %h
}''')
reinfer(graph)
print([name for name in ("sympy", "torch._dynamo") if name in sys.modules])
"""


def test_fixed_sizes_need_no_compiler_of_torch_s() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
