"""A Gemm between reshapes that only make a matrix and undo it is a MatMul; other reshapes stay."""

import numpy as np
import pytest

WEIGHTS = {"w": np.arange(12, dtype=np.float32).reshape(4, 3), "v": np.arange(12, dtype=np.float32).reshape(3, 4)}


def text(lines: str, *, batch: int | str = 2, shape: str = "[2, 5, 3]", weight: str = "w", dims: str = "4, 3") -> str:
    return f"""(%x: float32[{batch}, 5, 4]) {{
      const %{weight}: float32[{dims}]
      const %c: float32[3] = [0.5, -1.0, 2.0]
      {lines}
      return y = %y
    }}"""


BEFORE = """const %flat: int64[2] = [-1, 4]
  const %shape: int64[3] = [2, 5, 3]
  %m: float32[10, 4] = Reshape(%x, %flat)
  %g: float32[10, 3] = Gemm(%m, %w, %c)
  %y: float32[2, 5, 3] = Reshape(%g, %shape)"""


def test_a_gemm_between_reshapes(becomes) -> None:
    after = """(%x: float32[2, 5, 4]) {
      const %w: float32[4, 3]
      const %c: float32[3] = [0.5, -1.0, 2.0]
      %matmul: float32[2, 5, 3] = MatMul(%x, %w)
      %add: float32[2, 5, 3] = Add(%matmul, %c)
      return y = %add
    }"""
    result = becomes("fuse-reshapes", text(BEFORE), after, {"w": WEIGHTS["w"]})
    assert result.counts == {"gemm-between-reshapes": 1}


def test_a_batch_of_any_size_and_a_transposed_weight_without_bias(graph_of, context, feeds_of) -> None:
    lines = """const %flat: int64[2] = [-1, 4]
      const %shape: int64[3] = [-1, 5, 3]
      %m: float32[5 * batch, 4] = Reshape(%x, %flat)
      %g: float32[5 * batch, 3] = Gemm(%m, %v) {transB = 1}
      %y: float32[batch, 5, 3] = Reshape(%g, %shape)"""
    from planish.ir.interpreter import Interpreter
    from planish.passes.fusion.fuse_reshapes import ReshapeFusion

    graph = graph_of(text(lines, batch="batch", weight="v", dims="3, 4"), {"v": WEIGHTS["v"]})
    source = graph.clone()
    assert ReshapeFusion().apply(graph, context(source)).changed
    assert [node.operator for node in graph.nodes] == ["MatMul"]
    feeds = feeds_of(source)
    np.testing.assert_allclose(Interpreter(graph).run(feeds)["y"], Interpreter(source).run(feeds)["y"], rtol=1e-6)


def test_rows_that_are_taken_from_several_axes(becomes) -> None:
    lines = BEFORE.replace("const %flat: int64[2] = [-1, 4]", "const %flat: int64[2] = [10, 4]")
    before = text(lines).replace("%x: float32[2, 5, 4]", "%x: float32[2, 5, 2, 2]")
    after = """(%x: float32[2, 5, 2, 2]) {
      const %w: float32[4, 3]
      const %c: float32[3] = [0.5, -1.0, 2.0]
      const %constant: int64[3] = [0, 0, -1]
      %reshape: float32[2, 5, 4] = Reshape(%x, %constant)
      %matmul: float32[2, 5, 3] = MatMul(%reshape, %w)
      %add: float32[2, 5, 3] = Add(%matmul, %c)
      return y = %add
    }"""
    becomes("fuse-reshapes", before, after, {"w": WEIGHTS["w"]})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Gemm(%m, %w, %c)", "Gemm(%m, %w, %c) {alpha = 2.0}"),
        ("Gemm(%m, %w, %c)", "Gemm(%m, %w, %c) {beta = 2.0}"),
        ("[2, 5, 3]", "[5, 2, 3]"),  # rows are taken apart in another way
        ("[2, 5, 3]", "[2, 5, 3, 1]"),
    ],
)
def test_more_than_a_product_stays(stays, old: str, new: str) -> None:
    lines = BEFORE.replace(old, new).replace(f"int64[3] = {new}", f"int64[{new.count(',') + 1}] = {new}")
    stays("fuse-reshapes", text(lines), {"w": WEIGHTS["w"]})


def test_a_matrix_that_is_read_elsewhere_stays(stays) -> None:
    lines = text(BEFORE).replace("return y = %y", "return y = %y, g = %g")
    stays("fuse-reshapes", lines, {"w": WEIGHTS["w"]})
