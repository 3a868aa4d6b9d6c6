# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""Products of matrices, by kernels of our own where there is a template for them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from ...ir.dims import Dim
from ...ir.graph import Constant, Node
from ...ir.types import DType
from .groups import Anchor, Group, Template
from .kernels.epilogue import Reach
from .kernels.gemm import Gemm, best_tile, gemm_kernel, packed

if TYPE_CHECKING:
    from .lowering import Lowering


def _matmul_anchor(node: Node) -> Anchor | None:
    return Anchor(node, channels=1) if _has_template(node) else None


def _gemm_anchor(node: Node) -> Anchor | None:
    get = node.attributes.get
    if not _has_template(node) or get("transA", 0) or get("beta", 1.0) != 1:
        return None
    return Anchor(node, channels=1, addend=node.input(2))


def _has_template(node: Node) -> bool:
    """Whether it multiplies float32 with constant weights, and nothing is certain to be empty."""
    x, weights = node.inputs[:2]
    return (
        x is not None
        and x.dtype is DType.float32
        and isinstance(weights, Constant)
        and weights.type.rank == 2
        and 0 not in (*x.shape, *weights.shape)
    )


def _product(lowering: "Lowering", group: Group) -> Any:
    """Transposes and scales of the weights are done at compile time."""
    x, constant = group.anchor.inputs[:2]
    assert x is not None
    assert isinstance(constant, Constant)
    get = group.anchor.attributes.get
    weights = constant.data.T if get("transB", 0) else constant.data
    weights = weights * np.float32(get("alpha", 1.0))
    depth, columns = weights.shape
    sizes = Gemm(tuple(size if isinstance(size, int) else None for size in x.shape[:-1]), depth, columns)
    tile = best_tile(sizes, lowering.machine)
    kernel = gemm_kernel(sizes, tile, lowering.machine, group.epilogue)
    arguments = [lowering.tensor(x), relax.const(packed(weights, tile), "float32")]
    return lowering.prim_func("gemm", kernel, [*arguments, *operands(lowering, group, columns)], group.output.type)


def operands(lowering: "Lowering", group: Group, channels: Dim) -> list[Any]:
    """What a group's epilogue reads: rows of a number for each channel, and tensors of the result's shape."""
    shapes: dict[Reach, Sequence[Dim]] = {Reach.CHANNELS: (channels,), Reach.ELEMENTS: group.output.shape}
    pairs = zip(group.operands, group.epilogue.operands, strict=True)
    return [lowering.shaped(value, shapes[reach]) for value, reach in pairs]


TEMPLATES = {"Gemm": Template(_gemm_anchor, _product), "MatMul": Template(_matmul_anchor, _product)}
