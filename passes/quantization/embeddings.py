"""Embedding tables in int8: rows are looked up as integers and dequantized after that, each column by its own scale."""

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node
from ...ir.quantization import quantize_weight
from ..base import PassContext
from .layers import drop_unused

_LEAST = 1 << 16  # elements; a smaller table isn't worth its rounding


def quantize_embeddings(graph: Graph, context: PassContext) -> int:
    """Rewrite the Gathers that read rows of large float tables, in place; returns how many.

    Args:
        graph: that is rewritten.
        context: which says whether a Gather is asked for.
    """
    held: dict[Constant, tuple[Constant, Constant]] = {}
    count = 0
    for node in graph.nodes:
        table, rows = node.inputs[:2] if node.operator == "Gather" else (None, None)
        if not isinstance(table, Constant) or rows is None or not _is_embedding(node, table):
            continue
        if not context.applies("embedding", node):
            continue
        op = Builder(graph, node, node.location)
        if table not in held:
            weight = quantize_weight(table.data, axis=1)
            held[table] = (
                op.constant(weight.data, f"{table.name}.integers"),
                op.constant(weight.scale, f"{table.name}.scale"),
            )
        integers, scale = held[table]
        zero_point = np.zeros(scale.data.shape, np.int8)
        found = op.DequantizeLinear(op.Gather(integers, rows), scale, zero_point, axis=rows.type.rank)
        graph.replace_uses(node.outputs[0], found)
        graph.erase(node)
        count += 1
    drop_unused(graph, held)
    return count


def _is_embedding(node: Node, table: Constant) -> bool:
    shape = table.data.shape
    return (
        len(shape) == 2
        and table.data.dtype == np.float32
        and table.data.size >= _LEAST
        and not node.attributes.get("axis", 0)
    )
