"""A graph as a picture: every node, input and output is a box, below what it reads."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from planish.ir.text import parse_graph

GRAPH = """graph "net"(%x: float32[n, 4]) {
  const %w: float32[4, 4] = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
  %y: float32[n, 4] = MatMul(%x, %w) @ "head<1>"
  %z: float32[n, 4] = Relu(%y)
  return out = %z, same = %x
}"""


def test_a_graph_is_drawn_from_its_inputs_down(tmp_path: Path) -> None:
    picture = parse_graph(GRAPH).show()
    picture.save(tmp_path / "net.svg")
    root = ET.parse(tmp_path / "net.svg").getroot()
    rows: dict[str, float] = {}
    for box in root.iter("{http://www.w3.org/2000/svg}g"):
        rect, title, _ = box
        rows[title.text or ""] = float(rect.attrib["y"])
    assert sorted(rows, key=rows.__getitem__) == ["x", "MatMul", "same", "Relu", "out"]
    assert len(re.findall("<path", picture.svg)) == 4
    assert "head&lt;1&gt;" in picture._repr_svg_()


def test_what_nobody_could_see_is_refused() -> None:
    lines = "".join(f"  %y{number}: float32[2] = Relu(%x)\n" for number in range(2001))
    with pytest.raises(ValueError, match="too large for a picture"):
        parse_graph(f'graph "net"(%x: float32[2]) {{\n{lines}  return y = %y0\n}}').show()


def test_notebooks_show_the_text_folded() -> None:
    html = parse_graph(GRAPH)._repr_html_()
    assert html.startswith("<details><summary><code>&lt;Graph net: 2 nodes, x: float32[n, 4] -&gt; out: float32[n, 4]")
    assert "MatMul(%x, %w)" in html
