"""Tables of embeddings in integers; what a head multiplies by as well is held once."""

import numpy as np
import pytest
from machine import without_saturation

import planish
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.verify import verify
from planish.passes.base import PassContext, PassResult
from planish.passes.quantization.gptq import Gptq
from planish.passes.quantization.quantize import Quantize
from planish.targets import Target
from planish.targets.load import load_target

TARGET = load_target("x86-64-avx512-vnni")
HEADS = {
    "transpose": """%t: float32[36, 2048] = Transpose(%table) {perm = [1, 0]} @ "head"
  %y: float32[tokens, 2048] = MatMul(%x, %t) @ "head" """,
    "gemm": '%y: float32[tokens, 2048] = Gemm(%x, %table, %bias) {transB = 1} @ "head"',
}
TIED = """(%rows: int64[tokens]) {{
  const %table: float32[2048, 36]
  const %bias: float32[2048]
  %x: float32[tokens, 36] = Gather(%table, %rows) @ "embedding"
  {head}
  return y = %y, x = %x
}}"""
SCHEMES = {"int8": 0.05, "int8-dynamic": 0.05, "int8-weights": 0.01, "int4": 0.01, "int3": 0.01, "int2": 0.01}
"""How far each scheme may move the outputs; a table that rows are looked up in has 8 bits in all of them."""
FEEDS = {"rows": np.array([7, 2047, 0, 7, -1])}


@pytest.fixture(params=HEADS)
def tied(graph_of, request) -> Graph:
    random = np.random.default_rng(0)
    weights = {"table": random.standard_normal((2048, 36), np.float32), "bias": np.zeros(2048, np.float32)}
    return graph_of(TIED.format(head=HEADS[request.param]), weights)


def quantized(graph: Graph, target: Target = TARGET, **options) -> PassResult:
    result = Quantize(**options).apply(graph, PassContext(target, graph.clone(), [FEEDS]))
    verify(graph)
    return result


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tied_table_is_held_once(tied: Graph, scheme: str) -> None:
    source = tied.clone()
    result = quantized(tied, scheme=scheme)
    assert (result.counts["layers"], result.counts["embeddings"]) == (1, 1)
    (large,) = (constant for constant in tied.constants.values() if constant.data.nbytes > 2048 * 8)
    assert large.data.dtype.itemsize == 1
    wanted, found = (Interpreter(graph).run(FEEDS) for graph in (source, tied))
    assert all(0 < drift([{key: wanted[key]}], [{key: found[key]}]) < SCHEMES[scheme] for key in ("x", "y"))


def test_a_tied_table_has_8_bits_by_gptq_as_well(tied: Graph) -> None:
    source = tied.clone()
    Gptq(bits=2).apply(tied, PassContext(TARGET, source, [FEEDS]))
    wanted, found = (Interpreter(graph).run(FEEDS) for graph in (source, tied))
    assert 0 < drift([wanted], [found]) < SCHEMES["int8-weights"]


@pytest.mark.parametrize("block", [0, 16, 32])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("scheme", ["int8-weights", "int4"])
def test_what_is_looked_up_is_what_the_head_multiplies_by(
    tied: Graph, scheme: str, symmetric: bool, block: int
) -> None:
    """The head of a row of the unit matrix is a column of its weight, which is the table's."""
    quantized(tied, scheme=scheme, block=block, symmetric=symmetric, correct_biases=False)
    (product,) = (node for node in tied.nodes if node.operator == "com.microsoft::MatMulNBits")
    outputs = Interpreter(tied).run({"rows": np.arange(2048)})
    np.testing.assert_allclose(outputs["x"] @ outputs["x"].T, outputs["y"], rtol=1e-4, atol=1e-4)
    assert all(value is None or value.use_count == 2 for value in product.inputs[1:4])


@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("tvm", marks=pytest.mark.wide)])
def test_both_backends_run_it(graph_of, backend: str) -> None:
    """One head of each scheme in one graph."""
    if backend == "tvm":
        pytest.importorskip("tvm")
    random = np.random.default_rng(0)
    names = [scheme.replace("-", "_") for scheme in SCHEMES]
    body = "".join(
        f"""%x{name}: float32[tokens, 36] = Gather(%t{name}, %rows) @ "{name}"
        %u{name}: float32[36, 2048] = Transpose(%t{name}) {{perm = [1, 0]}} @ "{name}"
        %y{name}: float32[tokens, 2048] = MatMul(%x{name}, %u{name}) @ "{name}"\n"""
        for name in names
    )
    graph = graph_of(
        f"(%rows: int64[tokens]) {{ {''.join(f'const %t{name}: float32[2048, 36] ' for name in names)} {body}"
        f"return {', '.join(f'{key}{name} = %{key}{name}' for name in names for key in 'xy')} }}",
        {f"t{name}": random.standard_normal((2048, 36), np.float32) for name in names},
    )
    for name in names:
        quantized(graph, without_saturation(TARGET), scheme=name.replace("_", "-"), only=(name,))
    executable = planish.compile(graph, backend=backend, target="native")
    wanted, found = Interpreter(graph).run(FEEDS), executable.run(FEEDS)
    for (name, array), result in zip(wanted.items(), found, strict=True):
        rounds = backend == "onnxruntime" or name == "yint8"  # activations, to 8 bits
        limit = 0.02 if rounds and name[0] == "y" else 1e-5
        assert drift([{"": array}], [{"": result}]) < limit, name


@pytest.mark.parametrize("part", ["head", "embedding"])
def test_a_table_of_which_a_part_is_left_out_stays_whole(tied: Graph, part: str) -> None:
    """What isn't selected reads floats, beside which integers would add to the model."""
    count = len(list(tied.nodes))
    result = quantized(tied, scheme="int8-dynamic", skip=(part,))
    assert not result.counts["embeddings"]
    if part == "head":
        assert not result.changed
        assert result.misses[-1] == "embedding: Gather stays in float: another node reads its table in float"
        assert len(list(tied.nodes)) == count


def test_tables_by_themselves_are_in_int8_by_row(graph_of) -> None:
    table = np.random.default_rng(0).standard_normal((2048, 32), np.float32) * np.float32([[1], [100]] * 1024)
    graph = graph_of(
        """(%rows: int64[batch, tokens]) {
          const %table: float32[2048, 32]
          const %few: float32[8, 32]
          %a: float32[batch, tokens, 32] = Gather(%table, %rows)
          %b: float32[batch, tokens, 32] = Gather(%few, %rows)
          return a = %a, b = %b
        }""",
        {"table": table, "few": table[:8]},
    )
    assert quantized(graph, scheme="int4").counts == {"layers": 0, "biases": 0, "embeddings": 1, "recurrent": 0}
    rows = np.arange(8).reshape(2, 4)
    found = Interpreter(graph).run({"rows": rows})
    np.testing.assert_array_equal(found["b"], table[rows])
    steps = np.abs(table[rows]).max(axis=-1, keepdims=True) / 127
    assert (np.abs(found["a"] - table[rows]) <= steps * 0.501).all()


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
def test_other_transposes_stay(graph_of, body: str) -> None:
    graph = graph_of(
        f"(%x: float32[4, 4]) {{ const %w: float32[4, 4] = [{', '.join('1' * 16)}] {body} return y = %y }}"
    )
    assert not quantized(graph, scheme="int8-dynamic").changed
