"""A graph as a picture: an SVG of its nodes in layers, for notebooks and files."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import networkx as nx

from ..graph import Graph, Node, Value

_WIDTH, _HEIGHT, _GAP = 190, 40, 28
"""The width and height of a box, and the gap between two, in pixels."""
_MOST = 2000
"""Boxes beyond which nobody finds anything in a picture, and a browser takes its time."""
_STYLE = (
    "text{font:12px sans-serif;text-anchor:middle}.s{font-size:10px;fill:#777}"
    "rect{fill:#eef3fa;stroke:#8aa4c8;rx:5}.p rect{fill:#fff}path{stroke:#999;fill:none}"
)


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG, which notebooks show.

    Attributes:
        svg: the text of the SVG.
    """

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        """Write it to a file."""
        Path(path).write_text(self.svg, encoding="utf-8")


def draw(graph: Graph) -> Picture:
    """Draw a graph from its inputs down, each node in the layer below the lowest one that it reads from.

    Raises:
        ValueError: it has so many nodes that a picture shows nothing.
    """
    if len(graph) > _MOST:
        raise ValueError(f"{graph!r} is too large for a picture: read its text, str(graph)")
    flow = _flow(graph)
    places: dict[Value | Node | str, tuple[int, int]] = {}
    for row, layer in enumerate(nx.topological_generations(flow)):
        for column, key in enumerate(layer):
            places[key] = (_GAP + column * (_WIDTH + _GAP), _GAP + row * (_HEIGHT + _GAP))
    width = max((x for x, _ in places.values()), default=0) + _WIDTH + _GAP
    height = max((y for _, y in places.values()), default=0) + _HEIGHT + _GAP
    lines = [_line(places[before], places[after]) for before, after in flow.edges]
    boxes = [_box(key, flow.nodes[key]["texts"], *place) for key, place in places.items()]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return Picture("\n".join([head, f"<style>{_STYLE}</style>", *lines, *boxes, "</svg>"]))


def _flow(graph: Graph) -> "nx.DiGraph[Value | Node | str]":
    """Inputs, nodes and outputs with what is written on each, and who reads whom."""
    flow: nx.DiGraph[Value | Node | str] = nx.DiGraph()
    for value in graph.inputs:
        flow.add_node(value, texts=(value.name, str(value.type)))
    for node in graph.nodes:
        place = node.location.module or (str(node.outputs[0].type) if node.outputs else "")
        flow.add_node(node, texts=(node.operator, place))
        for read in (*node.inputs, *node.captured):
            if read is not None and (source := read.producer or (read if read in flow else None)) is not None:
                flow.add_edge(source, node)
    for name, value in graph.outputs.items():
        flow.add_node(name, texts=(name, str(value.type)))
        if (source := value.producer or (value if value in flow else None)) is not None:
            flow.add_edge(source, name)
    return flow


def _box(key: Value | Node | str, texts: tuple[str, str], x: int, y: int) -> str:
    title, below = (escape(text if len(text) < 30 else f"…{text[-28:]}") for text in texts)
    middle = x + _WIDTH // 2
    kind = "n" if isinstance(key, Node) else "p"
    return (
        f'<g class="{kind}"><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}"/>'
        f'<text x="{middle}" y="{y + 17}">{title}</text><text class="s" x="{middle}" y="{y + 32}">{below}</text></g>'
    )


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x, y), (to_x, to_y) = (start[0] + _WIDTH // 2, start[1] + _HEIGHT), (end[0] + _WIDTH // 2, end[1])
    middle = (y + to_y) // 2
    return f'<path d="M{x} {y}C{x} {middle} {to_x} {middle} {to_x} {to_y}"/>'
