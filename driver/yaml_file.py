"""YAML files as users write them: plain values, within bounds that no recipe reaches."""

from pathlib import Path
from typing import Any, cast

import yaml

from ..ir.errors import UsageError
from ..ir.files import RefusedFileError, open_regular

LONGEST = 1 << 18
"""Bytes of a file; reading so many takes a few seconds."""

MOST_VALUES = 10_000
"""The most values in a file, each counted as often as aliases name it, and a text by its length."""


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        UsageError: there is no such file, it is not YAML, or too long, nested or repeated for what it says.
    """
    try:
        with open_regular(path) as file:
            text = file.read(LONGEST + 1).decode()
        if len(text) > LONGEST:
            raise UsageError(f"{path} is longer than {LONGEST:,} bytes, which no recipe is")
        content = yaml.safe_load(text)
        values = _values(content, {})
    except RefusedFileError as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        hint = "; inside of braces and brackets, quote texts with ${...}" if "${" in str(error) else ""
        raise UsageError(f"{path}{line} is not YAML: {error.problem}{hint}") from error
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply, or in itself") from error
    except (yaml.YAMLError, ValueError) as error:  # the latter for dates and numbers that are none
        raise UsageError(f"{path} is not YAML: {error}") from error
    if values > MOST_VALUES:
        raise UsageError(f"{path} holds {values:,} values with what its aliases repeat; {MOST_VALUES:,} are the most")
    return content


def parse_yaml(text: str, source: str) -> Any:
    """What a short text means as YAML.

    Raises:
        UsageError: it is not YAML; names where the text comes from.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{source} is not YAML") from error


def _values(value: Any, known: dict[int, int]) -> int:
    """How many values there are in a value, each counted as often as it is named."""
    if isinstance(value, str | bytes):
        return 1 + len(value) // 100
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        items = cast("list[Any]", list(value.values()) if isinstance(value, dict) else value)
        known[id(value)] = 1 + sum(_values(item, known) for item in items)
    return known[id(value)]
