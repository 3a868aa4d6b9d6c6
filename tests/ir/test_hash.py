"""The hash follows what a graph computes, and nothing else."""

import numpy as np
import pytest

from planish.ir.graph import Graph, Location
from planish.ir.hash import structural_hash
from planish.ir.text import parse_graph

TEXT = """\
graph "g"(%x: float32[2, 20], %k: float32[2, 20]) {
  const %w: float32[20]
  const %s: float32[] = 2.0
  const %terms: string[2] = ["a", "b"]
  %y: float32[2, 20] = Mul(%x, %w) @ "fc" "model.py:1"
  %a: float32[2, 20] = Add(%y, %s)
  %b: float32[2, 20] = Add(%y, %s)
  %f: float32[2, 20] = test::F(%a, %terms, %k) {alpha = 1.0, axes = [1, 2], mode = "x", value = int8[1] [1]}
  %i: float32[2, 20] = If(%f) {then_branch = graph "t"() { const %c: int8[1] = [3] return c = %c }}
  return one = %i, two = %b
}
"""
DATA = np.arange(20, dtype=np.float32)


def _hash(text: str = TEXT, data: np.ndarray = DATA) -> str:
    return structural_hash(parse_graph(text, dict.fromkeys(("w", "weight"), data)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Mul(", "Div("),
        ("test::F", "F"),
        ("Mul(%x, %w)", "Mul(%k, %w)"),
        ("Mul(%x, %w)", "Mul(%w, %x)"),
        ("Mul(%x, %w)", "Mul(%x, none)"),
        ("Mul(%x, %w)", "Mul(%x)"),
        ("test::F(%a", "test::F(%b"),
        ("alpha = 1.0", "alpha = 1"),
        ("alpha = 1.0", "alpha = 1.5"),
        ("alpha = 1.0", "beta = 1.0"),
        ("alpha = 1.0, ", ""),
        ("axes = [1, 2]", "axes = [2, 1]"),
        ('mode = "x"', 'mode = "y"'),
        ("int8[1] [1]", "int8[1] [2]"),
        ("int8[1] [1]", "uint8[1] [1]"),
        ("[3]", "[4]"),
        ("= 2.0", "= 2.0000002"),
        ('["a", "b"]', '["ab", ""]'),
        ("%k: float32[2, 20]", "%k: float32[batch, 20]"),
        ("float32[2, 20] = Mul", "float16[2, 20] = Mul"),
        ("%k", "%input"),
        ("one =", "first ="),
        ("one = %i, two = %b", "one = %b, two = %i"),
        ("one = %i, two = %b", "two = %b, one = %i"),
        ("one = %i, two = %b", "one = %i"),
    ],
)
def test_each_edit_of_the_meaning_changes_it(old: str, new: str) -> None:
    text = TEXT.replace(old, new)
    assert text != TEXT
    assert _hash(text) != _hash()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("%y", "%product"),
        ("%w", "%weight"),
        ("%s", "%scale"),
        ('"g"', '"h"'),
        ("model.py:1", "model.py:2"),
        ("fc", ""),
    ],
)
def test_names_and_places_do_not_count(old: str, new: str) -> None:
    text = TEXT.replace(old, new)
    assert text != TEXT
    assert _hash(text) == _hash()


def test_the_order_of_constants_does_not_count() -> None:
    lines = TEXT.splitlines()
    lines[1:4] = lines[3:0:-1]
    assert _hash("\n".join(lines)) == _hash()


def test_a_constant_that_nobody_reads_does_not_count() -> None:
    graph = parse_graph(TEXT, {"w": DATA})
    graph.add_constant(np.zeros(3))
    assert structural_hash(graph) == _hash()


def test_one_bit_of_a_weight_counts() -> None:
    changed = DATA.copy()
    changed.view(np.uint32)[7] ^= 1
    assert _hash(data=changed) != _hash()


def test_sharing_a_node_is_not_computing_it_twice() -> None:
    assert _hash(TEXT.replace("two = %b", "two = %a")) != _hash()


def test_the_layout_of_an_array_in_memory_does_not_count() -> None:
    data = np.arange(5 << 20, dtype=np.float32).reshape(1 << 10, -1)

    def hashed(array: np.ndarray) -> str:
        graph = Graph()
        graph.outputs["y"] = graph.add_constant(array)
        return structural_hash(graph)

    assert hashed(np.asfortranarray(data)) == hashed(data)
    assert hashed(data.T) != hashed(data)


def test_it_is_the_same_in_every_process() -> None:
    graph = parse_graph('graph "g"(%x: float32[2]) { %y: float32[2] = Relu(%x) return y = %y }')
    next(graph.nodes).location = Location("anywhere")
    assert structural_hash(graph) == "d613cc37008c85f536c27c883b64add6cce304e477591690305128e0a5d4f502"
