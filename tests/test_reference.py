"""The reference is made of the code: its pages, the list of messages, and the docstrings that they are read from."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import planish

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))
import messages as errors  # noqa: E402
import reference  # noqa: E402

sys.path.remove(str(DOCS))
ROWS = errors.cures()


@pytest.mark.wide
@pytest.mark.parametrize("name", reference.PAGES)
def test_each_page_can_be_made(name: str) -> None:
    text = reference.text_of(name)
    assert text.startswith("# ")
    assert "## " in text or ":::" in text
    assert not {row for row in text.splitlines() if row.startswith("|") and "| None |" in row}


@pytest.mark.wide
def test_the_pages_hold_what_there_is() -> None:
    from typer.main import get_command

    from planish.driver.cli import app
    from planish.driver.recipe import Recipe
    from planish.ir.ops import operators
    from planish.passes.pipeline import pass_classes
    from planish.targets.load import target_names

    commands = get_command(app).commands
    wanted = {
        "cli": {f"## planish {name}" for name in commands},
        "recipe": {f"| `{key}` |" for key in Recipe.model_fields if key not in ("folder", "name")},
        "passes": {f"## {name}" for name in pass_classes()},
        "operators": {f"| `{name}` |" for name in operators()},
        "targets": {f"## {name}" for name in target_names()},
        "api": {f"::: planish.{name}" for name in planish.__all__},
    }
    for page, texts in wanted.items():
        assert texts
        assert not {text for text in texts if text not in reference.text_of(page)}


# -- messages


def test_every_message_has_its_cause_and_cure_and_every_row_a_message() -> None:
    assert len(errors.messages()) > 350
    found = {message.file for message in errors.messages()}
    assert not {file for file in found if errors.cure_of(file, ROWS) is None}
    stale = {place for row in ROWS for place in row.places if not any(f"{it}/".startswith(f"{place}/") for it in found)}
    assert stale == set()
    assert {errors.cure_of(file, ROWS) for file in found} == set(ROWS)


def test_messages_are_read_off_the_code() -> None:
    code = """
class UsageError(PlanishError): ...

def _refusal(path, reason) -> UsageError:
    return UsageError(f"{path}: {reason}")

def read(path, fault):
    raise UsageError(f"there is no {path!r}" + f"; did you mean {near(path)}?")
    raise _refusal(path, "it is broken")
    raise UsageError(_why(path))
    raise ValueError("not ours")

def _why(path) -> str:
    return f"{path} is too long"
"""
    trees = {"read.py": ast.parse(code)}
    found = list(errors._made("read.py", trees["read.py"], errors.makers_of(trees)))
    assert [(it.kind, it.text) for it in found] == [
        ("UsageError", "there is no …; did you mean …?"),
        ("UsageError", "it is broken"),
        ("UsageError", "… is too long"),
    ]


# -- docstrings


def members() -> Iterator[tuple[str, Any]]:
    """Every public name, and every public method and property of the classes among them."""
    for name in planish.__all__:
        found = getattr(planish, name)
        yield name, found
        bases = [base for base in getattr(found, "__mro__", ()) if base.__module__.startswith("planish.")]
        for base in bases:
            for key, value in vars(base).items():
                value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                is_own = inspect.isfunction(value) and value.__qualname__.startswith(base.__name__)
                if is_own and not key.startswith("_"):
                    yield f"{name}.{key}", value


@pytest.mark.parametrize(("name", "found"), list(members()), ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_public_is_documented(name: str, found: Any) -> None:
    text = found.__doc__ or ""
    assert text.strip() and not text.startswith(f"{name}("), f"{name} has no docstring"
    if inspect.isfunction(found):
        tree = ast.parse(textwrap.dedent(inspect.getsource(found)))
        raised = {ast.unparse(node.exc.func) for node in ast.walk(tree) if is_call(node)} & KINDS
        assert not {kind for kind in raised if f"{kind}:" not in text.partition("Raises:")[2]}


KINDS = {kind.__name__ for kind in planish.PlanishError.__subclasses__()}


def is_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)


def test_attributes_of_public_dataclasses_are_documented() -> None:
    import dataclasses

    from planish.driver.docstrings import attributes_of

    kinds = [kind for name in planish.__all__ if dataclasses.is_dataclass(kind := getattr(planish, name))]
    assert kinds
    for kind in kinds:
        own = {it.name for it in dataclasses.fields(kind) if not it.name.startswith("_")}
        assert own <= attributes_of(kind).keys(), kind
