"""Files of the graph after each pass, also after one that is found wrong."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from planish.ir.errors import CheckError, UsageError
from planish.ir.text import parse_graph, print_graph, weights
from planish.passes.base import Effect, Pass, PassResult
from planish.passes.instruments.dump import Dump
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline

SOURCE = """(%x: float32[3, 8]) {
  const %w: float32[8, 4]
  %a: float32[3, 8] = Identity(%x) @ "first"
  %b: float32[3, 4] = MatMul(%a, %w) @ "second"
  return y = %b
}"""


@dataclass(frozen=True)
class Doubled(Pass):
    """Doubles a weight, which the text doesn't show."""

    name: ClassVar[str] = "double it/all"
    effect: ClassVar[Effect] = Effect.ROUNDING

    def run(self, graph, context) -> PassResult:
        graph.constants["w"].data = graph.constants["w"].data * 2
        return PassResult({"double": 1})


@pytest.fixture
def source(graph_of):
    return graph_of(SOURCE, {"w": np.ones((8, 4), np.float32)})


def test_each_pass_has_its_text_and_what_changed(source, context, tmp_path) -> None:
    folder = tmp_path / "in" / "dump"
    graph = source.clone()
    PassManager(parse_pipeline("dce,fixpoint(remove-identities{skip=act})"), [Dump(folder)]).run(graph, context(source))
    names = ["00-source.txt", "01-dce.txt", "02-remove-identities.diff", "02-remove-identities.txt"]
    assert sorted(file.name for file in folder.iterdir()) == [*names, "03-remove-identities.txt"]
    for name, wanted in (("00-source", source), ("03-remove-identities", graph)):
        text = (folder / f"{name}.txt").read_text()
        assert print_graph(parse_graph(text, weights(source))) == print_graph(wanted)
    head, *_ = diff = (folder / "02-remove-identities.diff").read_text().splitlines()
    assert head == "--- 01-dce.txt"
    assert diff[1] == "+++ 02-remove-identities.txt\tremove-identities{skip=act}"
    assert [line for line in diff if line.startswith("-  ")] == [
        '-  %a: float32[3, 8] = Identity(%x) @ "first"',
        '-  %b: float32[3, 4] = MatMul(%a, %w) @ "second"',
    ]


def test_a_pass_that_is_found_wrong_has_its_files_and_changed_weights_show(source, context, tmp_path) -> None:
    with pytest.raises(CheckError):
        PassManager([Doubled()], [Dump(tmp_path)]).run(source.clone(), context(source))
    changed = [line for line in (tmp_path / "01-double-it-all.diff").read_text().splitlines() if "crc32" in line]
    assert [line[:10] for line in changed] == ["-// crc32 ", "+// crc32 "]
    assert all(line.endswith(" of %w") for line in changed)


def test_nothing_is_overwritten(source, context, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty: dump into another"):
        PassManager([], [Dump(tmp_path)]).run(source.clone(), context(source))
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
