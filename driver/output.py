"""What commands print: tables on stderr as wide as they may be, lists and JSON on stdout."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LOG_WIDTH = 160
"""Columns of lines where stderr is a file."""

_verbosity = 0


def set_verbosity(level: int) -> None:
    """Say how much commands tell: -1 for results, warnings and errors alone, 0 for stages too, 1 for every pass."""
    global _verbosity  # noqa: PLW0603 -- one command runs in a process
    _verbosity = level


def verbosity() -> int:
    """How much commands tell."""
    return _verbosity


def console() -> "Console":
    """A console on stderr; rich heeds NO_COLOR."""
    from rich.console import Console

    made = Console(stderr=True, markup=False, highlight=False)  # shapes in brackets are no markup
    if not made.is_terminal:
        made.width = LOG_WIDTH
    return made


def show(tables: "Iterable[Table]", as_json: Any) -> None:
    """Print tables on stderr, or JSON on stdout."""
    if as_json is not None:
        print_json(as_json)
        return
    from .report import print_table

    printer = console()
    for table in tables:
        print_table(printer, table)
        printer.print()


def list_entries(entries: dict[str, Any], as_json: bool) -> None:
    """Print names and what they stand for, aligned."""
    if as_json:
        print_json(entries)
        return
    width = max(map(len, entries))
    for name, value in entries.items():
        typer.echo(f"{name:{width}}  {_spell(value)}")


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    typer.echo(json.dumps(value, indent=2))


def examples(*lines: str) -> str:
    """Lines below a command's help, which are not filled."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _spell(value: Any) -> str:
    if value in ([], {}):
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_spell(item)}" for key, item in cast("dict[str, Any]", value).items())
    if isinstance(value, list):
        return "|".join(map(str, cast("list[Any]", value)))
    return str(value).lower() if isinstance(value, bool) else str(value)
