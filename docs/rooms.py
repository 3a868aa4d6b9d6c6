"""Draw the rooms of the code as they import one another: `python docs/rooms.py` writes `rooms.svg` beside this file.

A room is a file or a folder of a package. It stands above all that it imports, and an arrow goes to what it imports
itself, unless it gets there by other arrows too. Imports for annotations alone (`TYPE_CHECKING`) count.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import grimp
import networkx as nx

HERE = Path(__file__).parent
DRAWN = {
    "planish": ("driver", "backends", "passes", "frontends", "targets", "ir"),
    "planish.backends.tvm": (
        "backend",
        "compiler",
        "tune",
        "codegen",
        "relax",
        "kernels",
        "runtime",
        "support",
        "llvm",
    ),
}
"""Packages that are drawn, and the rooms of each that are shown."""
_WIDTH, _HEIGHT, _ACROSS, _DOWN, _TITLE = 130, 42, 26, 40, 44


def rooms_of(package: str, imports: grimp.ImportGraph) -> nx.DiGraph:
    """The rooms of a package as a graph; an edge goes to a room that is imported."""
    rooms = nx.DiGraph()
    names = {child: child.rpartition(".")[2] for child in imports.find_children(package)}
    rooms.add_nodes_from(names.values())
    inside = {name: names[child] for child in names for name in (child, *imports.find_descendants(child))}
    for name, room in inside.items():
        for other in imports.find_modules_directly_imported_by(name):
            if inside.get(other, room) != room:
                rooms.add_edge(room, inside[other])
    return rooms


def circles(imports: grimp.ImportGraph) -> list[str]:
    """Rooms that import one another, in any package, as texts."""
    packages = sorted(name for name in imports.modules if imports.find_children(name))
    found = ((name, part) for name in packages for part in nx.strongly_connected_components(rooms_of(name, imports)))
    return [f"{name}: {', '.join(sorted(part))}" for name, part in found if len(part) > 1]


def picture(imports: grimp.ImportGraph) -> str:
    """The rooms of the drawn packages as SVG."""
    parts: list[str] = []
    left = height = 0
    for package, shown in DRAWN.items():
        rooms = nx.transitive_reduction(rooms_of(package, imports).subgraph(shown))
        floors = [sorted(floor) for floor in nx.topological_generations(rooms)]
        places = dict(_places(floors, left))
        parts.append(f'<text x="{left}" y="20" class="title">{package.replace(".", "/")}</text>')
        parts += [_arrow(*places[a], *places[b]) for a, b in sorted(rooms.edges)]
        parts += [_box(room, _lines(package, room), *places[room]) for room in sorted(places)]
        left += max(map(len, floors)) * (_WIDTH + _ACROSS) + 2 * _ACROSS
        height = max(height, _TITLE + len(floors) * (_HEIGHT + _DOWN) - _DOWN + 2)
    return _SVG.format(width=left, height=height, parts="\n".join(parts))


def _places(floors: Sequence[Sequence[str]], left: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Place the rooms of each floor around the middle."""
    most = max(map(len, floors))
    for number, floor in enumerate(floors):
        start = left + (most - len(floor)) * (_WIDTH + _ACROSS) // 2
        for place, room in enumerate(floor):
            yield room, (start + place * (_WIDTH + _ACROSS) + 1, _TITLE + number * (_HEIGHT + _DOWN))


def _lines(package: str, room: str) -> int:
    path = HERE.parent.joinpath(*package.split(".")[1:], room)
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return sum(file.read_text(encoding="utf-8").count("\n") for file in files)


def _box(room: str, lines: int, x: int, y: int) -> str:
    middle = x + _WIDTH // 2
    size = f"{lines / 1000:.1f}k lines" if lines >= 1000 else f"{round(lines, -2) or 'under 50'} lines"
    return (
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
        f'<text x="{middle}" y="{y + 18}" class="room">{room}</text>'
        f'<text x="{middle}" y="{y + 33}" class="size">{size}</text>'
    )


def _arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    start, end = (x1 + _WIDTH // 2, y1 + _HEIGHT), (x2 + _WIDTH // 2, y2 - 2)
    bend = _DOWN // 2
    path = f"M{start[0]} {start[1]}C{start[0]} {start[1] + bend} {end[0]} {end[1] - bend} {end[0]} {end[1]}"
    return f'<path d="{path}" marker-end="url(#tip)"/>'


_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<style>
text {{ font-family: system-ui, sans-serif; fill: #1f2937 }}
.title {{ font-size: 15px; font-weight: 600 }}
.room {{ font-size: 13px; text-anchor: middle }}
.size {{ font-size: 10px; text-anchor: middle; fill: #6b7280 }}
rect {{ fill: #f3f4f6; stroke: #9ca3af }}
path {{ fill: none; stroke: #9ca3af; stroke-width: 1.3 }}
svg {{ background: #fff }}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0L8 4L0 8z" style="fill:#9ca3af;stroke:none"/></marker></defs>
{parts}
</svg>
"""


if __name__ == "__main__":
    (HERE / "rooms.svg").write_text(picture(grimp.build_graph("planish", cache_dir=None)), encoding="utf-8")
