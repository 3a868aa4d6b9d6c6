"""Instruments by name, from files and from other packages, in both commands that run passes."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from planish.driver import cli
from planish.driver.instruments import instrument_classes, make_instruments
from planish.ir.errors import ModelError, UsageError
from planish.passes.pipeline import parse_pipeline

MINE = """
from planish import Instrument

class Chatty(Instrument):
    def after(self, record, graph):
        print("chatty about", record.name)

class Broken(Chatty):
    def ran(self, step, graph):
        raise KeyError(step.name)

class Needy(Chatty):
    def __init__(self, what):
        pass
"""


def test_those_without_arguments_have_names() -> None:
    assert sorted(instrument_classes()) == ["drift", "memory", "stats"]
    assert [type(it).__name__ for it in make_instruments(["memory", "drift", "memory"], Path("x"))] == [
        "Dump",
        "Memory",
        "Drift",
    ]


def test_what_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install) -> None:
    install("[planish.instruments]\nloud = others:Needy\nodd = others:Path\n", f"{MINE}\nfrom pathlib import Path\n")
    for name, message in (
        ("memroy", "unknown instrument 'memroy'; did you mean 'memory'"),
        ("lout", "unknown instrument 'lout'; did you mean 'loud'"),
        ("math:pi", "the instrument math:pi is no subclass of planish.Instrument"),
        ("odd", "'odd' in planish.instruments, of the package others 1.0 .* is no subclass of planish.Instrument"),
    ):
        with pytest.raises(UsageError, match=message):
            make_instruments([name])
    with pytest.raises(ModelError, match="loud failed: TypeError"):
        make_instruments(["loud"])


def test_opt_shows_what_is_asked_for(folder: Path, install) -> None:
    install("[planish.instruments]\nloud = others:Chatty\n", MINE)
    (folder / "mine.py").write_text(MINE)
    flags = ["--stats", "--drift", "--dump-dir", "dump", "--instrument", "mine.py:Chatty", "--instrument", "loud"]
    result = CliRunner().invoke(
        cli.app, ["opt", "net.planish", "-p", "passes_of_mine:Negate", "-o", "out.planish", *flags]
    )
    assert result.exit_code == 0, result.stderr
    assert "drift after passes_of_mine:Negate: %neg of" in result.stderr
    assert ["negate", "negate", "1"] in [line.split() for line in result.stderr.splitlines()]
    assert result.output.count("chatty about negate") == 2
    assert sorted(file.name for file in (folder / "dump").iterdir()) == [
        "00-source.txt",
        "01-negate.diff",
        "01-negate.txt",
    ]


def test_build_takes_them_as_well(folder: Path) -> None:
    result = CliRunner().invoke(cli.app, ["build", "recipe.yaml", "--instrument", "stats", "--dump-dir", "dump"])
    assert result.exit_code == 0, result.stderr
    assert "rewrite" in result.stderr
    cleaned, legalized = len(parse_pipeline("cleanup")), 1
    assert len(list((folder / "dump").glob("*.txt"))) == (1 + cleaned) + (1 + legalized)


def test_one_that_raises_is_named(folder: Path) -> None:
    (folder / "mine.py").write_text(MINE)
    result = CliRunner().invoke(cli.app, ["opt", "net.planish", "-p", "dce", "--instrument", "mine:Broken"])
    assert result.exit_code == 3
    assert "error: the instrument mine:Broken failed: KeyError: 'dce' (" in result.stderr
    assert "mine.py:10)" in result.stderr
    assert "reproducer" not in result.stderr
