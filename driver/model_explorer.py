"""Graphs in the JSON that Google's Model Explorer reads.

Source: https://github.com/google-ai-edge/model-explorer, `GraphCollection` in its `graph_builder.py`.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..ir.analysis.cost import Sizes, flops
from ..ir.files import write_text
from ..ir.graph import Constant, Graph, Node, Value
from .page.nodes import spelled


def write_collection(graph: Graph, sizes: Sizes, path: Path) -> None:
    """Write what Model Explorer shows of a graph.

    Raises:
        UsageError: the disk is full, or nothing may be written there.
    """
    write_text(path, json.dumps(graph_collection(graph, sizes), indent=1) + "\n")


def graph_collection(graph: Graph, sizes: Sizes) -> dict[str, Any]:
    """A graph and the graphs inside its nodes, which open at a click on these nodes.

    Args:
        graph: the graph.
        sizes: the sizes of symbolic dimensions that operations are counted with.
    """
    return {"label": graph.name, "graphs": list(_graphs(graph, graph.name, sizes))}


def _graphs(graph: Graph, name: str, sizes: Sizes) -> Iterator[dict[str, Any]]:
    read = (value for node in graph.nodes for value in _computed(_reads(node)).values())
    around = dict.fromkeys(value for value in read if not graph.defines(value))
    nodes = [_end(value.name, "input", value) for value in (*graph.inputs, *around)]
    nodes += [_node(graph, node, sizes) for node in graph.nodes]
    for key, value in graph.outputs.items():
        nodes.append(_end(f"output:{key}", "output", value) | {"incomingEdges": _edges(graph, [value])})
    yield {"id": name, "nodes": nodes}
    for node in graph.nodes:
        for key, inner in _inside(node).items():
            yield from _graphs(inner, key, sizes)


def _node(graph: Graph, node: Node, sizes: Sizes) -> dict[str, Any]:
    shown = {name: spelled(value) for name, value in node.attributes.items() if not isinstance(value, Graph)}
    for index, value in enumerate(node.inputs):
        if isinstance(value, Constant):
            shown[f"input {index}"] = f"{value.name}: {value.type}"
    shown |= {"source": node.location.source, "FLOPs": f"{flops(node, sizes):,}"}
    return {
        "id": node.outputs[0].name,
        "label": node.operator,
        "namespace": "/".join(re.findall(r"[^./]+", node.location.module)),
        "subgraphIds": list(_inside(node)),
        "attrs": _pairs(shown),
        "incomingEdges": _edges(graph, _reads(node)),
        "outputsMetadata": [_metadata(index, value) for index, value in enumerate(node.outputs)],
    }


def _end(name: str, label: str, value: Value) -> dict[str, Any]:
    """A node for what a graph takes, reads of the graphs around it, or returns."""
    return {"id": name, "label": label, "namespace": "", "outputsMetadata": [_metadata(0, value)]}


def _metadata(index: int, value: Value) -> dict[str, Any]:
    return {"id": str(index), "attrs": _pairs({"__tensor_tag": value.name, "tensor_shape": str(value.type)})}


def _pairs(texts: dict[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": text} for key, text in texts.items() if text]


def _edges(graph: Graph, values: Iterable[Value | None]) -> list[dict[str, str]]:
    """The edges to a node that reads values; a value of the graphs around this one has a node of its own."""
    found: list[dict[str, str]] = []
    for index, value in _computed(values).items():
        node = value.producer if graph.defines(value) else None
        source, output = (value.name, 0) if node is None else (node.outputs[0].name, value.index)
        found.append({"sourceNodeId": source, "sourceNodeOutputId": str(output), "targetNodeInputId": str(index)})
    return found


def _reads(node: Node) -> tuple[Value | None, ...]:
    """The inputs of a node, and what the graphs inside it read of those around it."""
    return (*node.inputs, *node.captured)


def _computed(values: Iterable[Value | None]) -> dict[int, Value]:
    """Values that aren't constants, by their places; constants are told among a node's attributes."""
    return {at: value for at, value in enumerate(values) if value is not None and not isinstance(value, Constant)}


def _inside(node: Node) -> dict[str, Graph]:
    """The graphs inside a node, by names that no other graph has."""
    held = {name: value for name, value in node.attributes.items() if isinstance(value, Graph)}
    return {f"{node.outputs[0].name}.{name}": graph for name, graph in held.items()}
