"""Which products are made of bfloat16, how the graph says so, and why others aren't."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.ir.errors import UsageError
from planish.ir.graph import Graph, Node
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.text import print_graph
from planish.ir.types import DType
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.cleanup.fold_constants import ConstantFolding
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline
from planish.passes.quantization.reduce_precision import PrecisionReduction
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
TARGET = load_target("x86-64-zen4")
LAYERS = """(%x: float32[rows, 32]) {
  const %w: float32[32, 64]
  const %v: float32[32, 64]
  %a: float32[rows, 64] = MatMul(%x, %w) @ "first"
  %b: float32[rows, 64] = Relu(%a) @ "first"
  %y: float32[rows, 32] = Gemm(%b, %v) {transB = 1} @ "second"
  return y = %y
}"""
TIED = """(%rows: int64[batch, 5]) {
  const %table: float32[2048, 32]
  %x: float32[batch, 5, 32] = Gather(%table, %rows) @ "embedding"
  %t: float32[32, 2048] = Transpose(%table) {perm = [1, 0]} @ "head"
  %y: float32[batch, 5, 2048] = MatMul(%x, %t) @ "head"
  return y = %y
}"""


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def reduced(graph: Graph, target=TARGET, **options) -> PassResult:
    result = PrecisionReduction(**options).apply(graph, PassContext(target, graph.clone()))
    verify(graph)
    return result


def factors(graph: Graph, operator: str) -> list[str]:
    """Where the factors of the first node with an operator come from, back to front."""
    node = next(node for node in graph.nodes if node.operator == operator)
    return factors_of(node)


def factors_of(node: Node) -> list[str]:
    chains: list[str] = []
    for value in node.inputs[: 3 if node.operator == "Attention" else 2]:
        types = [str(value.dtype)]
        while value.producer is not None and value.producer.operator in ("Cast", "Transpose"):
            value = value.producer.inputs[0]
            types.append(str(value.dtype))
        chains.append(" ".join(types))
    return chains


@pytest.fixture
def layers(graph_of) -> Graph:
    return graph_of(LAYERS, {"w": normal(32, 64), "v": normal(32, 64)})


@pytest.fixture
def tied(graph_of) -> Graph:
    return graph_of(TIED, {"table": normal(2048, 32)})


def test_factors_are_rounded_and_all_else_stays(layers: Graph) -> None:
    source = layers.clone()
    result = reduced(layers)
    assert result.counts == {"Attention": 0, "Conv": 0, "Gemm": 1, "MatMul": 1, "Gather": 0}
    assert not result.misses
    assert factors(layers, "MatMul") == ["float32 bfloat16 float32", "float32 bfloat16"]
    assert factors(layers, "Gemm") == ["float32 bfloat16 float32", "float32 bfloat16"]
    assert {str(constant.dtype) for constant in layers.constants.values()} == {"bfloat16"}
    feeds = {"x": normal(9, 32)}
    assert 0 < drift([Interpreter(source).run(feeds)], [Interpreter(layers).run(feeds)]) < 0.01


def test_nothing_is_rounded_twice(layers: Graph) -> None:
    reduced(layers)
    once = print_graph(layers)
    assert not reduced(layers).changed
    assert print_graph(layers) == once


def test_what_several_products_read_is_rounded_once(graph_of) -> None:
    graph = graph_of(
        """(%x: float32[5, 32]) {
          const %w: float32[32, 64]
          const %v: float32[32, 64]
          %a: float32[5, 64] = MatMul(%x, %w)
          %b: float32[5, 64] = MatMul(%x, %v)
          %y: float32[5, 64] = Add(%a, %b)
          return y = %y
        }""",
        {"w": normal(32, 64), "v": normal(32, 64)},
    )
    reduced(graph)
    assert [node.operator for node in graph.nodes].count("Cast") == 2 + 2


def test_a_table_that_is_a_weight_as_well_is_stored_once(tied: Graph) -> None:
    source = tied.clone()
    assert reduced(tied).counts["Gather"] == 1
    assert [(constant.shape, constant.dtype) for constant in tied.constants.values()] == [((2048, 32), DType.bfloat16)]
    assert factors(tied, "MatMul")[1] == "float32 float32 bfloat16"
    feeds = {"rows": np.arange(10).reshape(2, 5)}
    assert 0 < drift([Interpreter(source).run(feeds)], [Interpreter(tied).run(feeds)]) < 0.01


def test_a_lookup_that_is_left_out_keeps_its_table(tied: Graph) -> None:
    reduced(tied, skip=("embedding",))
    assert {constant.dtype for constant in tied.constants.values()} == {DType.bfloat16, DType.float32}


def test_attention(graph_of) -> None:
    text = """(%x: float32[batch, 9, 32]) {
      %y: float32[batch, 9, 32] = Attention(%x, %x, %x) {kv_num_heads = 2, q_num_heads = 2%more}
      return y = %y
    }"""
    graph = graph_of(text.replace("%more", ""))
    assert reduced(graph).counts["Attention"] == 1
    assert factors(graph, "Attention") == ["float32 bfloat16 float32"] * 3
    capped = graph_of(text.replace("%more", ", softcap = 2.0"))
    assert "no kernel for this form" in reduced(capped).misses[0]
    single = graph_of(text.replace("%more", "").replace("batch, 9", "batch, 1"))
    assert "so few queries" in reduced(single).misses[0]


def test_images_are_rounded_for_all_that_read_them(graph_of) -> None:
    graph = graph_of(
        """(%x: float32[1, 16, 5, 5]) {
          const %w: float32[16, 16, 1, 1]
          %r: float32[1, 16, 5, 5] = Relu(%x) @ "first"
          %n: float32[1, 16, 5, 5] = Neg(%r)
          %a: float32[1, 16, 5, 5] = Conv(%r, %w) @ "conv"
          %b: float32[1, 16, 5, 5] = Add(%a, %r)
          %y: float32[1, 16, 5, 5] = Add(%b, %n)
          return y = %y, r = %r
        }""",
        {"w": normal(16, 16, 1, 1)},
    )
    assert reduced(graph).counts["Conv"] == 1
    assert factors(graph, "Conv") == ["float32 bfloat16 float32", "float32 bfloat16"]
    assert [node.operator for node in graph.nodes].count("Cast") == 2 + 1
    assert factors(graph, "Neg") == ["float32 bfloat16 float32"]
    assert graph.outputs["r"].producer.operator == "Relu"


def test_layers_that_are_left_out_stay(layers: Graph) -> None:
    assert reduced(layers, skip=("first",)).counts["MatMul"] == 0
    assert factors(layers, "MatMul") == ["float32", "float32"]
    assert factors(layers, "Gemm")[1] == "float32 bfloat16"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("%y: float32[4, 4] = MatMul(%x, %x)", "both activations"),
        ("%y: float32[4, 4] = MatMul(%x, %w)", "4 columns don't fill a vector"),
        ("%y: float32[4, 32] = Gemm(%x, %v) {transA = 1}", "transposes its input"),
        ("%y: float32[2, 4, 32] = MatMul(%x, %u)", "3 dimensions"),
        ("%d: float64[4, 4] = Cast(%x) {to = 11} %y: float64[4, 32] = MatMul(%d, %e)", "computes in float64"),
        ("%y: float32[4, 32] = MatMul(%w, %v)", "both activations"),
        (
            "%i: float32[1, 4, 4] = Unsqueeze(%x, %o) %y: float32[1, 3, 3] = Conv(%i, %k)",
            "4 channels, which don't fill",
        ),
    ],
)
def test_what_stays_in_float32_is_explained(graph_of, body: str, reason: str) -> None:
    weights = {"w": normal(4, 4), "v": normal(4, 32), "u": normal(2, 4, 32), "e": RNG.standard_normal((4, 32))}
    weights |= {"o": np.array([0]), "k": normal(3, 4, 2)}
    shapes = {"w": "float32[4, 4]", "v": "float32[4, 32]", "u": "float32[2, 4, 32]", "e": "float64[4, 32]"}
    shapes |= {"o": "int64[1]", "k": "float32[3, 4, 2]"}
    read = {name: shapes[name] for name in weights if f"%{name}" in body.partition("(")[2]}
    constants = " ".join(f"const %{name}: {shape}" for name, shape in read.items())
    graph = graph_of(
        f"(%x: float32[4, 4]) {{ {constants} {body} return y = %y }}", {name: weights[name] for name in read}
    )
    result = reduced(graph)
    assert not result.changed
    assert [miss for miss in result.misses if reason in miss]


def test_a_target_without_fast_products_keeps_the_graph(layers: Graph) -> None:
    for target in (load_target("x86-64-avx512-vnni"), replace(TARGET, bfloat16={})):
        result = reduced(layers, target)
        assert not result.changed
        assert "no fast products of bfloat16" in result.misses[0]


def test_a_description_counts_for_the_backend_that_the_model_is_built_for(layers: Graph) -> None:
    for backend, is_changed in (("onnxruntime", False), ("tvm", True)):
        copy = layers.clone()
        result = PrecisionReduction().apply(copy, PassContext(TARGET, layers, backend=backend))
        assert result.changed == is_changed


class Clock:
    """A machine of this one's kind, but with its own seconds of a product in each precision, and of a cast."""

    def __init__(self, in_float: float, in_bfloat16: float, cast: float = 0.1) -> None:
        self._seconds, self._cast = (in_float, in_bfloat16), cast

    def layers(self, graphs: Iterable[Graph]) -> list[Mapping[str, float]]:
        return [{node.outputs[0].name: self._of(node) for node in graph.nodes} for graph in graphs]

    def rounds(self, graphs: Sequence[Graph]) -> list[np.ndarray]:
        return [np.full(7, sum(map(self._of, graph.nodes))) for graph in graphs]

    def _of(self, node: Node) -> float:
        if node.operator in ("MatMul", "Gemm"):
            scale = 1.0 if node.operator == "MatMul" else 0.2  # the second layer is small
            return scale * self._seconds["bfloat16" in factors_of(node)[0]]
        return self._cast if node.operator == "Cast" and node.operand(0).producer is not None else 0.0


def timed(graph: Graph, *clocks: Clock) -> PassResult:
    result = PrecisionReduction().apply(
        graph, PassContext(load_target("native"), graph.clone(), timing=clocks[0], rivals=clocks[1:])
    )
    verify(graph)
    return result


def test_on_a_machine_of_half_the_rate_nothing_is_reduced(layers: Graph) -> None:
    """The instruction is there, as on Intel's servers: what decides is its measured rate."""
    before = print_graph(layers)
    result = timed(layers, Clock(1.0, 2.0))
    assert not result.changed
    assert "one sample would take 2.7 s instead of 1.2 s" in result.misses[0]
    assert "first: MatMul in bfloat16 takes 2.2 s instead of 1 s" in result.misses[1]
    assert print_graph(layers) == before
    with pytest.raises(UsageError, match=r"(?s)changed nothing:.*takes 2.2 s instead of 1 s"):
        context = PassContext(load_target("native"), layers.clone(), timing=Clock(1.0, 2.0))
        PassManager(parse_pipeline("reduce-precision{required=true}")).run(layers, context)


def test_on_a_machine_of_twice_the_rate_a_layer_is_reduced_where_it_pays(layers: Graph) -> None:
    result = timed(layers, Clock(1.0, 0.5, cast=0.0))
    assert (result.counts["MatMul"], result.counts["Gemm"]) == (1, 1)


def test_a_layer_whose_casts_take_longer_than_is_saved_stays(graph_of) -> None:
    graph = graph_of(LAYERS, {"w": normal(32, 64), "v": normal(32, 64)})
    result = timed(graph, Clock(1.0, 0.5, cast=0.3))
    assert (result.counts.get("MatMul"), result.counts.get("Gemm")) != (1, 1)


def test_a_model_is_reduced_for_the_fastest_of_several_backends(layers: Graph) -> None:
    assert timed(layers.clone(), Clock(1.0, 2.0), Clock(1.1, 0.5, cast=0.0)).changed
    slow = timed(layers.clone(), Clock(1.0, 2.0), Clock(4.0, 2.0, cast=0.0))
    assert not slow.changed
    assert "would take 2.7 s instead of 1.2 s" in slow.misses[0]


def test_weights_stay_stored_in_half_the_size(layers: Graph) -> None:
    reduced(layers)
    before = print_graph(layers)
    ConstantFolding(limit=1 << 20).apply(layers, PassContext(TARGET, layers))
    assert print_graph(layers) == before


@pytest.mark.parametrize("backend", ["onnxruntime", "tvm"])
@pytest.mark.parametrize("name", ["layers", "tied"])
def test_backends_agree_with_the_interpreter(name: str, backend: str, request, tmp_path) -> None:
    """Closely: rounding in other places, or nowhere, would be farther off."""
    pytest.importorskip(backend)
    graph = request.getfixturevalue(name)
    source = graph.clone()
    reduced(graph)
    write_artifact(tmp_path / "artifact", graph, find_backend(backend), load_target("native"))
    feeds = {"x": normal(9, 32)} if name == "layers" else {"rows": np.arange(10).reshape(2, 5)}
    expected, [found] = Interpreter(graph).run(feeds), load(tmp_path / "artifact").run(feeds)
    error = drift([expected], [{"y": found}])
    assert error < drift([expected], [Interpreter(source).run(feeds)]) / 4


def test_options_round_trip() -> None:
    (step,) = parse_pipeline("reduce-precision{dtype=bfloat16,skip=head}")
    assert step == PrecisionReduction(skip=("head",))
