"""The bounds that docs/security.md states are those of the code."""

import re
from importlib import import_module
from pathlib import Path

from planish.ir import arrays, dims

TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")


def test_the_bounds() -> None:
    rows = re.findall(r"\| `([\w.]+)\.(\w+)` \| (\d+) \|", TEXT)
    assert len(rows) == 14
    for module, name, value in rows:
        assert getattr(import_module(f"planish.{module}"), name) == int(value)
    assert f"beyond {arrays.UNPACKED_TIMES} times its size" in TEXT
    assert f"{dims._LONGEST:,} characters" in TEXT
    assert f"{dims._MOST_TERMS:,} terms" in TEXT
