"""What is spelled out for ONNX Runtime means the same, there and in the interpreter."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planish.backends import find_backend
from planish.backends.artifact import load, write_artifact
from planish.backends.legal import legalized
from planish.ir.builder import Builder
from planish.ir.dims import Dim
from planish.ir.errors import TargetError
from planish.ir.graph import Graph, Location
from planish.ir.interpreter import Interpreter
from planish.ir.text import parse_graph
from planish.ir.types import DType, TensorType
from planish.targets.load import load_target

RNG = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


TREES: dict[str, Any] = {
    "nodes_splits": np.array([0.1], np.float32),
    "nodes_featureids": (0,),
    "nodes_modes": np.array([0], np.uint8),
    "nodes_truenodeids": (0,),
    "nodes_trueleafs": (1,),
    "nodes_falsenodeids": (1,),
    "nodes_falseleafs": (1,),
    "leaf_targetids": (0, 1),
    "leaf_weights": np.array([1.0, 2.5], np.float32),
    "tree_roots": (0,),
    "n_targets": 2,
}
STATES = (None, floats(3, 1, 4), floats(3, 1, 4))
POOLED = (np.array([[[[5.0, 6], [7, 8]]]], np.float32), np.array([[[[5, 7], [13, 15]]]]))
CASES: dict[str, tuple[str, Sequence[np.ndarray | None], dict[str, Any], int]] = {
    "rnn": ("RNN", (floats(3, 5, 2), floats(1, 4, 2), floats(1, 4, 4)), {"layout": 1, "hidden_size": 4}, 2),
    "gru": ("GRU", (floats(3, 5, 2), floats(2, 12, 2), floats(2, 12, 4)),
            {"layout": 1, "hidden_size": 4, "direction": "bidirectional"}, 2),
    "lstm": ("LSTM", (floats(3, 5, 2), floats(1, 16, 2), floats(1, 16, 4), floats(1, 32), *STATES),
             {"layout": 1, "hidden_size": 4}, 3),
    "unpool": ("MaxUnpool", (*POOLED, np.array([1, 1, 5, 5])), {"kernel_shape": (2, 2), "strides": (2, 2)}, 1),
    "corners": ("Resize", (floats(1, 1, 4, 5), None, np.array([1, 1, 0.6, 0.7], np.float32)),
                {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, 1),
    "cubic corners": ("Resize", (floats(1, 1, 4, 4), None, np.array([0.8, 0.3], np.float32)),
                      {"mode": "cubic", "coordinate_transformation_mode": "align_corners", "axes": (2, 3)}, 1),
    "hard sigmoid of doubles": ("HardSigmoid", (np.linspace(-4, 4, 9),), {"alpha": 0.25}, 1),
    "hard swish of doubles": ("HardSwish", (np.linspace(-4, 4, 9),), {}, 1),
    "gate": ("SwiGLU", (floats(2, 3), floats(2, 3)), {"alpha": 1.5}, 1),
    "softmax of trees": ("ai.onnx.ml::TreeEnsemble", (floats(4, 2),), {**TREES, "post_transform": 1}, 1),
    "sigmoid of trees": ("ai.onnx.ml::TreeEnsemble", (floats(4, 2),), {**TREES, "post_transform": 2}, 1),
    "range of rows": ("Range", (np.array([1]), np.array(9), np.array([3])), {}, 1),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_means_the_same(case: str, tmp_path: Path) -> None:
    operator, arrays, attributes, outputs = CASES[case]
    graph, feeds = Graph(), {}
    op = Builder(graph, location=Location("layer"))
    inputs: list[Any] = []
    for index, array in enumerate(arrays):
        if array is None or (operator == "Resize" and index):
            inputs.append(array)
            continue
        inputs.append(graph.add_input(f"x{index}", TensorType(DType.of(array.dtype), array.shape)))
        feeds[f"x{index}"] = array
    made = op(operator, *inputs, outputs=outputs, **attributes)
    graph.outputs = {f"y{index}": value for index, value in enumerate(made if outputs > 1 else (made,))}
    check(graph, feeds, tmp_path)


UNRANKED = {
    "Attention": ("%x, %x, %x, %x", "{kv_num_heads = 2, q_num_heads = 2}"),
    "GRU": ("%x, %x, %x", "{hidden_size = 4}"),
    "Gather": ("%x, %places", "{axis = 1}"),
    "LSTM": ("%x, %x, %x", "{hidden_size = 4}"),
    "Range": ("%x, %x, %x", ""),
    "Resize": ("%x, none, %scales", '{coordinate_transformation_mode = "align_corners", mode = "linear"}'),
}


@pytest.mark.parametrize("operator", UNRANKED)
def test_a_rank_that_only_data_tells_is_left_to_the_runtime_or_refused_by_name(operator: str) -> None:
    inputs, attributes = UNRANKED[operator]
    graph = parse_graph(
        f"""graph "g"(%x: float32[...]) {{
        const %places: int64[1] = [1]
        const %scales: float32[2] = [0.6, 0.7]
        %y: float32[...] = {operator}({inputs}) {attributes}
        return y = %y }}""",
        {},
    )
    try:
        assert operators(graph)
    except TargetError as error:
        assert operator in str(error)


def test_corners_that_are_aligned_by_scales_of_run_time_are_refused() -> None:
    graph = parse_graph(
        """graph "g"(%x: float32[1, 1, 4, 4], %scales: float32[4]) {
        %y: float32[a, b, c, d] = Resize(%x, none, %scales) {coordinate_transformation_mode = "align_corners"} @ "layer"
        return y = %y }"""
    )
    with pytest.raises(TargetError, match=r"layer: .*Resize: the scales .* are known at run time alone"):
        operators(graph)


@pytest.mark.parametrize("rows", [5, "rows"])
def test_flexible_attention_writes_out_the_graphs_inside(rows: Dim, tmp_path: Path) -> None:
    graph = Graph()
    op = Builder(graph, location=Location("attention"))
    q = graph.add_input("q", TensorType(DType.float32, (2, 4, rows, 8)))
    k, v = (graph.add_input(name, TensorType(DType.float32, (2, 2, 7, 8))) for name in "kv")
    cap = op.constant(np.array(3, np.float32))
    body = Graph("capped", graph)
    inner = Builder(body)
    scores = body.add_input("scores", TensorType(DType.float32, (2, 4, rows, 7)))
    body.outputs["changed"] = inner.Mul(inner.Tanh(inner.Div(scores, cap)), cap)
    graph.outputs["y"] = op("ai.onnx.preview::FlexAttention", q, k, v, score_mod=body)
    check(graph, {"q": floats(2, 4, 5, 8), "k": floats(2, 2, 7, 8), "v": floats(2, 2, 7, 8)}, tmp_path)


def test_draws_are_zeros_and_ones(tmp_path: Path) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, ("n",)))
    graph.outputs["y"] = Builder(graph).Bernoulli(x, dtype=DType.int32)
    (drawn,) = run(graph, {"x": np.array([0, 1] * 50 + [0.5] * 100, np.float32)}, tmp_path)
    assert drawn.dtype == np.int32
    assert drawn[:100].tolist() == [0, 1] * 50
    assert 0 < drawn[100:].sum() < 100


def check(graph: Graph, feeds: dict[str, np.ndarray], folder: Path) -> None:
    expected = Interpreter(graph).run(feeds)
    spelled_out = legalized(graph, load_target("native"), "onnxruntime")
    same = Interpreter(spelled_out).run(feeds)
    for (name, want), ours, theirs in zip(expected.items(), same.values(), run(graph, feeds, folder), strict=True):
        np.testing.assert_allclose(ours, want, 1e-5, 1e-6, err_msg=name)
        np.testing.assert_allclose(theirs, want, 1e-5, 1e-5, err_msg=name)


def run(graph: Graph, feeds: dict[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    write_artifact(folder / "artifact", graph, find_backend("onnxruntime"), load_target("native"))
    return load(folder / "artifact").run(feeds)


def operators(graph: Graph) -> list[str]:
    return [node.operator for node in legalized(graph, load_target("native"), "onnxruntime").nodes]


QUOTIENTS: dict[str, tuple[str, list[str]]] = {
    "of anything": ("%y: int64[n] = Div(%x, %x)", ["Equal", "Neg", "Where", "Div", "Where"]),
    "by -1": ("const %c: int64[] = -1\n%y: int64[n] = Div(%x, %c)", ["Equal", "Neg", "Where", "Div", "Where"]),
    "by another": ("const %c: int64[] = 2\n%y: int64[n] = Div(%x, %c)", ["Div"]),
    "of a size": ("%s: int64[1] = Shape(%x)\n%y: int64[n] = Div(%s, %x)", ["Shape", "Div"]),
    "of a number": ("const %c: int64[] = 7\n%y: int64[n] = Div(%c, %x)", ["Div"]),
    "of few bits": ("%a: int16[n] = Cast(%x) {to = 5}\n%y: int16[n] = Div(%a, %a)", ["Cast", "Div"]),
}


@pytest.mark.parametrize("quotient", QUOTIENTS)
def test_integers_are_divided_so_that_the_process_goes_on(quotient: str, tmp_path: Path) -> None:
    lines, expected = QUOTIENTS[quotient]
    graph = parse_graph(f'graph "g"(%x: int64[n]) {{ {lines} \n return y = %y }}', {})
    assert sorted(operators(graph)) == sorted(expected)
    feeds = {"x": np.array([-(2**63), -1, 5])}
    if quotient == "of anything":
        check(graph, feeds, tmp_path)


@pytest.mark.parametrize(
    ("operator", "gates", "shape", "is_guarded"),
    [
        ("LSTM", 4, (5, 2), False),
        ("LSTM", 4, ("time", 2), False),
        ("LSTM", 4, (5, "batch"), True),
        ("GRU", 3, (5, 2), False),
        ("GRU", 3, ("time", 2), True),
        ("GRU", 3, (5, "batch"), True),
    ],
)
def test_recurrent_layers_fail_over_nothing(
    operator: str, gates: int, shape: Sequence[Dim], is_guarded: bool, tmp_path: Path
) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.float32, (*shape, 2)))
    weights = floats(1, 4 * gates, 2), floats(1, 4 * gates, 4)
    y, _ = Builder(graph)(operator, x, *weights, hidden_size=4, outputs=2)
    graph.outputs["y"] = y
    assert operators(graph) == [*["Reshape"] * is_guarded, operator]
    assert legalized(graph, load_target("native"), "onnxruntime").outputs["y"].shape == y.shape
    check(graph, {"x": floats(5, 2, 2)}, tmp_path)
