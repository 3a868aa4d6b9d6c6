"""What docs/edges.md says of each backend is what it does."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from edge_cases.cases import ALIKE, DIFFERENT, REFUSED, Case

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.backends.tvm.backend import Tvm
from planish.ir.errors import PlanishError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.targets.load import load_target

DOCS = Path(__file__).parents[2] / "docs" / "edges.md"
COLUMNS = ("interpreter", "onnxruntime", "tvm")
TVM_COMPILES_MANY = pytest.param("tvm", marks=pytest.mark.wide)


def run(cases: Sequence[Case], name: str, folder: Path) -> list[list[np.ndarray]]:
    """What the interpreter or a backend makes of cases, all in one graph."""
    graph, feeds = Graph(), dict[str, np.ndarray]()
    for index, case in enumerate(cases):
        feeds |= case.add(graph, f"c{index}")
    if name == "interpreter":
        results = Interpreter(graph).run(feeds)
    else:
        backend = Tvm(checks_kernels=False) if name == "tvm" else find_backend(name)
        write_artifact(folder / "dist", graph, backend, load_target("native"))
        results = dict(zip(graph.outputs, load(folder / "dist").run(feeds), strict=True))
    return [
        [array for output, array in results.items() if output.endswith(f"_c{index}")] for index in range(len(cases))
    ]


def shown(arrays: Iterable[np.ndarray]) -> str:
    """All elements, with a semicolon between outputs."""
    texts = (
        ", ".join(f"{number:g}" if array.dtype.kind == "f" else str(number) for number in array.flat)
        for array in arrays
    )
    return "; ".join(text or "none" for text in texts)


def table() -> dict[tuple[str, str], dict[str, str]]:
    """What the documentation says, by operator and case, and by what runs it."""
    rows = re.findall(
        r"^\| `(.+?)` \| (.+?) \| .+? \| (.+?) \| (.+?) \| (.+?) \|$", DOCS.read_text("utf-8"), re.MULTILINE
    )
    return {(operator, case): dict(zip(COLUMNS, cells, strict=True)) for operator, case, *cells in rows}


@pytest.mark.parametrize("backend", ["onnxruntime", TVM_COMPILES_MANY])
def test_the_same_is_made_of_what_is_alike(backend: str, tmp_path: Path) -> None:
    pairs = (run(list(ALIKE.values()), name, tmp_path) for name in ("interpreter", backend))
    for case, expected, found in zip(ALIKE, *pairs, strict=True):
        for want, got in zip(expected, found, strict=True):
            assert (got.dtype, got.shape) == (want.dtype, want.shape), case
            one, other = (array.astype(np.float64) for array in (got, want))
            np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=case)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", COLUMNS)
def test_what_fits_nowhere_is_refused(case: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(PlanishError):
        run([REFUSED[case]], name, tmp_path)


@pytest.mark.parametrize("name", ["interpreter", "onnxruntime", TVM_COMPILES_MANY])
def test_what_differs_is_in_the_table(name: str, tmp_path: Path) -> None:
    said = {key: cells[name] for key, cells in table().items()}
    assert said.keys() == DIFFERENT.keys()
    runs = [key for key, cell in said.items() if cell != "refused"]
    found = run([DIFFERENT[key] for key in runs], name, tmp_path)
    wrong = {
        key: (said[key], text)
        for key, text in zip(runs, map(shown, found), strict=True)
        if text not in said[key].split(" or ")
    }
    assert not wrong


@pytest.mark.parametrize("key", [pytest.param(key, id=" ".join(key)) for key in DIFFERENT])
def test_what_the_table_calls_refused_is(key: tuple[str, str], tmp_path: Path) -> None:
    for name in (name for name, cell in table()[key].items() if cell == "refused"):
        with pytest.raises(PlanishError):
            run([DIFFERENT[key]], name, tmp_path / name)


def test_the_table_has_only_what_differs() -> None:
    assert not [key for key, cells in table().items() if len(set(cells.values())) == 1]
