"""The pages of the reference, made of the code: a hook of mkdocs.yml, which `mkdocs build` runs.

Each function of `PAGES` yields the parts of one page. `on_files` adds them to the site; the tree stays as it is.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from messages import ROOT, Message, cure_of, cures, messages
from mkdocs.plugins import event_priority

_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")
_SCRATCH = tempfile.TemporaryDirectory(prefix="planish-docs-")  # for mkdocstrings: there the package has its name


def commands() -> Iterator[str]:
    """What `planish --help` says, and each command's help."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from planish.driver.cli import app

    yield "# Command line\n\nWhat `--help` prints. [errors.md](../errors.md) has the exit codes."
    for name in ("", *get_command(app).commands):
        words = [*filter(None, [name]), "--help"]
        said = CliRunner().invoke(app, words, prog_name="planish", env={"TERMINAL_WIDTH": "100", "NO_COLOR": "1"})
        yield f"## planish {name}".rstrip() + f"\n\n```text\n{said.output.strip()}\n```"


def recipe() -> Iterator[str]:
    """The keys of a recipe, section by section."""
    from planish.driver.recipe import Recipe
    from planish.driver.recipe_schema import recipe_schema

    schema, hidden = Recipe.model_json_schema(), {key for key, entry in Recipe.model_fields.items() if entry.exclude}
    yield "# The keys of a recipe\n\n[Recipes](../recipes.md) says what they mean together; this is their schema."
    for title, section in (("A recipe", schema), *sorted(schema["$defs"].items())):
        rows = [
            (f"`{key}`", _type(entry), _default(key, entry, section), _described(section, key))
            for key, entry in section["properties"].items()
            if section is not schema or key not in hidden
        ]
        yield f"## {title}\n\n{_summary(section['description'])}\n\n" + table("key|type|default|meaning", rows)
    yield "`planish build` takes units: seconds as `5 ms`, bytes as `10 MB`, parts of a whole as `1%`."
    text = json.dumps(recipe_schema(), indent=2)
    yield f"As JSON Schema, which `planish recipe-schema` prints:\n\n```json\n{text}\n```"


def _type(entry: Mapping[str, Any]) -> str:
    choices = [kind for kind in entry.get("anyOf", [entry]) if kind.get("type") != "null"]
    return " or ".join(
        dict.fromkeys(
            kind.get("$ref", "").rpartition("/")[2] or "|".join(kind.get("enum", ())) or kind.get("type", "any")
            for kind in choices
        )
    )


def _default(key: str, entry: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    if key in section.get("required", ()):
        return "required"
    default = entry.get("default")
    return "none" if default is None else f"`{json.dumps(default)}`"


def _described(section: Mapping[str, Any], key: str) -> str:
    from planish.driver.docstrings import attributes_of

    return attributes_of(type("Section", (), {"__doc__": section["description"]})).get(key, "")


def _summary(docstring: str) -> str:
    return docstring.strip().partition("\n")[0]


def passes() -> Iterator[str]:
    """Every pass with its effect, its place in a pipeline and its options, then the presets."""
    from planish.driver.catalog import describe_pass
    from planish.passes.options import format_value
    from planish.passes.pipeline import PRESETS, pass_classes

    yield "# Passes and their options"
    yield "[Passes](../passes.md) says how they are put together; `planish passes NAME` prints one of these."
    names = list(pass_classes())
    described = {name: describe_pass(name) for name in names}
    rows = [(f"[`{name}`](#{name})", it["effect"], _summary(it["documentation"])) for name, it in described.items()]
    yield table("pass|effect|what it does", rows)
    yield "## Presets\n\n" + table("preset|short for", [(f"`{name}`", f"`{text}`") for name, text in PRESETS.items()])
    shared = set.intersection(*(set(it["options"]) for it in described.values()))
    for name, it in described.items():
        facts = [f"Effect: {it['effect']}."]
        facts += [
            f"{word.capitalize()}: {', '.join(f'`{one}`' for one in it[word])}."
            for word in ("after", "needs", "establishes", "destroys")
            if word in it
        ]
        options = [
            (f"`{key}`", f"`{format_value(option['default'])}`" if option["default"] not in ("", ()) else "none",
             option["values"], option["description"])
            for key, option in it["options"].items()
            if key not in shared
        ]  # fmt: skip
        parts = [f"## {name}", it["documentation"], " ".join(facts), f"Source: `{_file(it['module'])}`."]
        yield "\n\n".join(filter(None, [*parts, options and table("option|default|values|meaning", options)]))
    every = ((key, option) for key, option in described["cse"]["options"].items() if key in shared)
    rows = [(f"`{key}`", option["values"], option["description"]) for key, option in every]
    yield "## Options of every pass\n\n" + table("option|values|meaning", rows)


def operators() -> Iterator[str]:
    """Every operator by the file of its family, with what each backend makes of it."""
    from planish.backends.onnxruntime.support import SUPPORT as RUNTIME
    from planish.backends.tvm.compat import importers
    from planish.backends.tvm.relax.converters.table import CONVERTERS
    from planish.backends.tvm.support import SUPPORT as TVM
    from planish.ir.ops import operators as known

    kernels = {"ONNX Runtime": (RUNTIME, known().keys()), "TVM": (TVM, CONVERTERS.keys() | importers().keys())}
    yield (
        f"# Operators\n\nThe {len(known())} operators of a graph. Names without a domain are those of ONNX's standard, "
        "whose documentation says what they compute; inputs with `?` may be left out. *Spelled out* means that "
        "`legalize` writes the operator in others, for all nodes or for those that the backend has no kernel for. "
        "*Itself* says nothing of all types and sizes: where a node can't be run, the error says why. "
        "[A new operator](../how-to/new-operator.md) says how to add one."
    )
    families: dict[str, list[Any]] = {}
    for it in known().values():
        families.setdefault(it.function.__module__, []).append(it)
    for family, members in sorted(families.items()):
        rows = [
            (f"`{it.name}`", _inputs(it), _attributes(it), *(_support(it, *one) for one in kernels.values()))
            for it in sorted(members, key=lambda it: it.name)
        ]
        yield f"## {family.rpartition('.')[2]}\n\nSource: `{_file(family)}`.\n\n" + table(
            "operator|inputs|attributes|" + "|".join(kernels), rows
        )


def _inputs(it: Any) -> str:
    import inspect

    parameters = inspect.signature(it.function).parameters
    marks = {inspect.Parameter.VAR_POSITIONAL: "..."}
    found = ((name, parameters[name]) for name in it.inputs)
    return ", ".join(f"`{name}{marks.get(one.kind, '?' if one.default is None else '')}`" for name, one in found)


def _attributes(it: Any) -> str:
    return ", ".join(f"`{key}`" for key in it.defaults if key not in ("outputs", "input_dtype"))


def _support(it: Any, support: Any, kernels: Collection[str]) -> str:
    """What a backend makes of an operator's nodes."""
    from planish.passes.legalization.expansions import EXPANSIONS

    domain = it.name.rpartition("::")[0]
    is_known = it.name in kernels and (not domain or domain in support.domains)
    is_spelled_out = it.name in support.expanded or (
        not is_known and (it.name in EXPANSIONS or it.expansion is not None)
    )
    return ", or ".join(["itself"] * is_known + ["spelled out"] * is_spelled_out) or "refused"


def targets() -> Iterator[str]:
    """Every target, what is legal in integers on it, and what it was measured to gain by."""
    from planish.driver.catalog import describe_target
    from planish.targets.load import target_names

    described = {name: describe_target(name) for name in target_names()}
    yield (
        "# Targets\n\n`planish targets` lists them, `planish targets native` says what was found on this machine. "
        "[A new target](../how-to/new-target.md) is a TOML file."
    )
    rows = [(f"[`{name}`](#{name})", it["description"], it["architecture"]) for name, it in described.items()]
    yield table("target|what it is|architecture", rows)
    yield "## What is legal in 8 bits\n\n" + table(
        "target|activations|bits of weights|operators in int8 (ONNX Runtime)|with ranges found at run time",
        [(f"`{k}`", *_int8(it["int8"])) for k, it in described.items()],
    )
    for name, it in described.items():
        rows = [(key, _spelled(it[key])) for key in ("mcpu", "features", "threads", "fused", "weights") if it[key]]
        yield f"## {name}\n\n{it['description']}. Source: `targets/{name}.toml`.\n\n" + table("|", rows)


def _int8(found: Mapping[str, Any] | None) -> tuple[str, ...]:
    if found is None:
        return ("none", "", "", "")
    sets = [found[key].get("onnxruntime", ()) for key in ("operators", "dynamic_operators")]
    return (found["activation"], str(found["weight_bits"]), *(", ".join(f"`{it}`" for it in names) for names in sets))


def _spelled(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"{key}: {_spelled(item)}" for key, item in value.items())
    return ", ".join(f"`{it}`" for it in value) if isinstance(value, list) else f"`{value}`"


def metrics() -> Iterator[str]:
    """The built-in metrics."""
    import inspect

    from planish.driver.metrics import BUILT_IN

    yield "# Metrics\n\nBuilt in are these; [recipes](../recipes.md#metrics) says how to write one of your own."
    for name, function in BUILT_IN.items():
        better = "lower" if getattr(function, "lower_is_better", False) else "higher"
        yield f"## {name}\n\n{inspect.cleandoc(function.__doc__ or '')}"
        yield f"Better is {better}. Source: `{_file(function.__module__)}`."


def api() -> Iterator[str]:
    """The names of `planish`, and the classes of what its functions return, for mkdocstrings."""
    import planish

    yield "# Python\n\nWhat `import planish` gives, in the order of the alphabet."
    yield from (f"::: planish.{name}" for name in planish.__all__)
    yield "## What functions return"
    yield from (f"::: planish.{name}" for name in _RETURNED)


_RETURNED = ("driver.api.Optimized", "driver.results.Artifact", "backends.base.Executable", "backends.base.Port")


def errors() -> Iterator[str]:
    """Every message, grouped by its cause and cure."""
    from planish.ir import errors as kinds

    found, rows = messages(), cures()
    kept = {file: cure_of(file, rows) for file in {it.file for it in found}}
    yield (
        f"# Messages\n\nThe {len(found)} messages of errors that a user can mend, read off the code. `…` is what a "
        "message fills in: the file, layer or key. What Python, a runtime or a package has said stands behind it. "
        "[errors.md](../errors.md) has the exit codes."
    )
    for number, row in enumerate(rows, start=1):
        mine = [it for it in found if kept[it.file] == row]
        yield f"## {number}. {row.title}\n\n**Cause.** {row.cause}"
        yield f"**What to do.** {row.cure.replace('](', '](../')}"
        yield table("message|exit code|raised in", [_message_row(it, kinds) for it in mine])


def _message_row(it: Message, kinds: Any) -> tuple[str, str, str]:
    code = getattr(getattr(kinds, it.kind, None), "exit_code", None)
    return f"`` {it.text} ``", "as its cause" if code is None else str(code), f"`{it.file}:{it.line}`"


def table(head: str, rows: Iterable[Sequence[str]]) -> str:
    """Rows as a table of Markdown."""
    titles = head.split("|")
    lines = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [titles, ["-"] * len(titles), *lines])


def _file(module: str) -> str:
    return module.partition(".")[2].replace(".", "/") + ".py"


PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "cli": commands,
    "recipe": recipe,
    "passes": passes,
    "operators": operators,
    "targets": targets,
    "metrics": metrics,
    "api": api,
    "messages": errors,
}
"""The pages by the names of their files."""


@cache
def text_of(name: str) -> str:
    """A page's text."""
    return "\n\n".join(PAGES[name]()) + "\n"


@event_priority(100)  # before mkdocstrings reads where to look
def on_config(config: Any) -> None:
    """Let mkdocstrings find the package, whose folder is the repository's, under its name."""
    link = Path(_SCRATCH.name, "planish")
    if not link.is_symlink():
        link.symlink_to(ROOT, target_is_directory=True)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [_SCRATCH.name]


def on_files(files: Any, config: Any) -> None:
    """Add the pages."""
    from mkdocs.structure.files import File

    for name in PAGES:
        files.append(File.generated(config, f"reference/{name}.md", content=text_of(name)))


def on_page_markdown(markdown: str, page: Any, **_: SimpleNamespace) -> str:
    """Turn links to files outside of the documentation, which the site doesn't have, into these files' names."""

    def named(match: re.Match[str]) -> str:
        text, link = match.groups()
        file = Path(os.path.normpath(ROOT / "docs" / page.file.src_uri / ".." / link))
        if file.is_relative_to(ROOT / "docs"):
            return match.group()
        if not file.exists():
            raise FileNotFoundError(f"{page.file.src_uri}: there is no {link}")
        name = file.relative_to(ROOT).as_posix()
        return f"`{name}`" if text.strip("`") in (name, link) else f"{text} (`{name}`)"

    return _LINK.sub(named, markdown)
