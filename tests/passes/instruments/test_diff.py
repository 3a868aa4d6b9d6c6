"""Diffs turn one text into the other, are as small as difflib's where little has changed, and take linear time."""

import difflib
import random
import re
from collections.abc import Sequence

import pytest

from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.cleanup.dce import DeadCodeElimination
from planish.passes.instruments.diff import unified_diff
from planish.passes.instruments.dump import Dump

LINES = 20_000
HUNK = re.compile(r"@@ -(\d+),(\d+) \+(\d+),(\d+) @@\n")


class Line(str):
    """A line that counts how often one is compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Line.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def long_text() -> list[str]:
    lines = [f"  %v{i}: float32[8] = Relu(%v{i - 1}) @ layer{i % 50}\n" for i in range(LINES)]
    return ["  }\n" if i % 9 == 0 else line for i, line in enumerate(lines)]


def patched(before: Sequence[str], diff: Sequence[str]) -> list[str]:
    """The text that a diff makes of another; all that it says of that is held to it."""
    after: list[str] = []
    taken = 0
    heads = [index for index, line in enumerate(diff) if HUNK.fullmatch(line)]
    for head, end in zip(heads, [*heads[1:], len(diff)], strict=True):
        start, length, new_start, new_length = map(int, HUNK.fullmatch(diff[head]).groups())
        body = diff[head + 1 : end]
        old, new = ([line[1:] for line in body if line[0] in marks] for marks in (" -", " +"))
        after += before[taken : start - (length > 0)]
        taken = start - (length > 0) + length
        assert old == before[taken - length : taken]
        assert (len(old), len(new), len(after)) == (length, new_length, new_start - (new_length > 0))
        after += new
    return after + list(before[taken:])


@pytest.mark.parametrize("seed", range(50))
def test_a_diff_turns_one_text_into_the_other(seed: int) -> None:
    chance = random.Random(seed)
    before, after = ([f"{chance.randrange(30)}\n" for _ in range(chance.randrange(40))] for _ in range(2))
    after += before[5:25]
    assert patched(before, list(unified_diff(before, after, ("a", "b")))) == after
    assert list(unified_diff(before, list(before), ("a", "b"))) == []


def test_a_small_change_has_a_small_diff() -> None:
    before = long_text()
    after = list(before)
    after[10_000:10_001] = ["  %new: float32[8] = Abs(%v9999)\n"]
    del after[15_000]
    assert list(unified_diff(before, after, ("a", "b"))) == list(
        difflib.unified_diff(before, after, "a", "b", lineterm="\n")
    )


@pytest.mark.parametrize("change", ["every third line", "every fifth line gone", "halves swapped", "all"])
def test_lines_are_compared_a_few_times_each(change: str) -> None:
    before = long_text()
    after = {
        "every third line": [line.replace("Relu", "Abs") if i % 3 == 0 else line for i, line in enumerate(before)],
        "every fifth line gone": [line for i, line in enumerate(before) if i % 5],
        "halves swapped": [*before[LINES // 2 :], *before[: LINES // 2]],
        "all": [line.replace("Relu", "Abs") for line in before],
    }[change]
    Line.compared = 0
    diff = list(unified_diff(list(map(Line, before)), list(map(Line, after)), ("a", "b")))
    assert Line.compared < 10 * LINES
    assert patched(before, diff) == after


@pytest.mark.wide
def test_the_dump_of_a_long_graph_has_its_diff(tmp_path, context) -> None:
    kind = TensorType(DType.float32, (8,))
    graph = Graph()
    value = graph.add_input("x", kind)
    for number in range(LINES):
        value = graph.add_node("Relu", [value], [kind], names=[f"v{number}"]).output
    graph.outputs["y"] = value
    dump = Dump(tmp_path)
    dump.start(graph, context(graph))
    node = list(graph.nodes)[LINES // 2]
    graph.replace_uses(node.output, node.input(0))
    graph.erase(node)
    dump.ran(DeadCodeElimination(), graph)
    diff = (tmp_path / "01-dce.diff").read_text().splitlines(keepends=True)
    before, after = (
        (tmp_path / name).read_text().splitlines(keepends=True) for name in ("00-source.txt", "01-dce.txt")
    )
    assert len(before) > LINES
    assert patched(before, diff) == after
    assert [line[:12] for line in diff[2:] if line[0] in "-+"] == ["-  %v10000: ", "-  %v10001: ", "+  %v10001: "]
