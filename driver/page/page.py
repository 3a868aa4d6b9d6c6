"""The page made of its data by a template, and its data read from an artifact."""

import base64
import hashlib
import json
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...backends.manifest import REPORT, read_manifest, read_measurements
from ...ir.errors import ModelError
from ...ir.files import RefusedFileError, open_within
from ...passes.units import show_bytes, show_count, show_seconds
from ..measurement import Ratio
from ..results import folded, plain, read_row
from ..words import faster, smaller
from .facts import bounds, reproduction, unchecked, verdict
from .history import decoded, final, fitted, size_of
from .layers import layers
from .plots import scatter, strips, waterfall

if TYPE_CHECKING:
    from jinja2 import Environment

LONGEST = 1_500_000
"""Bytes of a page at the most."""
_ROOM = 100_000
"""Bytes that a page takes beside its data, and that its tables of passes add."""
_MOST_MISSES, _MOST_LETTERS = 5, 300
"""Reasons that are told of a pass that left something as it was, and letters of each."""
_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("data.js", "graph.js", "layout.js", "layers.js", "page.js")
_HELD = re.compile(rb'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)

_SHOWN = {
    "bytes": show_bytes,
    "count": show_count,
    "seconds": show_seconds,
    "integer": "{:,}".format,
    "metric": "{:.4f}".format,
    "drift": "{:.2g}".format,
    "ratio": "{:.2f}x".format,
    "smaller": smaller,
    "probability": "{:.3f}".format,
    "cosine": "{:.6f}".format,
    "share": "{:.2%}".format,
}
"""How numbers are spelled, by what they are."""


def page_data(manifest: Mapping[str, Any], measurements: Mapping[str, Any], graphs: Any) -> dict[str, Any]:
    """All that a page is made of, as plain values.

    Args:
        manifest: the manifest of the artifact.
        measurements: what was measured on it.
        graphs: the graph's history, as `History.plain` returns it; None where it isn't known.
    """
    rows = [{**row, "misses": _some(row["misses"])} for row in measurements["passes"]]
    told = {name: value for name, value in measurements.items() if name != "files"}
    data: dict[str, Any] = {"manifest": dict(manifest), "measurements": {**told, "passes": rows}}
    data["steps"] = [row["text"] for row in rows]
    data["layers"], data["graphs"] = [], None
    if graphs is not None:
        changes = decoded(graphs)
        data["layers"] = plain(layers(final(changes).values()))
        data["graphs"] = fitted(changes, LONGEST - _ROOM - size_of(data) - 4 * size_of(rows))
    return data


def read_page(directory: Path) -> dict[str, Any]:
    """The data of an artifact's page, which is in the page itself; without graphs where there is no page.

    Raises:
        ModelError: it is no artifact, wasn't built from a recipe, or its page is damaged.
    """
    manifest, measurements = read_manifest(directory), read_measurements(directory)
    if "passes" not in measurements:
        raise ModelError(f"{directory} wasn't built from a recipe, so there is nothing to report")
    graphs = None
    with _refusing(directory):
        if (directory / REPORT).exists():
            with open_within(directory, REPORT, may_have_names=True) as file:
                held = _HELD.search(file.read(2 * LONGEST))
            graphs = json.loads(held[1])["graphs"] if held else None
        return page_data(manifest, measurements, graphs)


def page_of(directory: Path) -> str:
    """The page of an artifact, made anew.

    Raises:
        ModelError: see `read_page`.
    """
    data = read_page(directory)
    with _refusing(directory):
        return page(data)


@contextmanager
def _refusing(directory: Path) -> Generator[None]:
    """Say that an artifact's files are damaged where what they hold isn't what a build writes."""
    try:
        yield
    except (RefusedFileError, OSError) as error:
        raise ModelError(f"{directory / REPORT} can't be read: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise ModelError(f"{directory / REPORT} or what was measured beside it is damaged: {fault}") from error


def page(data: Mapping[str, Any]) -> str:
    """The page of an artifact, in HTML.

    Args:
        data: the data that `page_data` returns; texts in it come from strangers and aren't trusted.
    """
    manifest, measurements = data["manifest"], data["measurements"]
    rows = folded([read_row(row) for row in measurements["passes"]])
    recipe, commands = reproduction(manifest)
    return filled(
        "page.html",
        data,
        verdict=verdict(manifest, measurements),
        speed=measurements["speedup"] and faster(Ratio(**measurements["speedup"])),
        bounds=bounds(manifest, measurements),
        unchecked=list(unchecked(manifest, measurements)),
        recipe=recipe,
        commands=commands,
        rows=rows,
        sizes=waterfall([row.cost.bytes for _, row in rows]),
        flops=waterfall([row.cost.flops for _, row in rows]),
        strips=strips(measurements),
        scatter=scatter(measurements),
    )


def filled(template: str, data: Mapping[str, Any], **facts: Any) -> str:
    """A template with data in it, which its scripts get as JSON.

    Args:
        template: the name of its file.
        data: the data, by the names that the template and the scripts have for them.
        facts: what the template alone knows beside them.

    Raises:
        LookupError: the template asks for something that isn't there.
    """
    from jinja2 import UndefinedError

    script = "\n".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    page = _environment().get_template(template)
    try:
        return page.render(
            **data,
            **facts,
            number=partial(_number, data),
            style=(_TEMPLATES / "page.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            json=_embedded(data),
        )
    except UndefinedError as error:
        raise LookupError(str(error)) from error


@cache
def _environment() -> "Environment":
    """The templates, each of which is compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(_TEMPLATES)
    return Environment(autoescape=True, loader=loader, trim_blocks=True, undefined=StrictUndefined)


def _some(texts: Sequence[str]) -> list[str]:
    more = len(texts) - _MOST_MISSES
    shown = [text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…" for text in texts[:_MOST_MISSES]]
    return [*shown, *([f"and {more} more"] if more > 0 else [])]


def _number(data: Mapping[str, Any], path: str, kind: str, *names: str) -> Any:
    """A number of the data as an element that says where it stands, such as `measurements.built.size_bytes`.

    Args:
        data: the data that the path goes into.
        path: the keys and indices on the way to the number, with dots between them.
        kind: the kind of number, a key of `_SHOWN`.
        names: the keys that follow, which may have dots in them.
    """
    from markupsafe import Markup

    value: Any = data
    for key in (*path.split("."), *names):
        value = cast("list[Any]", value)[int(key)] if isinstance(value, list) else value[key]
    path = "/".join((*path.split("."), *names))
    if value is None:
        return ""
    return Markup('<data value="{}" data-path="{}">{}</data>').format(json.dumps(value), path, _SHOWN[kind](value))


def _embedded(data: Mapping[str, Any]) -> Any:
    """JSON that can't end the element that it stands in."""
    from markupsafe import Markup

    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text = text.encode(errors="backslashreplace").decode()
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704 -- nothing in it can be markup
