"""Tied weights that one layer reads as they are and another transposed, like a language model's embeddings and head.

Clean-up leaves the transpose, since without it the weight would be held twice. In integers it is held twice anyhow:
rows and columns have scales of their own.
"""

from ...ir.graph import Constant, Graph
from ...ir.types import DType
from ..base import PassContext


def materialize_transposed(graph: Graph, context: PassContext) -> int:
    """Let each MatMul of activations by a transposed constant matrix read a constant instead; return how many do."""
    count = 0
    for node in graph.nodes:
        turn = node.inputs[1].producer if node.operator == "MatMul" and node.inputs[1] is not None else None
        weight = turn.inputs[0] if turn is not None and turn.operator == "Transpose" else None
        if (
            turn is None
            or not isinstance(weight, Constant)
            or weight.type.rank != 2
            or weight.dtype is not DType.float32
        ):
            continue
        if turn.attributes.get("perm", (1, 0)) != (1, 0) or isinstance(node.inputs[0], Constant):
            continue
        if not context.applies("turn", node):
            continue
        graph.set_input(node, 1, graph.add_constant(weight.data.T, weight.name))
        if not turn.output.uses and not graph.is_output(turn.output):
            graph.erase(turn)
        count += 1
    return count
