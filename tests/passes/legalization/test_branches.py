import numpy as np
import pytest

from planish.backends.legal import legalized
from planish.ir.errors import TargetError
from planish.ir.interpreter import Interpreter
from planish.ir.text import parse_graph
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64")

DISTANCES = """
    const %axes: int64[1] = [{axis}]
    %shifted: float32[rows, 4] = Sub(%held, %row)
    %scaled: float32[rows, 4] = Mul(%weights, %shifted)
    %size: float32[] = ReduceMax(%row) {{keepdims = 0}}
    %squares: float32[rows] = ReduceSumSquare(%scaled, %axes) {{keepdims = 0}}
    %y: float32[rows] = Add(%squares, %size)
    return next = %held, y = %y"""

SUMS = """
    %y: float32[rows, 4] = Add(%held, %row)
    return next = %y, y = %y"""


def scan(body: str, result: str) -> str:
    """A graph that scans 300 rows, with others as its state."""
    return f"""graph "g"(%x: float32[rows, 4], %all: float32[300, 4], %weights: float32[1, 4]) {{
  %last: float32[rows, 4], %found: float32[300, {result}] = Scan(%x, %all) {{body =
    graph "body"(%held: float32[rows, 4], %row: float32[4]) {{{body}
  }}, num_scan_inputs = 1}} @ "layer"
  return last = %last, found = %found
}}
"""


@pytest.mark.parametrize("axis", [1, -1])
def test_steps_that_know_nothing_of_each_other_are_computed_at_once(axis: int) -> None:
    """Distances of each two rows, as nearest neighbours have them, are broadcast over what all steps share."""
    graph = parse_graph(scan(DISTANCES.format(axis=axis), "rows"))
    legal = legalized(graph, TARGET, "tvm")
    assert len(list(legal.nodes)) < 10
    shapes = {"x": (5, 4), "all": (300, 4), "weights": (1, 4)}
    feeds = {name: RNG.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    found, expected = Interpreter(legal).run(feeds), Interpreter(graph).run(feeds)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_many_steps_of_which_each_needs_the_one_before_are_refused() -> None:
    with pytest.raises(TargetError, match="layer: tvm can't run Scan: it runs 300 times"):
        legalized(parse_graph(scan(SUMS, "rows, 4")), TARGET, "tvm")
