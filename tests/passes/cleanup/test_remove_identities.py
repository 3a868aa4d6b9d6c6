"""What changes nothing goes; what looks like it, but broadcasts, converts or reorders, stays."""

import numpy as np
import pytest

from planish.ir.equal import differences
from planish.ir.types import DType, TensorType
from planish.ir.unknown import size_of_element
from planish.passes.base import PassContext
from planish.passes.cleanup.remove_identities import IdentityRemoval
from planish.targets.load import load_target

BARE = """(%x: float32[2, 3]) {
  %y: float32[2, 3] = Relu(%x)
  return y = %y
}"""


@pytest.mark.parametrize(
    ("constant", "call"),
    [
        ("const %c: float32[] = 0.0", "Add(%x, %c)"),
        ("const %c: float32[] = 0.0", "Add(%c, %x)"),
        ("const %c: float32[3] = [0.0, -0.0, 0.0]", "Add(%x, %c)"),
        ("const %c: float32[1, 1] = [0.0]", "Sub(%x, %c)"),
        ("const %c: float32[2, 1] = [1.0, 1.0]", "Mul(%c, %x)"),
        ("const %c: float32[] = 1.0", "Mul(%x, %c)"),
        ("const %c: float32[] = 1.0", "Div(%x, %c)"),
        ("const %c: float32[] = 1.0", "Pow(%x, %c)"),
        ("const %c: int64[4] = [0, 0, 0, 0]", 'Pad(%x, %c) {mode = "reflect"}'),
        ("const %c: int64[2] = [2, 3]", "Reshape(%x, %c)"),
        ("const %c: int64[2] = [1, 3]", "Expand(%x, %c)"),
        ("const %c: int64[2] = [1, 1]", "Tile(%x, %c)"),
        ("const %c: bool[] = false", "Dropout(%x, none, %c)"),
        ("const %c: bool[2, 1] = [true, true]\nconst %d: float32[] = 2.0", "Where(%c, %x, %d)"),
        ("const %c: bool[] = false\nconst %d: float32[3] = [1, 2, 3]", "Where(%c, %d, %x)"),
    ],
)
def test_operand_that_changes_nothing(becomes, constant: str, call: str) -> None:
    before = f"""(%x: float32[2, 3]) {{
      {constant}
      %z: float32[2, 3] = {call}
      %y: float32[2, 3] = Relu(%z)
      return y = %y
    }}"""
    after = BARE.replace(") {", f") {{\n {constant}")
    result = becomes("remove-identities", before, after)
    assert result.counts == {call.partition("(")[0]: 1}


@pytest.mark.parametrize("call", ["And(%x, %c)", "And(%c, %x)", "Or(%x, %d)"])
def test_truth_that_changes_nothing(becomes, call: str) -> None:
    before = f"""(%x: bool[2, 3]) {{
      const %c: bool[3] = [true, true, true]
      const %d: bool[] = false
      %z: bool[2, 3] = {call}
      %y: bool[2, 3] = Not(%z)
      return y = %y
    }}"""
    after = before.replace(f"%z: bool[2, 3] = {call}", "").replace("Not(%z)", "Not(%x)")
    assert becomes("remove-identities", before, after).counts == {call.partition("(")[0]: 1}


@pytest.mark.parametrize(
    "call", ["Where(%mixed, %x, %c)", "Where(%true, %c, %x)", "Where(%wide, %x, %c)"],
    ids=["both are chosen", "what is chosen is broadcast", "the condition broadcasts"],
)  # fmt: skip
def test_choices_that_stay(stays, call: str) -> None:
    shape = "2, 2, 3" if "wide" in call else "2, 3"
    stays(
        "remove-identities",
        f"""(%x: float32[2, 3]) {{
      const %c: float32[3] = [1, 2, 3]
      const %mixed: bool[3] = [true, true, false]
      const %true: bool[] = true
      const %wide: bool[2, 1, 1] = [true, true]
      %y: float32[{shape}] = {call}
      return y = %y
    }}""",
    )


@pytest.mark.parametrize(
    "call",
    [
        "Identity(%x)",
        "Dropout(%x)",
        "Cast(%x) {to = 1}",
        "Concat(%x) {axis = 1}",
        "Max(%x)",
        "Min(%x)",
        "Sum(%x)",
        "Mean(%x)",
        "Transpose(%x) {perm = [0, 1]}",
    ],
)
def test_operator_that_changes_nothing(becomes, call: str) -> None:
    before = BARE.replace("%y: float32[2, 3] = Relu(%x)", f"%z: float32[2, 3] = {call} %y: float32[2, 3] = Relu(%z)")
    becomes("remove-identities", before, BARE)


@pytest.mark.parametrize(
    ("bounds", "call"),
    [
        ("const %a: int64[1] = [0] const %b: int64[1] = [9223372036854775807]", "Slice(%x, %a, %b)"),
        ("const %a: int64[2] = [0, -3] const %b: int64[2] = [2, 3] const %s: int64[2] = [1, 1]",
         "Slice(%x, %a, %b, none, %s)"),
    ],
)  # fmt: skip
def test_a_slice_of_everything(becomes, bounds: str, call: str) -> None:
    before = f"(%x: float32[2, 3]) {{ {bounds} %z: float32[2, 3] = {call} %y: float32[2, 3] = Relu(%z) return y = %y }}"
    after = f"(%x: float32[2, 3]) {{ {bounds} %y: float32[2, 3] = Relu(%x) return y = %y }}"
    becomes("remove-identities", before, after)


@pytest.mark.parametrize(
    "body",
    [
        # the constant broadcasts
        "const %c: float32[2, 2, 3] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] %y: float32[2, 2, 3] = Add(%x, %c)",
        "const %c: float32[1, 1, 1] = [0.0] %y: float32[1, 2, 3] = Add(%x, %c)",
        "const %c: float32[1, 1, 1] = [1.0] %y: float32[1, 2, 3] = Mul(%c, %x)",
        # the neutral element is on the wrong side, or not everywhere, or that of another operator
        "const %c: float32[] = 0.0 %y: float32[2, 3] = Sub(%c, %x)",
        "const %c: float32[] = 1.0 %y: float32[2, 3] = Div(%c, %x)",
        "const %c: float32[] = 1.0 %y: float32[2, 3] = Pow(%c, %x)",
        "const %c: float32[3] = [0.0, 0.0, 1e-30] %y: float32[2, 3] = Add(%x, %c)",
        "const %c: float32[] = 1.0 %y: float32[2, 3] = Add(%x, %c)",
        "const %c: float32[] = 0.0 %y: float32[2, 3] = Mul(%x, %c)",
        # the type changes
        "%y: float64[2, 3] = Cast(%x) {to = 11}",
        "const %c: int64[2] = [3, 2] %y: float32[3, 2] = Reshape(%x, %c)",
        "const %c: int64[3] = [2, 2, 3] %y: float32[2, 2, 3] = Expand(%x, %c)",
        "const %c: int64[2] = [1, 2] %y: float32[2, 6] = Tile(%x, %c)",
        # elements move
        "%y: float32[3, 2] = Transpose(%x)",
        (
            "const %a: int64[1] = [-1] const %b: int64[1] = [-9] const %c: int64[1] = [0] const %s: int64[1] = [-1]"
            " %y: float32[2, 3] = Slice(%x, %a, %b, %c, %s)"
        ),
        "const %c: int64[4] = [0, 0, 0, 1] %y: float32[2, 4] = Pad(%x, %c)",
        "const %c: int64[4] = [1, 0, -1, 0] %y: float32[2, 3] = Pad(%x, %c)",
    ],
)
def test_what_only_looks_like_an_identity(stays, body: str) -> None:
    stays("remove-identities", f"(%x: float32[2, 3]) {{ {body} return y = %y }}")


def test_a_transpose_of_a_square_is_no_identity(stays) -> None:
    stays("remove-identities", "(%x: float32[3, 3]) { %y: float32[3, 3] = Transpose(%x) return y = %y }")


def test_the_same_symbols_are_the_same_shape(becomes) -> None:
    before = """(%x: float32[batch, 4]) {
      const %zero: float32[1, 4] = [0.0, 0.0, 0.0, 0.0]
      const %shape: int64[2] = [-1, 4]
      %a: float32[batch, 4] = Add(%x, %zero)
      %b: float32[batch, 4] = Reshape(%a, %shape)
      %y: float32[batch, 4] = Relu(%b)
      return y = %y
    }"""
    after = """(%x: float32[batch, 4]) {
      const %zero: float32[1, 4] = [0.0, 0.0, 0.0, 0.0]
      const %shape: int64[2] = [-1, 4]
      %y: float32[batch, 4] = Relu(%x)
      return y = %y
    }"""
    becomes("remove-identities", before, after)


def test_transposes_cancel(becomes) -> None:
    before = """(%x: float32[2, 3, 4]) {
      %a: float32[4, 2, 3] = Transpose(%x) {perm = [2, 0, 1]}
      %b: float32[2, 3, 4] = Transpose(%a) {perm = [1, 2, 0]}
      %y: float32[2, 3, 4] = Relu(%b)
      return y = %y
    }"""
    after = """(%x: float32[2, 3, 4]) {
      %a: float32[4, 2, 3] = Transpose(%x) {perm = [2, 0, 1]}
      %y: float32[2, 3, 4] = Relu(%x)
      return y = %y
    }"""
    becomes("remove-identities", before, after)


def test_transposes_are_composed(becomes) -> None:
    before = """(%x: float32[2, 3, 4]) {
      %a: float32[4, 3, 2] = Transpose(%x) @ "first"
      %b: float32[3, 2, 4] = Transpose(%a) {perm = [1, 2, 0]} @ "second"
      %c: float32[4, 3, 2] = Transpose(%b) {perm = [2, 0, 1]} @ "third"
      %d: float32[3, 4, 2] = Transpose(%c) {perm = [1, 0, 2]} @ "fourth"
      return c = %c, d = %d
    }"""
    after = """(%x: float32[2, 3, 4]) {
      %a: float32[4, 3, 2] = Transpose(%x) @ "first"
      %transpose: float32[3, 2, 4] = Transpose(%x) {perm = [1, 0, 2]} @ "second"
      %transpose_1: float32[4, 3, 2] = Transpose(%x) {perm = [2, 1, 0]} @ "third"
      %transpose_2: float32[3, 4, 2] = Transpose(%x) {perm = [1, 2, 0]} @ "fourth"
      return c = %transpose_1, d = %transpose_2
    }"""
    becomes("remove-identities", before, after)


def test_an_identity_between_input_and_output_leaves_the_names_of_both(becomes) -> None:
    before = "(%x: float32[2]) { %a: float32[2] = Identity(%x) return y = %a, z = %x }"
    becomes("remove-identities", before, "(%x: float32[2]) { return y = %x, z = %x }")


def test_an_identity_that_names_a_size_of_data_stays(graph_of, context) -> None:
    """Later nodes speak of the size by the name that it brings."""
    graph = graph_of("(%x: float32[n]) { %a: float32[n] = Identity(%x) return y = %a }")
    (node,) = graph.nodes
    node.output.type = TensorType(DType.float32, (size_of_element(node.output, 0),))
    assert not IdentityRemoval().run(graph, context(graph)).changed


def test_dropout_stays_where_it_drops(graph_of, context) -> None:
    """While training it is random, so `stays`, which compares numbers, is of no use."""
    text = "(%x: float32[2]) { const %t: bool[] = true %a: float32[2] = Dropout(%x, none, %t) return y = %a }"
    graph = graph_of(text)
    assert not IdentityRemoval().run(graph, context(graph)).changed
    assert len(graph) == 1


@pytest.mark.parametrize("rest", ["return y = %a, m = %mask", "%n: bool[2] = Not(%mask) return y = %a, m = %n"])
def test_dropout_stays_where_its_mask_is_read(stays, rest: str) -> None:
    stays("remove-identities", f"(%x: float32[2]) {{ %a: float32[2], %mask: bool[2] = Dropout(%x) {rest} }}")


def test_what_may_change_the_shape_of_an_unknown_rank_stays(graph_of) -> None:
    graph = graph_of("""(%x: float32[...], %axes: int64[1], %vector: float32[6], %shape: int64[n]) {
      const %zeros: float32[2, 1] = [0.0, 0.0]
      const %zero: float32[] = 0.0
      const %sizes: int64[2] = [2, 3]
      %a: float32[...] = Unsqueeze(%x, %axes)
      %b: float32[...] = Squeeze(%a, %axes)
      %c: float32[...] = Add(%b, %zeros)
      %d: float32[...] = Add(%c, %zero)
      %e: float32[...] = Transpose(%d)
      %f: float32[...] = Transpose(%e)
      %g: float32[...] = Cast(%f) {to = 1}
      %h: float32[...] = Reshape(%vector, %shape)
      %i: float32[...] = Transpose(%h)
      %j: float32[2, 3] = Reshape(%i, %sizes)
      return y = %g, z = %j
    }""")
    result = IdentityRemoval().run(graph, PassContext(load_target("x86-64"), source=graph))
    assert result.counts == {"Add": 1, "Cast": 1}


RESHAPED = """(%x: float32[2, 3, 4]) {{
  const %a: int64[2] = [6, 4]
  const %b: int64[{rank}] = [{sizes}]
  %m: float32[6, 4] = Reshape(%x, %a)
  %y: float32[{sizes}] = {call}
  return y = %y
}}"""


def test_a_reshape_of_a_reshape_is_one(becomes) -> None:
    before = RESHAPED.format(rank=2, sizes="3, 8", call="Reshape(%m, %b)")
    after = """(%x: float32[2, 3, 4]) {
      const %a: int64[2] = [6, 4]
      const %b: int64[2] = [3, 8]
      const %constant: int64[2] = [3, 8]
      %m: float32[6, 4] = Reshape(%x, %a)
      %reshape: float32[3, 8] = Reshape(%x, %constant)
      return y = %reshape
    }"""
    becomes("remove-identities", before, after)


def test_a_reshape_that_undoes_another_goes(becomes) -> None:
    before = RESHAPED.format(rank=3, sizes="2, 3, 4", call="Reshape(%m, %b)").replace(
        "return y = %y", "%z: float32[2, 3, 4] = Relu(%y) return z = %z"
    )
    after = """(%x: float32[2, 3, 4]) {
      const %a: int64[2] = [6, 4]
      const %b: int64[3] = [2, 3, 4]
      %m: float32[6, 4] = Reshape(%x, %a)
      %z: float32[2, 3, 4] = Relu(%x)
      return z = %z
    }"""
    becomes("remove-identities", before, after)


def test_axes_merged_transposed_and_taken_apart_are_transposed(becomes) -> None:
    before = """(%x: float32[batch, 2, 3, 4]) {
      const %a: int64[3] = [-1, 6, 4]
      const %b: int64[4] = [-1, 4, 2, 3]
      %m: float32[batch, 6, 4] = Reshape(%x, %a)
      %t: float32[batch, 4, 6] = Transpose(%m) {perm = [0, 2, 1]}
      %y: float32[batch, 4, 2, 3] = Reshape(%t, %b)
      return y = %y
    }"""
    after = """(%x: float32[batch, 2, 3, 4]) {
      const %a: int64[3] = [-1, 6, 4]
      const %b: int64[4] = [-1, 4, 2, 3]
      %m: float32[batch, 6, 4] = Reshape(%x, %a)
      %t: float32[batch, 4, 6] = Transpose(%m) {perm = [0, 2, 1]}
      %transpose: float32[batch, 4, 2, 3] = Transpose(%x) {perm = [0, 3, 1, 2]}
      return y = %transpose
    }"""
    becomes("remove-identities", before, after)


def test_axes_taken_apart_in_another_way_are_so_before_they_are_transposed(becomes) -> None:
    text = """(%x: float32[2, 3, 4]) {{
      const %a: int64[2] = [6, 4]
      const %b: int64[4] = [4, 1, 3, 2]{}
      %m: float32[6, 4] = Reshape(%x, %a)
      %t: float32[4, 6] = Transpose(%m) {{perm = [1, 0]}}
      {}
    }}"""
    before = text.format("", "%y: float32[4, 1, 3, 2] = Reshape(%t, %b) return y = %y")
    after = text.format(
        "const %constant: int64[4] = [1, 3, 2, 4]",
        """%reshape: float32[1, 3, 2, 4] = Reshape(%x, %constant)
        %transpose: float32[4, 1, 3, 2] = Transpose(%reshape) {perm = [3, 0, 1, 2]}
        return y = %transpose""",
    )
    becomes("remove-identities", before, after)


def test_axes_that_are_merged_before_a_transpose_are_so_after_it(becomes) -> None:
    before = """(%x: float32[1, 2, 3, width]) {
      const %first: int64[1] = [0]
      const %flat: int64[2] = [-1, 2]
      %m: float32[2, 3, width] = Squeeze(%x, %first)
      %t: float32[3, width, 2] = Transpose(%m) {perm = [1, 2, 0]}
      %y: float32[3 * width, 2] = Reshape(%t, %flat)
      return y = %y
    }"""
    after = """(%x: float32[1, 2, 3, width]) {
      const %first: int64[1] = [0]
      const %flat: int64[2] = [-1, 2]
      const %constant: int64[2] = [-1, 2]
      %m: float32[2, 3, width] = Squeeze(%x, %first)
      %t: float32[3, width, 2] = Transpose(%m) {perm = [1, 2, 0]}
      %transpose: float32[3, width, 1, 2] = Transpose(%x) {perm = [2, 3, 0, 1]}
      %reshape: float32[3 * width, 2] = Reshape(%transpose, %constant)
      return y = %reshape
    }"""
    becomes("remove-identities", before, after)


@pytest.mark.parametrize("sizes", ["3, 8", "4, 6", "24"])
def test_axes_across_which_is_reshaped_before_and_after_stay(stays, sizes: str) -> None:
    stays(
        "remove-identities",
        f"""(%x: float32[2, 3, 4]) {{
          const %a: int64[2] = [4, 6]
          const %b: int64[{sizes.count(",") + 1}] = [{sizes}]
          %m: float32[4, 6] = Reshape(%x, %a)
          %t: float32[6, 4] = Transpose(%m) {{perm = [1, 0]}}
          %y: float32[{sizes}] = Reshape(%t, %b)
          return y = %y
        }}""",
    )


def test_one_place_of_a_transposed_axis_is_taken_before(becomes) -> None:
    text = """(%x: float32[2, 3, 4]) {{
      const %i: int64[] = 1
      %t: float32[3, 2, 4] = Transpose(%x) {{perm = [1, 0, 2]}}
      {} %z: float32[2, 4] = Relu(%y)
      return z = %z
    }}"""
    before = text.format("%y: float32[2, 4] = Gather(%t, %i) {axis = 0}")
    after = text.format("%gather: float32[2, 4] = Gather(%x, %i) {axis = 1}").replace("(%y)", "(%gather)")
    becomes("remove-identities", before, after)


@pytest.mark.parametrize(
    "gather",
    [
        "const %i: int64[] = 1 %y: float32[3, 2] = Gather(%t, %i) {axis = 2}",
        "const %i: int64[1] = [1] %y: float32[3, 2, 1] = Gather(%t, %i) {axis = 2}",
    ],
)
def test_places_of_an_axis_stay_where_others_are_transposed(stays, gather: str) -> None:
    transposed = "%t: float32[3, 2, 4] = Transpose(%x) {perm = [1, 0, 2]}"
    stays("remove-identities", f"(%x: float32[2, 3, 4]) {{ {transposed} {gather} return y = %y }}")


def test_a_cast_to_the_type_that_is_there_goes(becomes) -> None:
    before = (
        "(%x: float32[2], %like: float32[]) { %c: float32[2] = CastLike(%x, %like) %y: float32[2] = Relu(%c) "
        "return y = %y }"
    )
    becomes(
        "remove-identities", before, "(%x: float32[2], %like: float32[]) { %y: float32[2] = Relu(%x) return y = %y }"
    )


def test_a_reshape_that_is_not_rewritten_after_all_leaves_nothing_behind(graph_of, context) -> None:
    """Data tell the size in the middle, so inference finds another expression for one reshape than for two."""
    graph = graph_of(
        """(%x: float32[2, 2], %to: int64[2]) {
          const %flat: int64[1] = [-1]
          %y: float32[reshape_to__5f582015ac_0, reshape_to__5f582015ac_1] = Reshape(%x, %to)
          %z: float32[reshape_to__5f582015ac_0 * reshape_to__5f582015ac_1] = Reshape(%y, %flat)
          return z = %z
        }"""
    )
    source = graph.clone()
    assert not IdentityRemoval().apply(graph, context(source)).changed
    assert differences(source, graph) == []


@pytest.mark.parametrize(
    ("type", "before", "after"),
    [
        # a transpose under which the elements keep their places is one of the reshapes in the row
        ("float32[2, 3]",
         ("const %s: int64[4] = [2, 3, 1, 1] const %t: int64[2] = [3, 2] %a: float32[2, 3, 1, 1] = Reshape(%x, %s) "
          "%b: float32[2, 1, 1, 3] = Transpose(%a) {perm = [0, 2, 3, 1]} "
          "%z: float32[3, 2] = Reshape(%b, %t) return z = %z"),
         ("const %constant_1: int64[2] = [3, 2] "
          "%reshape_1: float32[3, 2] = Reshape(%x, %constant_1) return z = %reshape_1")),
        ("float32[2, 3]",
         ("const %s: int64[3] = [2, 1, 3] %a: float32[2, 1, 3] = Reshape(%x, %s) "
          "%z: float32[1, 2, 3] = Transpose(%a) {perm = [1, 0, 2]} return z = %z"),
         ("const %constant: int64[3] = [1, 2, 3] %reshape: float32[1, 2, 3] = Reshape(%x, %constant) "
          "return z = %reshape")),
        # all places of an axis in their order: torch's as_strided
        ("float32[6]",
         "const %i: int64[2, 3] = [0, 1, 2, 3, 4, 5] %z: float32[2, 3] = Gather(%x, %i) return z = %z",
         "const %constant: int64[2] = [2, 3] %reshape: float32[2, 3] = Reshape(%x, %constant) return z = %reshape"),
        ("float32[1, 6]",
         ("const %s: int64[1] = [-1] const %i: int64[1, 6] = [0, 1, 2, 3, 4, 5] %a: float32[6] = Reshape(%x, %s) "
          "%b: float32[1, 6] = Gather(%a, %i) %z: float32[1, 6] = Relu(%b) return z = %z"),
         "%z: float32[1, 6] = Relu(%x) return z = %z"),
        # an operand is expanded by its reader as well
        ("float32[2, 3]",
         ("const %s: int64[2] = [2, 3] const %zero: int64[1] = [0] "
          "%a: float32[3] = ReduceMax(%x, %zero) {keepdims = 0} "
          "%b: float32[2, 3] = Expand(%a, %s) %z: float32[2, 3] = Div(%x, %b) return z = %z"),
         ("const %zero: int64[1] = [0] %a: float32[3] = ReduceMax(%x, %zero) {keepdims = 0} "
          "%z: float32[2, 3] = Div(%x, %a) return z = %z")),
        # what is concatenated twice along an axis
        ("float32[2, 3]",
         ("%a: float32[4, 3] = Concat(%x, %x) {axis = 0} %b: float32[6, 3] = Concat(%a, %x) {axis = -2} "
          "%c: float32[4, 3] = Concat(%x, %x) {axis = 0} %z: float32[10, 3] = Concat(%b, %c) {axis = 0} return z = %z"),
         "%concat: float32[10, 3] = Concat(%x, %x, %x, %x, %x) {axis = 0} return z = %concat"),
    ],
)  # fmt: skip
def test_rows_that_do_as_much_as_one(becomes, type: str, before: str, after: str) -> None:
    becomes("group(remove-identities,dce)", f"(%x: {type}) {{ {before} }}", f"(%x: {type}) {{ {after} }}")


@pytest.mark.parametrize(
    "body",
    [
        # axes of more than one element change places
        (
            "const %s: int64[3] = [2, 3, 1] %a: float32[2, 3, 1] = Reshape(%x, %s) "
            "%z: float32[1, 3, 2] = Transpose(%a) {perm = [2, 1, 0]}"
        ),
        # not all places, or in another order
        "const %i: int64[1, 1] = [0] %z: float32[1, 1, 3] = Gather(%x, %i)",
        "const %i: int64[2] = [1, 0] %z: float32[2, 3] = Gather(%x, %i)",
        # nothing else has the size that comes out
        "const %s: int64[3] = [2, 1, 3] %a: float32[2, 2, 3] = Expand(%x, %s) %z: float32[2, 2, 3] = Add(%a, %x)",
        "const %s: int64[3] = [2, 1, 3] %a: float32[2, 2, 3] = Expand(%x, %s) %z: float32[2, 2, 3] = Mul(%a, %a)",
        (
            "const %s: int64[2] = [2, 3] const %zero: int64[1] = [0] "
            "%m: float32[3] = ReduceMax(%x, %zero) {keepdims = 0} "
            "%a: float32[2, 3] = Expand(%m, %s) %b: float32[2, 3] = Add(%x, %a) "
            "%z: float32[2, 6] = Concat(%a, %b) {axis = 1}"
        ),
        # other axes, or something else reads it
        "%a: float32[4, 3] = Concat(%x, %x) {axis = 0} %z: float32[4, 6] = Concat(%a, %a) {axis = 1}",
        "%a: float32[4, 3] = Concat(%x, %x) {axis = 0} %z: float32[8, 3] = Concat(%a, %a) {axis = 0}",
    ],
)
def test_rows_that_do_more_stay(stays, body: str) -> None:
    stays("remove-identities", f"(%x: float32[2, 3]) {{ {body} return z = %z }}")


def test_reshapes_that_hold_data_to_one_size_stay(context) -> None:
    from planish.ir.builder import Builder
    from planish.ir.graph import Graph
    from planish.ir.text import print_graph
    from planish.ir.types import DType, TensorType
    from planish.passes.cleanup.remove_identities import IdentityRemoval

    graph = Graph()
    op = Builder(graph)
    length = graph.add_input("n", TensorType(DType.float32, ()))
    tiled = op.Tile(op.Range(op.constant(np.float32(0)), length, op.constant(np.float32(1))), [100])
    graph.outputs["y"] = op.Reshape(op.Reshape(tiled, [20, 10, 5]), [1000])
    before = print_graph(graph)
    assert not IdentityRemoval().apply(graph, context(graph)).changed
    assert print_graph(graph) == before


def test_what_is_cast_like_another_value_is_cast_to_its_type(becomes) -> None:
    before = """(%x: int64[2], %like: float32[3]) {
      %c: float32[2] = CastLike(%x, %like)
      %y: float32[2] = Relu(%c)
      return y = %y
    }"""
    after = before.replace("CastLike(%x, %like)", "Cast(%x) {to = 1}").replace("%c", "%cast")
    becomes("remove-identities", before, after)
