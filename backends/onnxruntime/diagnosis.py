"""The diagnosis of which layer ONNX Runtime can't run.

Its errors may name nodes that nobody wrote, or none: functions of the standard (Attention, CastLike) are decomposed
before kernels are looked for, and a missing kernel is reported for the part. So each kind of node is tried by itself.
"""

import re
from collections.abc import Callable

from ...ir.graph import Constant, Graph, Node, Value, nested_nodes
from ...ir.text import format_attribute

_READ_BYTES = 1 << 16
"""The most bytes of constants that are kept: shapes, axes or tables; no kernel is chosen by larger ones."""


def diagnosis(graph: Graph, name: Callable[[Node], str], fault: Callable[[Graph], str]) -> str:
    """Explain why a graph can't be run: the layer, its operator and element types, the reason, and what to do.

    Args:
        graph: the graph, which failed as a whole.
        name: returns what the user calls a node's operator.
        fault: returns why the runtime can't run a graph; nothing if it can.

    Returns:
        The explanation; empty if every node can be run by itself.
    """
    tried: set[str] = set()
    # what is at fault inside of a loop is named first
    for node in sorted(nested_nodes(graph), key=lambda node: bool(node.graphs)):
        kind = _kind(node)
        if kind in tried:
            continue
        tried.add(kind)
        if reason := fault(_alone(node)):
            return _refusal(node, name(node), reason)
    return ""


def _refusal(node: Node, name: str, reason: str) -> str:
    values = (value for value in (*node.inputs, *node.outputs) if value is not None)
    dtypes = ", ".join(dict.fromkeys(str(value.type.dtype) for value in values))
    absent = re.search(r"(?:Could not find an implementation|Failed to find kernel) for (\w+)", reason)
    if absent is not None:
        reason = "there is no kernel for it"
        reason += "" if absent[1] == node.operator else f", or for {absent[1]}, which is a part of it"
    return (
        f"{node.location}: onnxruntime can't run {name} of {dtypes}: {reason.rstrip('.')}; "
        "give the layer another element type, or build for another backend"
    )


def _kind(node: Node) -> str:
    """Return a text that is the same for nodes that run with the same kernels."""
    types = [str(value and value.type) for value in (*node.inputs, *node.outputs)]
    attributes = [f"{name}={format_attribute(value)}" for name, value in sorted(node.attributes.items())]
    return " ".join([node.operator, *types, *attributes])


def _alone(node: Node) -> Graph:
    """Make a graph of one node."""
    graph = Graph(node.operator)
    values: dict[Value, Value] = {}
    for index, value in enumerate((*node.inputs, *node.captured)):
        if value is None or value in values:
            continue
        if isinstance(value, Constant) and value.data.nbytes <= _READ_BYTES:
            values[value] = graph.add_constant(value.data)
        else:
            values[value] = graph.add_input(f"input_{index}", value.type)
    inputs = [value and values[value] for value in node.inputs]
    types = [output.type for output in node.outputs]
    attributes = {
        name: attribute._copy_into(Graph(attribute.name, graph), dict(values))
        if isinstance(attribute, Graph)
        else attribute
        for name, attribute in node.attributes.items()
    }
    twin = graph.add_node(node.operator, inputs, types, attributes, location=node.location)
    graph.outputs = {output.name: output for output in twin.outputs}
    return graph
