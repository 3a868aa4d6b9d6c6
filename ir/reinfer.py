"""Infers the types of a whole graph anew, where some of its values have changed theirs."""

from .containers import body_inputs, join
from .errors import ModelError
from .graph import Graph, Node
from .infer import infer


def reinfer(graph: Graph, *, is_strict: bool = True) -> None:
    """Infer every node's output types anew, in order: what a pass calls after it changed a weight's shape.

    Args:
        graph: the graph whose types change.
        is_strict: whether all must fit but for what is in a branch of an If, which may never be taken. Otherwise a node
            whose inputs agree when it runs, for all that is known, keeps the types that it has: what exact passes ask
            for, which leave the graph's meaning alone.

    Raises:
        ModelError: the inputs of a layer no longer fit; the layer is named.
    """
    for node in graph.nodes:
        for inner in node.graphs:
            _refresh_inner(node, inner, is_strict=is_strict and node.operator != "If")
        try:
            types = infer(node.operator, node.inputs, node.attributes, len(node.outputs))
        except ModelError as error:
            if not is_strict:
                continue
            raise ModelError(f"{node.location}: {error}") from error
        for output, type in zip(node.outputs, types, strict=True):
            if output.type != type:
                output.type = type


def _refresh_inner(node: Node, inner: Graph, *, is_strict: bool) -> None:
    """Infer anew what is in a graph inside a node, whose inputs may have other types by now."""
    for value, type in zip(inner.inputs, body_inputs(node.operator, node.inputs, node.attributes), strict=True):
        value.type = join(value.type, type, value.name)
    reinfer(inner, is_strict=is_strict)
