"""What the docstrings of classes say, taken apart: a summary, more text, and what their attributes mean."""

import inspect
import re
from collections.abc import Mapping
from textwrap import dedent

_SECTION = re.compile(r"^(Attributes|Args|Raises|Returns):\n((?:(?: .*)?(?:\n|$))+)", re.MULTILINE)
_ENTRY = re.compile(r"^(\w+): (.*(?:\n +.*)*)", re.MULTILINE)


def summary_of(kind: type) -> str:
    """The first line of a class's docstring; nothing where it has none."""
    return text_of(kind).partition("\n")[0]


def text_of(kind: type) -> str:
    """A class's docstring without its sections."""
    return _SECTION.sub("", _own(kind)).strip()


def attributes_of(kind: type) -> Mapping[str, str]:
    """What a class and its bases say of their attributes, each in one line."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        for section, body in _SECTION.findall(_own(base)):
            entries = _ENTRY.findall(dedent(body)) if section == "Attributes" else []
            found |= {name: " ".join(text.split()) for name, text in entries}
    return found


def _own(kind: type) -> str:
    """A class's docstring, and none of its bases'; that of a dataclass without one is its signature, so left out."""
    text = inspect.cleandoc(kind.__doc__ or "") if "__doc__" in vars(kind) else ""
    return "" if text.startswith(f"{kind.__name__}(") else text
