"""The errors that a user can mend, read off the code: each message, where it is raised, its cause and its cure.

A message is the text that an exception is made with, with `…` for what is filled in; where that text is computed, the
texts that functions of the same file return count. Causes and cures are the rows of the table in errors.md, each of
which stands for the files that it names; the longest name counts.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ERRORS = Path(__file__).with_name("errors.md")
OUTSIDE = {"tests", "examples", "benchmarks", "docs", "typings", "build", "dist"}


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """One error's text.

    Attributes:
        file: the file that raises it, relative to the repository.
        line: the line of the call.
        kind: the name of the exception's class.
        text: the text, with `…` for each part that is computed.
    """

    file: str
    line: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Cure:
    """A row of the table: what the errors of some files are about, why they are raised, and what to do."""

    title: str
    places: tuple[str, ...]
    cause: str
    cure: str


@cache
def messages() -> tuple[Message, ...]:
    """Every error's text that the package's code makes, file by file."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in _sources()}
    trees = {file: ast.parse(text) for file, text in texts.items() if "Error" in text}
    makers = makers_of(trees)
    return tuple(sorted(message for file, tree in trees.items() for message in _made(file, tree, makers)))


def cures() -> list[Cure]:
    """The rows of the table of errors.md, in order."""
    text = ERRORS.read_text(encoding="utf-8").partition("## Causes and cures")[2]
    rows = re.findall(r"^\| ([^|]+) \| (`[^|]+`) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    return [Cure(title, tuple(re.findall(r"`([^`]+)`", places)), cause, cure) for title, places, cause, cure in rows]


def cure_of(file: str, rows: list[Cure]) -> Cure | None:
    """The row that stands for a file: the one that names it, or else the nearest folder that it lies in."""
    fitting = {place: row for row in rows for place in row.places if f"{file}/".startswith(f"{place}/")}
    return fitting[max(fitting, key=len)] if fitting else None


def _sources() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*.py")):
        first = path.relative_to(ROOT).parts[0]
        if first not in OUTSIDE and not first.startswith("."):
            yield path


def makers_of(trees: Mapping[str, ast.Module]) -> dict[str, str]:
    """What makes an error, by name, and the error's class: the classes themselves, and functions that return one."""
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    found, size = {"PlanishError": "PlanishError"}, 0
    while len(found) > size:
        size = len(found)
        for node in nodes:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) in found for base in node.bases):
                found[node.name] = node.name
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.returns is not None]
    return found | {it.name: kind for it in functions if (kind := ast.unparse(it.returns)) in found}


def _made(file: str, tree: ast.Module, makers: Mapping[str, str]) -> Iterator[Message]:
    passed_on = ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (maker := _name(node.func)) in makers:
            texts = [text for text in map(text_of, node.args) if _says_something(text)]
            if texts:
                yield Message(file, node.lineno, makers[maker], texts[0])
            elif node.args:
                passed_on = makers[maker]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] if passed_on else []
    for function in functions:  # those that write what is passed on
        if function.returns is not None and ast.unparse(function.returns) in ("str", "str | None"):
            for node in ast.walk(function):
                text = text_of(node.value) if isinstance(node, ast.Return) and node.value is not None else ""
                if _says_something(text) and not function.name.startswith("__"):
                    yield Message(file, node.lineno, passed_on, text)


def _name(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _says_something(text: str) -> bool:
    return " " in text and re.search(r"\w", text) is not None


def text_of(node: ast.expr) -> str:
    """The text of an expression, with `…` for whatever is computed."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return re.sub("…+", "…", "".join(text_of(part) for part in parts))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return text_of(left) + text_of(right)
        case _:
            return "…"
