"""A weight that is read transposed by a product, and as it is by a lookup, is quantized for both."""

import numpy as np
import pytest

from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.verify import verify
from planish.passes.base import PassContext
from planish.passes.quantization.quantize import Quantize
from planish.passes.quantization.transposed_weights import materialize_transposed
from planish.targets.load import load_target

TARGET = load_target("x86-64-avx512-vnni")
TIED = """(%rows: int64[batch, 5]) {
  const %table: float32[2048, 32]
  %x: float32[batch, 5, 32] = Gather(%table, %rows) @ "embedding"
  %t: float32[32, 2048] = Transpose(%table) {perm = [1, 0]} @ "head"
  %y: float32[batch, 5, 2048] = MatMul(%x, %t) @ "head"
  return y = %y
}"""


@pytest.fixture
def tied(graph_of) -> Graph:
    return graph_of(TIED, {"table": np.random.default_rng(0).standard_normal((2048, 32)).astype(np.float32)})


@pytest.mark.parametrize(("scheme", "limit"), [("int8", 0.05), ("int8-dynamic", 0.05), ("int4", 0.12)])
def test_a_tied_head_is_quantized(tied: Graph, scheme: str, limit: float) -> None:
    feeds = {"rows": np.arange(10).reshape(2, 5)}
    source = tied.clone()
    result = Quantize(scheme=scheme).apply(tied, PassContext(TARGET, source, [feeds]))
    verify(tied)
    assert (result.counts["turned"], result.counts["layers"], result.counts["embeddings"]) == (1, 1, 1)
    assert all(constant.data.dtype != np.float32 or constant.data.size <= 2048 for constant in tied.constants.values())
    assert drift([Interpreter(source).run(feeds)], [Interpreter(tied).run(feeds)]) < limit


def test_a_head_that_is_left_out_stays_tied(tied: Graph) -> None:
    result = Quantize(scheme="int8-dynamic", skip=("head",)).apply(tied, PassContext(TARGET, tied.clone()))
    assert "Transpose" in [node.operator for node in tied.nodes]
    assert result.counts["turned"] == result.counts["layers"] == 0


@pytest.mark.parametrize(
    "body",
    [
        "%t: float32[4, 4] = Transpose(%x) {perm = [1, 0]} %y: float32[4, 4] = MatMul(%x, %t)",
        "%t: float32[4, 4] = Transpose(%w) {perm = [0, 1]} %y: float32[4, 4] = MatMul(%x, %t)",
        "%t: float32[4, 4] = Transpose(%w) {perm = [1, 0]} %y: float32[4, 4] = MatMul(%t, %x)",
        "%t: float32[4, 4] = Transpose(%w) {perm = [1, 0]} %y: float32[4, 4] = MatMul(%w, %t)",
    ],
    ids=["of an activation", "not turned", "the other factor", "of two constants"],
)
def test_others_stay(graph_of, context, body: str) -> None:
    graph = graph_of(
        f"(%x: float32[4, 4]) {{ const %w: float32[4, 4] = [{', '.join('1' * 16)}] {body} return y = %y }}"
    )
    assert materialize_transposed(graph, context(graph)) == 0
