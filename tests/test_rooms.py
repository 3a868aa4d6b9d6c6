"""The rooms of the code: none imports another that imports it, and the picture of them is as they are."""

import importlib.util
from pathlib import Path

import grimp
import networkx as nx
import pytest

DOCS = Path(__file__).parents[1] / "docs"
spec = importlib.util.spec_from_file_location("rooms", DOCS / "rooms.py")
assert spec is not None
assert spec.loader is not None
rooms = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rooms)


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("planish", cache_dir=None)


def test_no_rooms_import_one_another(imports: grimp.ImportGraph) -> None:
    assert rooms.circles(imports) == []
    found = imports.find_modules_directly_imported_by
    files = nx.DiGraph((name, other) for name in imports.modules for other in found(name))
    assert nx.is_directed_acyclic_graph(files)


def test_a_circle_would_be_found(imports: grimp.ImportGraph) -> None:
    changed = grimp.build_graph("planish", cache_dir=None)
    changed.add_import(importer="planish.backends.tvm.kernels.gemm", imported="planish.backends.tvm.relax.emitter")
    assert rooms.circles(changed) == ["planish.backends.tvm: kernels, relax"]


def test_the_picture_shows_the_rooms_as_they_are(imports: grimp.ImportGraph) -> None:
    drawn = (DOCS / "rooms.svg").read_text(encoding="utf-8")
    for package, shown in rooms.DRAWN.items():
        assert set(shown) <= set(rooms.rooms_of(package, imports)), package
    sizes = [line for line in rooms.picture(imports).splitlines() if 'class="size"' not in line]
    assert sizes == [line for line in drawn.splitlines() if 'class="size"' not in line], "run python docs/rooms.py"
