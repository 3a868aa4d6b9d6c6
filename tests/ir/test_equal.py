"""Graphs are equal only if nothing about them differs."""

import numpy as np
import pytest

from planish.ir.equal import differences
from planish.ir.graph import Graph
from planish.ir.text import parse_graph

TEXT = """\
graph "g"(%x: float32[2, 20]) {
  const %w: float32[20]
  const %s: float32[] = 2.0
  %y: float32[2, 20] = Mul(%x, %w) @ "fc" "model.py:1"
  %z: float32[2, 20] = Elu(%y) {alpha = 1.0} @ "act"
  return z = %z
}
"""


def _graph(text: str = TEXT, shift: float = 0.0) -> Graph:
    return parse_graph(text, {"w": np.arange(20, dtype=np.float32) + np.float32(shift)})


def test_a_copy_is_equal() -> None:
    assert differences(_graph(), _graph().clone()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"g"', '"h"'),
        ("%y", "%other"),
        ("%w", "%weight"),
        ("[2, 20]", "[batch, 20]"),
        ("float32[2, 20] = Elu", "float16[2, 20] = Elu"),
        ("Elu", "Celu"),
        ("alpha = 1.0", "alpha = 1"),
        ("alpha = 1.0", "alpha = 1.5"),
        ("Mul(%x, %w)", "Mul(%w, %x)"),
        ("model.py:1", "model.py:2"),
        ('@ "act"', ""),
        ("2.0", "2.0000002"),
        ("2.0", "nan"),
        ("return z = %z", "return y = %z"),
        ("return z = %z", "return z = %y"),
        ("return z = %z", "return z = %z, y = %y"),
    ],
)
def test_each_edit_is_one_difference_at_least(old: str, new: str) -> None:
    text = TEXT.replace(old, new)
    assert text != TEXT
    other = parse_graph(text, dict.fromkeys(("w", "weight"), np.arange(20, dtype=np.float32)))
    assert differences(_graph(), other)
    assert differences(other, _graph())


def test_a_difference_names_what_differs() -> None:
    found = differences(_graph(), _graph(TEXT.replace("Elu", "Celu")))
    assert len(found) == 1
    assert found[0].startswith("node: %z: float32[2, 20] = Elu(%y)")


def test_data_is_compared_by_bits() -> None:
    assert differences(_graph(), _graph(shift=1e-6)) == ["data of w"]
    assert differences(_graph(shift=np.nan), _graph(shift=np.nan)) == []


def test_the_order_of_constants_means_nothing() -> None:
    lines = TEXT.splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    assert differences(_graph(), _graph("\n".join(lines))) == []


def test_data_inside_a_branch_is_compared() -> None:
    text = """graph "g"(%c: bool[]) {
      %y: float32[20] = If(%c) {else_branch = graph "e"() { const %w: float32[20] return w = %w }}
      return y = %y
    }"""
    one, other = (parse_graph(text, {"y>else_branch>w": np.full(20, fill, np.float32)}) for fill in (0, 1))
    assert differences(one, other) == ["data of y>else_branch>w"]
