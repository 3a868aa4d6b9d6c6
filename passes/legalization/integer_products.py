"""The readers of integer products, in forms in which ONNX Runtime still computes the products as integers.

Otherwise it computes products in floats, from weights that it dequantizes at each call.
"""

from collections.abc import Collection

from ...ir.builder import Builder
from ...ir.graph import Node, Value
from .expansion import Expansion


def as_extremes(node: Node) -> Expansion | None:
    """Return what writes a Relu or Clip as Max and Min behind an integer product that is read as floats.

    ONNX Runtime looks for a QuantizeLinear behind either, and gives the product up where there is none.
    """
    is_read_as_floats = any(use.node.operator != "QuantizeLinear" for use in node.output.uses)
    return _extremes if is_read_as_floats and _is_integer_product(node.operand(0), ("Gemm", "MatMul")) else None


def as_sum(node: Node) -> Expansion | None:
    """Return what writes an Add of matrices as Sum behind an integer MatMul, with which it would be made a Gemm."""
    is_of_matrices = node.output.type.is_ranked and node.output.type.rank == 2
    is_behind = any(_is_integer_product(node.operand(place), ("MatMul",)) for place in (0, 1))
    return (lambda op, node: op.Sum(*node.inputs)) if is_of_matrices and is_behind else None


def _is_integer_product(value: Value, operators: Collection[str]) -> bool:
    node = value.producer
    if node is None or node.operator not in operators or value.use_count > 1:
        return False
    sources = (operand.producer for operand in (node.operand(0), node.operand(1)))
    return all(source is not None and source.operator == "DequantizeLinear" for source in sources)


def _extremes(op: Builder, node: Node) -> Value:
    low, high = (0.0, None) if node.operator == "Relu" else (node.input(1), node.input(2))
    y = node.operand(0)
    if low is not None:
        y = op.Max(y, low)
    return y if high is None else op.Min(y, high)
