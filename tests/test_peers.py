"""docs/peers.md: what it says of planish is in tests and on the command line; what it says of others has a source."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from planish.driver.cli import app

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "peers.md").read_text(encoding="utf-8")
HEAD = ["", "planish", "MLIR", "LLVM", "xDSL", "TVM Relax", "onnxscript", "Olive"]
SOURCES = dict(re.findall(r"^\[([\w-]+)\]: (\S+)$", TEXT, re.MULTILINE))
OFFICIAL = re.compile(
    r"https://((mlir|clang)\.)?llvm\.org/|https://github\.com/(llvm/llvm-project|xdslproject/xdsl|apache/tvm|onnx/ir-py"
    r"|microsoft/onnxscript|microsoft/Olive)/"
)
TEST = re.compile(r"\[(test_\w+)\]\(([^)]+)\)")


def rows() -> list[list[str]]:
    lines = [line for line in TEXT.splitlines() if line.startswith("|") and not line.startswith("|-")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


FEATURES = [row for row in rows() if row != HEAD]


COMMANDS = get_command(app).commands
OPTIONS = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}


def test_every_row_has_all_columns_under_their_names() -> None:
    assert [row for row in FEATURES if len(row) != len(HEAD) or not all(row)] == []
    assert TEXT.count("\n## ") == rows().count(HEAD)
    assert len({row[0] for row in FEATURES}) == len(FEATURES) > 30


@pytest.mark.parametrize("row", FEATURES, ids=lambda row: row[0])
def test_what_is_said_of_planish_is_proved(row: list[str]) -> None:
    cell = row[1]
    tests = TEST.findall(cell)
    assert (cell == "no") != bool(tests)
    for name, file in tests:
        assert f"\ndef {name}(" in (DOCS / file).read_text(encoding="utf-8")
    for code in re.findall(r"`([^`]+)`", cell):
        program, *words = code.split()
        assert words[0] in COMMANDS if program == "planish" else program in OPTIONS


@pytest.mark.parametrize("row", FEATURES, ids=lambda row: row[0])
def test_what_is_said_of_others_has_a_source(row: list[str]) -> None:
    for cell in row[2:]:
        names = re.findall(r"\]\[([\w-]+)\]", cell)
        assert (cell == "no") != bool(names)
        assert names == [name for name in names if OFFICIAL.match(SOURCES.get(name, ""))]


def test_every_source_is_referred_to() -> None:
    assert SOURCES.keys() == set(re.findall(r"\]\[([\w-]+)\]", TEXT))
