"""Embedding tables in integers: rows are looked up as such, and dequantized after that.

A table that a head multiplies by as well is held once: the head's quantized output channels are the table's rows. Other
tables are put into int8, each row by a scale of its own. On MiniLM's words that leaves two thirds of the error of a
scale for each column, on SmolLM2's nine eighths.
"""

from collections.abc import Callable, Mapping

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node, Use, Value
from ...ir.quantization import quantize_weight
from ...ir.types import DType
from ...ir.unused import drop_unused
from ..base import PassContext

Lookup = Callable[[Builder, Value], Value]
"""What adds the operators that give the rows of a quantized table at some places."""

_LEAST = 1 << 16  # elements; a smaller table isn't worth its rounding


def quantize_embeddings(graph: Graph, context: PassContext, tied: Mapping[Constant, Lookup]) -> tuple[int, list[str]]:
    """Rewrite the Gathers that read rows of large float tables, in place.

    Args:
        graph: the graph to rewrite.
        context: the context that says whether a Gather may be rewritten.
        tied: the tables that are quantized already, with layers.

    Returns:
        How many were rewritten, and a sentence for each one that stays, since others read its table in float.
    """
    tables = dict(tied)
    misses: list[str] = []
    count = 0
    for node in graph.nodes:
        table = node.inputs[0] if node.operator == "Gather" else None
        if not isinstance(table, Constant) or not _is_lookup(node, table) or not context.selects(node):
            continue
        if table not in tables and table.data.size < _LEAST:
            continue
        if table not in tables and not all(_is_selected(use, table, context) for use in table.uses):
            misses.append(f"{node.location}: Gather stays in float: another node reads its table in float")
            continue
        if not context.applies("embedding", node):
            continue
        op = Builder(graph, node, node.location)
        if table not in tables:
            weight = quantize_weight(table.data, axis=0)
            parts = {"integers": weight.data, "scale": weight.scale}
            tables[table] = integer_rows(*(op.constant(part, f"{table.name}.{key}") for key, part in parts.items()))
        graph.replace_uses(node.outputs[0], tables[table](op, node.operand(1)))
        graph.erase(node)
        count += 1
    drop_unused(graph, tables)
    return count, misses


def integer_rows(integers: Constant, scale: Constant) -> Lookup:
    """Return how rows are looked up in a table in int8, whose scale is one for each row, or one for all."""

    def rows(op: Builder, places: Value) -> Value:
        found = op.Cast(op.Gather(integers, places), to=DType.float32)
        return op.Mul(found, op.Unsqueeze(op.Gather(scale, places), [-1]) if scale.type.rank else scale)

    return rows


def _is_lookup(node: Node, table: Constant) -> bool:
    return table.type.rank == 2 and table.dtype is DType.float32 and not node.attributes.get("axis", 0)


def _is_selected(use: Use, table: Constant, context: PassContext) -> bool:
    node = use.node
    return node.operator == "Gather" and not use.index and _is_lookup(node, table) and context.selects(node)
