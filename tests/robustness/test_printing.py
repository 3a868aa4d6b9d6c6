"""What files say reaches terminals and logs escaped: neither colours, titles, nor reversed text."""

import io
import logging
import os
from pathlib import Path

import pytest
from commands import planish
from rich.console import Console

from planish.driver.inspection import inspect
from planish.driver.report import ConsoleReporter, inspection_tables
from planish.ir.errors import ModelError, printable
from planish.ir.storage import save
from planish.ir.text import parse_graph

EVIL = "\x1b[31m\x1b]0;owned\x07\u202etxt.exe\x9b2J\r"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    graph = parse_graph('graph "g"(%x: float32[2]) { %y: float32[2] = Relu(%x) @ "here"  return y = %y }')
    node = next(graph.nodes)
    node.location = type(node.location)(EVIL)
    graph.name = EVIL
    graph.outputs[EVIL] = graph.outputs.pop("y")
    save(graph, tmp_path / "g.planish")
    return tmp_path / "g.planish"


def harmless(text: str) -> bool:
    return "owned" in text and text.replace("\n", "").isprintable()


def test_tables(path: Path) -> None:
    written = io.StringIO()
    console = Console(file=written, width=400)
    for table in inspection_tables(inspect(str(path), "x86-64", 2, {})):
        console.print(table)
    assert harmless(written.getvalue())


def test_the_reporter() -> None:
    written = io.StringIO()
    reporter = ConsoleReporter(Console(file=written, width=400))
    for tell in (reporter.stage, reporter.note, reporter.warn):
        tell(EVIL)
    assert harmless(written.getvalue())


def test_errors_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    error = ModelError(f"{EVIL}: no such layer")
    assert harmless(str(error))
    logging.getLogger("user").error("%s", error)
    assert harmless(caplog.text)
    assert harmless(str(ModelError(f"in turn: {error}")))


def test_long_names_are_cut_in_the_middle() -> None:
    text = printable("a" * 10_000_000 + "end")
    assert len(text) < 10_000
    assert text.endswith("end")
    assert "9,992,003 characters more" in text


@pytest.mark.wide
def test_the_command_line(path: Path) -> None:
    commands = [["inspect", "g.planish"], ["inspect", "g.planish", "--json"], ["opt", EVIL, "-p", "cse"]]
    environment = {**os.environ, "PYTHONUTF8": "1", "NO_COLOR": "1", "TERM": "dumb"}
    for done in planish(commands, path.parent, environment):
        assert harmless(done.stdout + done.stderr)
