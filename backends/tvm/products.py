# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""Products of matrices, by kernels of our own where there is a template for them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax

from ...ir.graph import Constant, Node, Value
from ...ir.types import DType, TensorType
from .kernels.gemm import Gemm, best_tile, gemm_kernel, packed

if TYPE_CHECKING:
    from .lowering import Lowering


def matmul(lowering: "Lowering", node: Node) -> Any:
    x, weights = node.inputs
    assert x is not None
    if not isinstance(weights, Constant) or weights.type.rank != 2 or not _is_plain(x, weights):
        return lowering.imported(node)
    return _product(lowering, x, weights.data)


def gemm(lowering: "Lowering", node: Node) -> Any:
    """Transposes and scales of the weights are done at compile time."""
    x, weights, bias = (node.input(index) for index in range(3))
    get = node.attributes.get
    assert x is not None
    if not isinstance(weights, Constant) or not _is_plain(x, weights) or get("transA", 0) or get("beta", 1.0) != 1:
        return lowering.imported(node)
    data = weights.data.T if get("transB", 0) else weights.data
    y = _product(lowering, x, data * np.float32(get("alpha", 1.0)))
    return y if bias is None else relax.op.add(lowering.block.emit(y), lowering.tensor(bias))


def _is_plain(x: Value, weights: Constant) -> bool:
    """Whether there is a template: for float32, and nothing empty."""
    return x.dtype is DType.float32 and isinstance(x.shape[-1], int) and 0 not in weights.shape


def _product(lowering: "Lowering", x: Value, weights: np.ndarray) -> Any:
    lead = tuple(size if isinstance(size, int) else None for size in x.shape[:-1])
    depth, columns = weights.shape
    sizes = Gemm(lead, depth, columns)
    tile = best_tile(sizes, lowering.machine)
    kernel = gemm_kernel(sizes, tile, lowering.machine)
    arguments = [lowering.tensor(x), relax.const(packed(weights, tile), "float32")]
    return lowering.prim_func("gemm", kernel, arguments, TensorType(DType.float32, (*x.shape[:-1], columns)))


CONVERTERS: dict[str, Callable[["Lowering", Node], Any]] = {"Gemm": gemm, "MatMul": matmul}
