"""What depends on constants alone is computed, unless it swells the model, is random, or is how a weight is kept."""

import numpy as np
import pytest

from planish.ir.errors import ModelError
from planish.ir.interpreter import Interpreter
from planish.ir.reinfer import reinfer
from planish.passes.cleanup.fold_constants import ConstantFolding


def test_a_chain_of_constants_folds_to_one(becomes) -> None:
    before = """(%x: float32[2, 2]) {
      const %w: float32[2, 2] = [1.0, 2.0, 3.0, 4.0]
      const %scale: float32[] = 2.0
      const %shared: float32[2] = [1.0, -1.0]
      %a: float32[2, 2] = Transpose(%w)
      %b: float32[2, 2] = Mul(%a, %scale)
      %c: float32[2, 2] = Add(%b, %shared)
      %d: float32[2, 2] = MatMul(%x, %c)
      %y: float32[2, 2] = Add(%d, %shared)
      return y = %y
    }"""
    after = """(%x: float32[2, 2]) {
      const %shared: float32[2] = [1.0, -1.0]
      const %w_1_1_1: float32[2, 2] = [3.0, 5.0, 5.0, 7.0]
      %d: float32[2, 2] = MatMul(%x, %w_1_1_1)
      %y: float32[2, 2] = Add(%d, %shared)
      return y = %y
    }"""
    assert becomes("fold-constants", before, after).counts == {"fold": 3}


def test_several_outputs_returned_and_read(becomes) -> None:
    before = """(%x: float32[2]) {
      const %w: float32[4] = [1.0, 2.0, 3.0, 4.0]
      %a: float32[2], %b: float32[2] = Split(%w) {num_outputs = 2}
      %y: float32[2] = Add(%x, %b)
      return y = %y, a = %a
    }"""
    after = """(%x: float32[2]) {
      const %w_1: float32[2] = [1.0, 2.0]
      const %w_2: float32[2] = [3.0, 4.0]
      %y: float32[2] = Add(%x, %w_2)
      return y = %y, a = %w_1
    }"""
    becomes("fold-constants", before, after)


def test_a_node_without_inputs(becomes) -> None:
    before = """(%x: int64[3]) {
      const %start: int64[] = 0
      const %stop: int64[] = 3
      const %step: int64[] = 1
      %r: int64[3] = Range(%start, %stop, %step)
      %y: int64[3] = Add(%x, %r)
      return y = %y
    }"""
    after = """(%x: int64[3]) {
      const %start_1: int64[3] = [0, 1, 2]
      %y: int64[3] = Add(%x, %start_1)
      return y = %y
    }"""
    becomes("fold-constants", before, after)


GROWING = """(%x: float32[8, 8]) {
  const %row: float32[8] = [1, 2, 3, 4, 5, 6, 7, 8]
  const %shape: int64[2] = [8, 8]
  %m: float32[8, 8] = Expand(%row, %shape) @ "encoder.mask"
  %y: float32[8, 8] = Add(%x, %m)
  return y = %y
}"""


def test_a_result_that_outgrows_the_limit_stays_computed_and_is_reported(stays) -> None:
    result = stays("fold-constants{limit=255}", GROWING)
    assert result.misses == ["encoder.mask: folding Expand would add 208 bytes"]


def test_a_result_at_the_limit_is_folded(graph_of, context) -> None:
    graph = graph_of(GROWING)
    result = ConstantFolding(limit=256).run(graph, context(graph))
    assert (result.counts, result.misses) == ({"fold": 1}, [])
    np.testing.assert_array_equal(graph.constants["row_1"].data, np.tile(np.arange(1, 9, dtype=np.float32), (8, 1)))


def test_results_beyond_the_limit_may_add_a_share_of_the_model(graph_of, context) -> None:
    text = """(%x: float32[8, 8]) {
      const %row: float32[8] = [1, 2, 3, 4, 5, 6, 7, 8]
      const %shape: int64[2] = [8, 8]
      const %w: float32[8, 102]
      %m: float32[8, 8] = Expand(%row, %shape)
      %n: float32[8, 8] = Exp(%m)
      %k: float32[8, 8] = Expand(%row, %shape) @ "second"
      %s: float32[8, 8] = Add(%x, %n)
      %t: float32[8, 8] = Add(%s, %k)
      %y: float32[8, 102] = MatMul(%t, %w)
      return y = %y
    }"""
    graph = graph_of(text, {"w": np.ones((8, 102), np.float32)})
    result = ConstantFolding(limit=1, share=0.1).run(graph, context(graph))
    assert result.counts == {"fold": 2}  # a tenth of the model is room for the first, and for what takes its place
    assert result.misses == ["second: folding Expand would add 208 bytes"]


def test_a_result_no_larger_than_its_operands_is_folded_at_any_limit(becomes) -> None:
    before = """(%x: float32[2, 3]) {
      const %w: float32[3, 2] = [1, 2, 3, 4, 5, 6]
      %t: float32[2, 3] = Transpose(%w)
      %y: float32[2, 3] = Add(%x, %t)
      return y = %y
    }"""
    after = """(%x: float32[2, 3]) {
      const %w_1: float32[2, 3] = [1, 3, 5, 2, 4, 6]
      %y: float32[2, 3] = Add(%x, %w_1)
      return y = %y
    }"""
    becomes("fold-constants{limit=1}", before, after)


def test_elements_are_as_large_as_they_are_packed(stays) -> None:
    packed = """(%x: int8[4]) {
      const %w: int4[4] = [1, 2, 3, 4]
      %wide: int8[4] = Cast(%w) {to = 3}
      %y: int8[4] = Add(%x, %wide)
      return y = %y
    }"""
    stays("fold-constants{limit=1}", packed)


def test_a_weight_in_four_bits_stays_as_it_is_stored(stays) -> None:
    stays(
        "fold-constants",
        """(%x: uint8[2, 2]) {
      const %w: int4[2, 2] = [1, -2, 3, 7]
      %wide: int8[2, 2] = Cast(%w) {to = 3}
      %y: int32[2, 2] = MatMulInteger(%x, %wide)
      return y = %y
    }""",
    )


def test_a_quantized_weight_stays_as_it_is_stored(becomes) -> None:
    before = """(%x: float32[2, 2]) {
      const %w: float32[2, 2] = [1.0, 0.5, -0.5, 2.0]
      const %scale: float32[] = 0.5
      const %zero: int8[] = 0
      %q: int8[2, 2] = QuantizeLinear(%w, %scale, %zero)
      %d: float32[2, 2] = DequantizeLinear(%q, %scale, %zero)
      %y: float32[2, 2] = MatMul(%x, %d)
      return y = %y
    }"""
    after = """(%x: float32[2, 2]) {
      const %scale: float32[] = 0.5
      const %zero: int8[] = 0
      const %w_1: int8[2, 2] = [2, 1, -1, 4]
      %d: float32[2, 2] = DequantizeLinear(%w_1, %scale, %zero)
      %y: float32[2, 2] = MatMul(%x, %d)
      return y = %y
    }"""
    becomes("fold-constants", before, after)


@pytest.mark.parametrize(
    "call",
    [
        "RandomNormalLike(%w)",
        "RandomUniformLike(%w)",
        "Bernoulli(%w)",
        "RandomNormal() {shape = [2]}",
        "RandomUniform() {shape = [2]}",
        "Dropout(%w, none, %training)",
    ],
)
def test_a_random_draw_is_made_anew_in_every_run(graph_of, context, call: str) -> None:
    constants = "const %w: float32[2] = [0.5, 0.5] const %training: bool[] = true"
    graph = graph_of(f"(%x: float32[2]) {{ {constants} %a: float32[2] = {call} return a = %a, x = %x }}")
    assert not ConstantFolding().run(graph, context(graph)).changed
    assert len(graph) == 1


def test_a_table_that_is_also_read_as_it_is_stays_tied(stays) -> None:
    tied = """(%x: int64[4]) {
      const %table: float32[200, 100]
      %rows: float32[4, 100] = Gather(%table, %x)
      %turned: float32[100, 200] = Transpose(%table) @ "head"
      %y: float32[4, 200] = MatMul(%rows, %turned)
      return y = %y
    }"""
    result = stays("fold-constants", tied, {"table": np.ones((200, 100), np.float32)})
    assert result.misses == ["head: folding Transpose would add 80000 bytes"]


def test_a_transposed_weight_is_a_view_and_computes_the_same(becomes, graph_of, context) -> None:
    weight = np.random.default_rng(0).standard_normal((300, 200), dtype=np.float32)
    before = """(%x: float32[7, 200]) {
      const %w: float32[300, 200]
      %t: float32[200, 300] = Transpose(%w)
      %y: float32[7, 300] = MatMul(%x, %t)
      return y = %y
    }"""
    after = """(%x: float32[7, 200]) {
      const %w_1: float32[200, 300]
      %y: float32[7, 300] = MatMul(%x, %w_1)
      return y = %y
    }"""
    becomes("fold-constants", before, after, {"w": weight, "w_1": weight.T})
    graph = graph_of(before, {"w": weight})
    ConstantFolding().run(graph, context(graph))
    assert np.shares_memory(graph.constants["w_1"].data, weight)


def test_a_size_that_only_a_constant_told_is_known_from_there_on(becomes) -> None:
    before = """(%x: float32[2]) {
      const %p: int64[2] = [1, 1]
      const %axis: int64[] = 0
      %widths: int64[2] = CumSum(%p, %axis)
      %pad: float32[pad_widths__5a92f42556_0] = Pad(%x, %widths)
      %y: float32[pad_widths__5a92f42556_0] = Neg(%pad)
      return y = %y
    }"""
    after = """(%x: float32[2]) {
      const %p_1: int64[2] = [1, 2]
      %pad: float32[5] = Pad(%x, %p_1)
      %y: float32[5] = Neg(%pad)
      return y = %y
    }"""
    becomes("fold-constants", before, after)


def test_sizes_are_known_that_follow_from_a_constant_by_arithmetic(graph_of, context) -> None:
    """Graph 43272: after the pass, the size was still one that only data tells, and TVM refused it."""
    graph = graph_of(
        """(%x: float32[n]) {
      const %p: int64[1] = [4]
      const %twice: int64[1] = [1]
      %wanted: int64[1] = Tile(%p, %twice)
      %size: int64[1] = Shape(%x)
      %missing: int64[1] = Sub(%wanted, %size)
      const %zero: int64[1] = [0]
      %pads: int64[2] = Concat(%zero, %missing) {axis = 0}
      %y: float32[pad_pads__3a7a6ba4b6_0] = Pad(%x, %pads)
      return y = %y
    }"""
    )
    assert ConstantFolding().run(graph, context(graph)).counts == {"fold": 1}
    assert graph.outputs["y"].shape == (4,)


def test_sizes_that_agree_at_run_time_alone_keep_their_types(graph_of, context) -> None:
    """A batch that must be five or one by what is folded: nobody can tell before it runs."""
    graph = graph_of(
        """(%x: float32[2], %v: float32[n]) {
      const %p: int64[2] = [1, 1]
      const %axis: int64[] = 0
      %widths: int64[2] = CumSum(%p, %axis)
      %pad: float32[pad_widths__5a92f42556_0] = Pad(%x, %widths)
      %y: float32[mul_output_0__632683efde_0] = Mul(%v, %pad) @ "gate"
      return y = %y
    }"""
    )
    feeds = {"x": np.ones(2, np.float32), "v": np.arange(5, dtype=np.float32)}
    before = Interpreter(graph).run(feeds)
    assert ConstantFolding().run(graph, context(graph)).counts == {"fold": 1}
    assert [str(node.output.type) for node in graph.nodes] == ["float32[5]", "float32[mul_output_0__632683efde_0]"]
    np.testing.assert_array_equal(Interpreter(graph).run(feeds)["y"], before["y"])
    with pytest.raises(ModelError, match="gate: Mul"):
        reinfer(graph)


def test_what_fails_stays_and_is_reported(graph_of, context) -> None:
    """It may be in a branch that is never taken."""
    graph = graph_of(
        """(%x: float32[3]) {
      const %table: float32[3] = [1, 2, 3]
      const %place: int64[1] = [3]
      %found: float32[1] = GatherElements(%table, %place) @ "loss.gather"
      %y: float32[3] = Add(%x, %found)
      return y = %y
    }"""
    )
    result = ConstantFolding().run(graph, context(graph))
    assert result.counts == {"fold": 0}
    (miss,) = result.misses
    assert miss.startswith("loss.gather: GatherElements stays: ")
    assert "index 3 is out of bounds" in miss
