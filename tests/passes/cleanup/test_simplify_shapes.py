"""Shape arithmetic that the types already tell becomes constant; what depends on data is left alone."""

import numpy as np
import pytest

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.infer import infer
from planish.ir.types import DType, TensorType
from planish.passes.pipeline import parse_pipeline


def test_a_known_dimension_is_a_constant(becomes) -> None:
    before = """(%x: float32[batch, 6]) {
      const %one: int64[1] = [1]
      %shape: int64[2] = Shape(%x)
      %dim: int64[1] = Gather(%shape, %one)
      %y: int64[1] = Mul(%dim, %dim)
      return y = %y
    }"""
    after = """(%x: float32[batch, 6]) {
      const %one: int64[1] = [1]
      const %dim_1: int64[1] = [6]
      const %y_1: int64[1] = [36]
      %shape: int64[2] = Shape(%x)
      %dim: int64[1] = Gather(%shape, %one)
      %y: int64[1] = Mul(%dim_1, %dim_1)
      return y = %y_1
    }"""
    becomes("simplify-shapes", before, after)


def test_the_exporters_way_of_flattening_becomes_a_constant_target(becomes) -> None:
    before = """(%x: float32[batch, 4, 2, 3]) {
      const %i: int64[1] = [0]
      const %rest: int64[2] = [4, -1]
      %shape: int64[4] = Shape(%x)
      %batch: int64[1] = Gather(%shape, %i)
      %target: int64[3] = Concat(%batch, %rest) {axis = 0}
      %y: float32[batch, 4, 6] = Reshape(%x, %target)
      return y = %y
    }"""
    after = """(%x: float32[batch, 4, 2, 3]) {
      const %i: int64[1] = [0]
      const %rest: int64[2] = [4, -1]
      const %target_1: int64[3] = [0, 4, 6]
      %shape: int64[4] = Shape(%x)
      %batch: int64[1] = Gather(%shape, %i)
      %target: int64[3] = Concat(%batch, %rest) {axis = 0}
      %y: float32[batch, 4, 6] = Reshape(%x, %target_1)
      return y = %y
    }"""
    assert becomes("simplify-shapes", before, after).counts == {"constant": 0, "reshape": 1}


SPLIT_HEADS = """(%x: float32[batch, length, 12]) {{
  const %first: int64[1] = [0]
  const %second: int64[1] = [1]
  const %rest: int64[2] = [3, 4]
  {constant}
  %shape: int64[3] = Shape(%x)
  %a: int64[1] = Gather(%shape, %first)
  %b: int64[1] = Gather(%shape, %second)
  %target: int64[4] = Concat(%a, %b, %rest) {{axis = 0}}
  %y: float32[batch, length, 3, 4] = Reshape(%x, %{target})
  return y = %y
}}"""


def test_symbolic_dimensions_in_place_are_copied(becomes) -> None:
    before = SPLIT_HEADS.format(constant="", target="target")
    after = SPLIT_HEADS.format(constant="const %target_1: int64[4] = [0, 0, 3, 4]", target="target_1")
    becomes("simplify-shapes", before, after)


def test_a_symbolic_product_is_the_rest(becomes) -> None:
    text = """(%x: float32[batch, length, 4]) {{
      const %first: int64[1] = [0]
      const %second: int64[1] = [1]
      const %four: int64[1] = [4]
      {constant}
      %shape: int64[3] = Shape(%x)
      %a: int64[1] = Gather(%shape, %first)
      %b: int64[1] = Gather(%shape, %second)
      %rows: int64[1] = Mul(%a, %b)
      %target: int64[2] = Concat(%rows, %four) {{axis = 0}}
      %y: float32[batch * length, 4] = Reshape(%x, %{target})
      return y = %y
    }}"""
    after = text.format(constant="const %target_1: int64[2] = [-1, 4]", target="target_1")
    becomes("simplify-shapes", text.format(constant="", target="target"), after)


def test_two_symbols_out_of_place_stay_computed(stays) -> None:
    """Neither 0 nor one -1 says `length, batch`."""
    stays(
        "simplify-shapes",
        """(%x: float32[batch, length, 4]) {
          const %swapped: int64[2] = [1, 0]
          const %four: int64[1] = [4]
          %shape: int64[3] = Shape(%x)
          %dims: int64[2] = Gather(%shape, %swapped)
          %target: int64[3] = Concat(%dims, %four) {axis = 0}
          %y: float32[length, batch, 4] = Reshape(%x, %target)
          return y = %y
        }""",
    )


def test_allowzero_gives_zero_another_meaning(stays) -> None:
    stays(
        "simplify-shapes",
        """(%x: float32[batch, 4]) {
          const %rest: int64[2] = [2, 2]
          %batch: int64[1] = Shape(%x) {end = 1}
          %target: int64[3] = Concat(%batch, %rest) {axis = 0}
          %y: float32[batch, 2, 2] = Reshape(%x, %target) {allowzero = 1}
          return y = %y
        }""",
    )


@pytest.mark.parametrize(
    "body",
    [
        "%y: int64[2] = Add(%data, %data)",  # computed from data
        "%y: int64[1] = Shape(%x) {start = 0, end = 1}",  # symbolic
        "%y: int64[2] = Shape(%m)",  # partly symbolic
        "%c: int32[2] = Cast(%m_shape) {to = 6} %y: int32[2] = Neg(%c)",  # no shape is 32 bits wide
    ],
)
def test_what_the_types_do_not_tell(stays, body: str) -> None:
    inputs = "%x: float32[batch, 6], %m: float32[batch, 6], %data: int64[2], %m_shape: int64[2]"
    stays("simplify-shapes", f"({inputs}) {{ {body} return y = %y }}")


def test_a_target_from_data_stays(graph_of, context) -> None:
    """A reshape whose sizes come in as an input; their names are inference's business."""
    text = "(%x: float32[6], %target: int64[2]) {{ %y: {} = Reshape(%x, %target) return y = %y }}"
    from planish.ir.text import parse_graph

    (node,) = parse_graph('graph "g"' + text.format("float32[a, b]")).nodes
    (type,) = infer(node.operator, node.inputs, node.attributes)
    graph = graph_of(text.format(type))
    (step,) = parse_pipeline("simplify-shapes")
    assert not step.run(graph, context(graph)).changed
    (node,) = graph.nodes
    assert node.input(1) is graph.inputs[1]


def test_cleanup_leaves_one_reshape_of_the_exporters_chain(graph_of, context) -> None:
    """The preset needs no second run: what one pass uncovers, a later one takes."""
    graph = graph_of("""(%x: float32[batch, 4, 6]) {
      const %zero: int64[] = 0
      const %two: int64[] = 2
      const %axes: int64[1] = [0]
      const %half: int64[1] = [2]
      %shape: int64[3] = Shape(%x)
      %batch: int64[] = Gather(%shape, %zero)
      %a: int64[1] = Unsqueeze(%batch, %axes)
      %width: int64[] = Gather(%shape, %two)
      %b: int64[1] = Unsqueeze(%width, %axes)
      %c: int64[1] = Div(%b, %half)
      %target: int64[4] = Concat(%a, %axes, %c, %half) {axis = 0}
      %y: float32[batch, 4, 3, 2] = Reshape(%x, %target)
      return y = %y
    }""")
    for step in parse_pipeline("cleanup"):
        step.run(graph, context(graph))
    (node,) = graph.nodes
    target = node.constant(1)
    assert target is not None
    assert target.tolist() == [0, 4, 3, 2]
    assert len(graph.constants) == 1
    for step in parse_pipeline("cleanup"):
        assert not step.run(graph, context(graph)).changed, step.name


def test_a_size_that_only_data_told_is_known_where_the_row_is(context) -> None:
    """The types of what reads the row say so too: a backend may have nothing else to go by."""
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, (2,)))
    op = Builder(graph)
    size = op.CumSum(op.constant(np.array([5])), op.constant(np.array(0)))  # whose elements no type tells
    graph.outputs["y"] = op.Pad(x, op.Concat(op.constant(np.array([0])), op.Sub(size, op.Shape(x)), axis=0))
    assert isinstance(graph.outputs["y"].shape[0], str)
    for step in parse_pipeline("fold-constants,simplify-shapes"):
        step.run(graph, context(graph))
    assert graph.outputs["y"].shape == (5,)
