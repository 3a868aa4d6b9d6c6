from dataclasses import dataclass, field

import numpy as np
import pytest

from planish.backends import backend_names, find_backend
from planish.backends.legal import legalized
from planish.ir.builder import Builder
from planish.ir.errors import TargetError, UsageError
from planish.ir.graph import Graph, Location
from planish.ir.interpreter import Interpreter
from planish.ir.text import parse_graph
from planish.ir.types import DType, TensorType
from planish.ir.verify import verify
from planish.passes.base import PassContext
from planish.passes.legalization.expansions import EXPANSIONS
from planish.passes.legalization.legalize import Legalization
from planish.targets.load import load_target

RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def int8(*shape: int) -> np.ndarray:
    return RNG.integers(-127, 128, shape).astype(np.int8)


def uint8(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


@dataclass(frozen=True)
class Case:
    """An operator on inputs that are fed, or constants where a name is given."""

    operator: str
    inputs: tuple[np.ndarray | None, ...]
    attributes: dict[str, object] = field(default_factory=dict)
    outputs: int = 1
    constants: frozenset[int] = frozenset()
    dynamic: bool = False
    """Whether the first axis of what is fed is symbolic."""

    def build(self) -> tuple[Graph, dict[str, np.ndarray]]:
        graph, feeds = Graph(), {}
        op = Builder(graph, location=Location("layer"))
        operands = []
        for index, array in enumerate(self.inputs):
            if array is None or index in self.constants:
                operands.append(None if array is None else op.constant(array))
                continue
            dims = ("batch", *array.shape[1:]) if self.dynamic else array.shape
            operands.append(graph.add_input(f"x{index}", TensorType(DType.of(array.dtype), dims)))
            feeds[f"x{index}"] = array
        made = op(self.operator, *operands, outputs=self.outputs, **self.attributes)
        graph.outputs = {f"y{index}": value for index, value in enumerate(made if self.outputs > 1 else (made,))}
        return graph, feeds


HEADS = (floats(2, 4, 5, 8), floats(2, 4, 7, 8), floats(2, 4, 7, 8))
FLAT = (floats(2, 5, 32), floats(2, 7, 16), floats(2, 7, 16))
SCALE = np.array(0.02, np.float32)
CASES = {
    "swish": Case("Swish", (floats(2, 3),), {"alpha": 1.5}, dynamic=True),
    "celu": Case("Celu", (floats(2, 3),), {"alpha": 0.7}),
    "infinite": Case("IsInf", (np.array([1, np.inf, -np.inf, np.nan], np.float32),), {"detect_negative": 0}),
    "minus-infinite": Case("IsInf", (np.array([1, np.inf, -np.inf, np.nan], np.float32),), {"detect_positive": 0}),
    "mixed-power": Case("Pow", (np.array([3, -2], np.float32), np.array([4, 3], np.int64))),
    "dropout": Case("Dropout", (floats(2, 3),), outputs=2, dynamic=True),
    "one-hot": Case(
        "OneHot", (np.array([[1, -1], [0, 9]]), np.array(3), floats(2)), {"axis": 1}, constants=frozenset({1})
    ),
    "eye": Case("EyeLike", (floats(3, 4),), {"k": 1, "dtype": 7}),
    "layer-norm": Case(
        "LayerNormalization", (floats(2, 3, 4), floats(3, 4), floats(3, 4)), {"axis": 1}, 3, dynamic=False
    ),
    "rms-norm": Case("RMSNormalization", (floats(2, 3, 4), floats(3, 4)), {"axis": 1, "epsilon": 1e-3}),
    "l1-norm": Case("LpNormalization", (np.array([[1, -3], [0, 0]], np.float32),), {"p": 1}),
    "l2-norm": Case("LpNormalization", (np.array([[1, -3], [0, 0]], np.float32),), {"axis": 0}),
    "attention": Case("Attention", HEADS, outputs=3),
    "attention-causal": Case("Attention", HEADS, {"is_causal": 1, "softcap": 2.0, "scale": 0.3}),
    "attention-grouped": Case("Attention", FLAT, {"q_num_heads": 4, "kv_num_heads": 2}, 3, dynamic=True),
    "attention-mask": Case("Attention", (*HEADS, RNG.random((5, 7)) < 0.3), outputs=3),  # a row of it looks nowhere
    "attention-past": Case(
        "Attention", (*HEADS, None, floats(2, 4, 3, 8), floats(2, 4, 3, 8)), {"is_causal": 1}, 3, dynamic=True
    ),
    "rotary": Case("RotaryEmbedding", (floats(2, 4, 5, 8), floats(9, 4), floats(9, 4), RNG.integers(0, 9, (2, 5)))),
    "rotary-interleaved": Case(
        "RotaryEmbedding",
        (floats(2, 5, 32), floats(2, 5, 3), floats(2, 5, 3)),
        {"interleaved": 1, "num_heads": 4, "rotary_embedding_dim": 6},
    ),
    "conv-integer": Case("ConvInteger", (int8(1, 2, 5, 5), int8(3, 2, 3, 3), np.int8(3)), {"pads": (1, 1, 1, 1)}),
    "row-quantizer": Case("planish::DynamicQuantizeRows", (floats(2, 5, 8).astype(np.float64),), outputs=3),
    "few-bits": Case(
        "com.microsoft::MatMulNBits",
        (floats(2, 80), uint8(5, 3, 16), floats(5, 3), uint8(5, 2)),
        {"K": 80, "N": 5, "block_size": 32},
    ),
    "qlinear-matmul": Case(
        "QLinearMatMul",
        (int8(2, 8), SCALE, np.int8(3), int8(8, 3), floats(3) ** 2, np.zeros(3, np.int8), SCALE, np.int8(1)),
    ),
    "qlinear-conv": Case(
        "QLinearConv",
        (
            int8(1, 2, 5, 5),
            SCALE,
            np.int8(3),
            int8(3, 2, 3, 3),
            floats(3) ** 2,
            np.zeros(3, np.int8),
            np.float32(2),
            np.int8(1),
            RNG.integers(-99, 99, 3).astype(np.int32),
        ),
    ),
    "dequantize-blocks": Case("DequantizeLinear", (int8(2, 6), floats(2, 3), int8(2, 3)), {"block_size": 2, "axis": 1}),
    "quantize-blocks": Case(
        "QuantizeLinear", (floats(4, 3), floats(2, 3) ** 2 + 0.1, int8(2, 3)), {"block_size": 2, "axis": 0}
    ),
}


def context(graph: Graph) -> PassContext:
    return PassContext(load_target("x86-64"), source=graph)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_expansion_means_the_same(case: Case) -> None:
    graph, feeds = case.build()
    expected = Interpreter(graph).run(feeds)
    result = Legalization("tvm").run(graph, context(graph))
    assert result.counts[f"expand {case.operator}"] == 1
    assert not Legalization("tvm").run(graph, context(graph)).changed
    assert {node.location for node in graph.nodes} == {Location("layer")}
    found = Interpreter(graph).run(feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_scales_in_half_precision_are_multiplied_in_single() -> None:
    """Graph 17291: a product of scales in half precision makes 96 of 95.46."""
    scale, zero = np.float16([0.0066]), np.uint8([0])
    inputs = (np.uint8([[113]]), scale, zero, np.uint8([[97]]), scale, zero, np.float16([0.005]), zero)
    graph, feeds = Case("QLinearMatMul", inputs).build()
    assert Interpreter(graph).run(feeds)["y0"] == 95
    Legalization("tvm").run(graph, context(graph))
    assert Interpreter(graph).run(feeds)["y0"] == 95


def test_what_there_is_a_kernel_for_stays() -> None:
    graph, _ = CASES["attention"].build()
    (node,) = graph.nodes
    graph.outputs = {"y": Builder(graph).Attention(*node.inputs)}
    graph.erase(node)
    assert not Legalization("tvm").run(graph, context(graph)).changed


def test_rows_that_there_is_a_norm_for_stay() -> None:
    graph, _ = Case("RMSNormalization", (floats(2, 3, 4), floats(4))).build()
    assert not Legalization("tvm").run(graph, context(graph)).changed


def test_every_expansion_serves_a_backend() -> None:
    assert {case.operator for case in CASES.values()} <= EXPANSIONS.keys()
    supports = (find_backend(name).support() for name in backend_names())
    assert set().union(*(support.expanded for support in supports)) == set(EXPANSIONS)


def test_stored_4_bit_integers_are_dequantized_exactly() -> None:
    int4, uint4 = DType.int4.numpy, DType.uint4.numpy
    for weight, zero_point in ((int8(4, 2) // 16, np.array(-3)), (int8(4, 2) // 32 + 4, np.array(7))):
        dtype = int4 if zero_point < 0 else uint4
        graph = Graph()
        op = Builder(graph)
        x = graph.add_input("x", TensorType(DType.float32, ("n", 4)))
        floats = op.DequantizeLinear(weight.astype(dtype), np.float32(0.1), zero_point.astype(dtype))
        graph.outputs["y"] = op.MatMul(x, floats)
        feeds = {"x": np.eye(4, dtype=np.float32)}
        legal = legalized(graph, load_target("x86-64"), "tvm")
        assert "DequantizeLinear" not in {node.operator for node in legal.nodes}
        assert np.array_equal(Interpreter(legal).run(feeds)["y"], Interpreter(graph).run(feeds)["y"])


def test_what_the_backend_runs_itself_stays() -> None:
    for operator, backend in (("Gelu", "onnxruntime"), ("Sigmoid", "tvm")):
        graph, _ = Case(operator, (floats(2, 3),)).build()
        assert not Legalization(backend).run(graph, context(graph)).changed
        assert [node.operator for node in graph.nodes] == [operator]


def test_a_copy_is_legalized_and_the_graph_is_not() -> None:
    graph, _ = CASES["swish"].build()
    legal = legalized(graph, load_target("x86-64"), "tvm")
    assert [node.operator for node in graph.nodes] == ["Swish"]
    assert [node.operator for node in legal.nodes] == ["Mul", "Sigmoid", "Mul"]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case("Dropout", (floats(2), np.float32(0.5), np.array(True)), constants=frozenset({1, 2})),
         "layer: tvm can't run Dropout: it is in training mode"),
    ],
)  # fmt: skip
def test_what_can_t_be_run_is_refused_with_the_layer(case: Case, reason: str) -> None:
    graph, _ = case.build()
    with pytest.raises(TargetError, match=reason):
        Legalization("tvm").run(graph, context(graph))


@pytest.mark.parametrize(("dtype", "is_chosen"), [("int8", True), ("float8_e4m3fn", False), ("int4", False)])
def test_branches_are_chosen_from_where_an_operator_does_it(dtype: str, is_chosen: bool) -> None:
    graph = parse_graph(f"""graph "main"(%c: bool[], %x: float32[2]) {{
      %y: {dtype}[2] = If(%c) {{else_branch = graph "no"() {{
        %no: {dtype}[2] = Cast(%x) {{to = {DType[dtype].value}}}
        return no = %no
      }}, then_branch = graph "yes"() {{
        %yes: {dtype}[2] = Cast(%x) {{to = {DType[dtype].value}}}
        return yes = %yes
      }}}} @ "layer"
      return y = %y
    }}""")
    if is_chosen:
        Legalization("tvm").run(graph, context(graph))
        verify(graph)
        return
    with pytest.raises(TargetError, match=f"layer: tvm can't run If: .* {dtype}"):
        Legalization("tvm").run(graph, context(graph))


@pytest.mark.parametrize("backend", ["onnxruntime", "tvm"])
def test_operators_of_other_domains_are_refused(backend: str) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, (2,)))
    graph.outputs["y"] = graph.add_node("aten::erfinv", [x], [x.type], location=Location("head")).output
    with pytest.raises(TargetError, match=f"head: {backend} can't run aten::erfinv: ONNX has no counterpart of it"):
        Legalization(backend).run(graph, context(graph))


def test_what_a_backend_can_run_in_no_form_is_refused_and_not_spelled_out_for_ever() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, (2, 3)))
    trees = {"leaf_targetids": [0], "leaf_weights": np.ones(1, np.float32), "n_targets": 1, "aggregate_function": 1}
    nodes = {"nodes_featureids": [0], "nodes_modes": np.zeros(1, np.uint8), "nodes_splits": np.ones(1, np.float32)}
    edges = {name: [0] for name in ("tree_roots", "nodes_trueleafs", "nodes_truenodeids", "nodes_falseleafs")}
    op = Builder(graph, location=Location("trees"))
    made = op("ai.onnx.ml::TreeEnsemble", x, **trees, **nodes, **edges, nodes_falsenodeids=[0], post_transform=0)
    graph.outputs["y"] = made
    with pytest.raises(TargetError, match="trees: tvm can't run ai.onnx.ml::TreeEnsemble"):
        Legalization("tvm").run(graph, context(graph))


def test_inputs_that_a_backend_has_no_type_for_are_named() -> None:
    graph = parse_graph("""graph "main"(%x: sequence(float32[2])) {
      return y = %x
    }""")
    with pytest.raises(TargetError, match="input 'x': tvm can't run the model: it computes with sequence"):
        Legalization("tvm").run(graph, context(graph))


@pytest.mark.parametrize(("divisor", "is_computed"), [("%b", False), ("%zeros", False), ("%ones", True)])
def test_a_branch_that_keeps_from_dividing_by_zero_stays_one(divisor: str, is_computed: bool) -> None:
    graph = parse_graph(f"""graph "main"(%c: bool[], %a: int32[2], %b: int32[2]) {{
      const %zeros: int32[2] = [1, 0]
      const %ones: int32[2] = [1, 3]
      %y: int32[2] = If(%c) {{else_branch = graph "no"() {{
        %no: int32[2] = Div(%a, {divisor})
        return no = %no
      }}, then_branch = graph "yes"() {{
        %yes: int32[2] = Neg(%a)
        return yes = %yes
      }}}} @ "layer"
      return y = %y
    }}""")
    if is_computed:
        Legalization("tvm").run(graph, context(graph))
        return
    with pytest.raises(TargetError, match="layer: tvm can't run If: both of its branches are computed, and one"):
        Legalization("tvm").run(graph, context(graph))


def test_a_squeeze_that_would_take_a_batch_of_one_is_refused() -> None:
    graph = parse_graph("""graph "main"(%x: float32[batch, 1, 2]) {
      %y: float32[batch, 2] = Squeeze(%x) @ "layer"
      return y = %y
    }""")
    with pytest.raises(TargetError, match="layer: tvm can't run Squeeze: it has no axes, and only data"):
        Legalization("tvm").run(graph, context(graph))


def test_an_unknown_backend_comes_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="unknown backend 'tvn'; did you mean 'tvm'"):
        Legalization("tvn").run(Graph(), context(Graph()))


def test_a_branch_returns_what_is_around_it_by_a_node_of_its_own() -> None:
    head = "float32[1, 2, 2, 8]"
    graph = parse_graph(f"""graph "main"(%c: bool[], %q: {head}, %k: {head}, %v: {head}) {{
      %y: {head}, %key: {head} = If(%c) {{then_branch = graph "then"() {{
        %a: {head}, %p: {head}, %w: {head}, %s: float32[1, 2, 2, 2] = Attention(%q, %k, %v)
        return y = %a, key = %p
      }}, else_branch = graph "else"() {{
        %n: {head} = Neg(%q)
        %m: {head} = Neg(%k)
        return y = %n, key = %m
      }}}}
      return y = %y, key = %key
    }}""")
    legal = legalized(graph, load_target("x86-64"), "onnxruntime")
    verify(legal)
    feeds = {"c": np.array(True), **dict(zip("qkv", (floats(1, 2, 2, 8) for _ in range(3)), strict=True))}
    np.testing.assert_array_equal(Interpreter(legal).run(feeds)["key"], feeds["k"])


def test_products_of_row_grids_are_left_to_kernels_of_integers() -> None:
    """TVM has one for weights of whole instructions; ONNX Runtime's takes a zero point for all rows alone."""
    case = Case("MatMulInteger", (uint8(2, 5, 8), int8(8, 16), uint8(2, 5, 1)), constants=frozenset({1}))
    for backend in ("tvm", "onnxruntime"):
        graph, feeds = case.build()
        legal = legalized(graph, load_target("x86-64"), backend)
        (product,) = (node for node in legal.nodes if "MatMul" in node.operator)
        assert product.operator == "MatMulInteger"
        assert (product.input(2) is None) == (backend == "onnxruntime")
        assert np.array_equal(Interpreter(legal).run(feeds)["y0"], Interpreter(graph).run(feeds)["y0"])


@pytest.mark.parametrize("backend", ["onnxruntime", "tvm"])
def test_a_constant_place_that_is_not_there_is_named(backend: str) -> None:
    text = """graph "g"(%x: float32[n, 3]) {
      const %rows: int64[1] = [7]
      const %columns: int64[2] = [0, -4]
      %known: float32[1, 3] = Gather(%x, %rows)
      %y: float32[1, 2] = Gather(%known, %columns) {axis = 1} @"head"
      return y = %y
    }"""
    message = rf"^head: {backend} can't run Gather: it asks for place -4 of an axis of 3 elements"
    with pytest.raises(TargetError, match=message):
        legalized(parse_graph(text, {}), load_target("native"), backend)
