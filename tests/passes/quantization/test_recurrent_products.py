"""LSTMs multiply by int8 at run time: where that is faster and loses little, and nowhere else."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import planish
from planish.backends.legal import legalized
from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.types import DType, TensorType
from planish.passes.base import PassContext, PassResult, Profile
from planish.passes.distillation.distill import Distillation
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
STEPS, FEATURES, HIDDEN = 5, 24, 32
LSTM, DYNAMIC = "LSTM", "com.microsoft::DynamicQuantizeLSTM"


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def feeds(scale: np.ndarray | float = 1.0) -> dict[str, np.ndarray]:
    return {"x": floats(STEPS, 2, FEATURES) * np.float32(scale)}


def model(operator: str = LSTM, directions: int = 1, layers: int = 1, layout: int = 0, batch: int | str = 2) -> Graph:
    """A graph of layers that read the same input by the same weights, and return outputs and states."""
    graph = Graph("main")
    x = graph.add_input("x", TensorType(DType.float32, (STEPS, batch, FEATURES)))
    op, gates = Builder(graph), {"GRU": 3, LSTM: 4}[operator]
    shapes = {"w": (directions, gates * HIDDEN, FEATURES), "r": (directions, gates * HIDDEN, HIDDEN)}
    w, r = (op.constant(floats(*shape) * np.float32(0.2), name) for name, shape in shapes.items())
    direction = "bidirectional" if directions == 2 else "forward"
    for index in range(layers):
        y, last, *_ = op(operator, x, w, r, outputs=2, hidden_size=HIDDEN, direction=direction, layout=layout)
        graph.outputs |= {f"y{index}": y, f"last{index}": last}
    return graph


def quantized(
    graph: Graph,
    data: Sequence[dict[str, np.ndarray]] | None = None,
    seconds: tuple[float, float] = (1.0, 0.5),
    target: str = "x86-64-avx512-vnni",
    scheme: str = "int8-dynamic",
    **options: object,
) -> PassResult:
    """Quantize a graph for a backend on which graphs take these seconds with LSTMs in floats and in integers."""

    def profile(graphs: Sequence[Graph], **_: object) -> list[Profile]:
        are_dynamic = [any(node.operator == DYNAMIC for node in one.nodes) for one in graphs]
        return [Profile(np.full(8, seconds[is_dynamic]), {}, {}) for is_dynamic in are_dynamic]

    batches = [feeds() for _ in range(4)] if data is None else data
    context = PassContext(load_target(target), source=graph.clone(), calibration=batches, profile=profile, **options)
    return Quantize(scheme=scheme).apply(graph, context)


def operators(graph: Graph) -> list[str]:
    return [node.operator for node in graph.nodes if node.operator in (LSTM, DYNAMIC, "GRU")]


@pytest.mark.parametrize("directions", [1, 2])
def test_every_column_of_a_gate_has_its_own_scale(directions: int) -> None:
    graph = model(directions=directions)
    weight = graph.constants["w"].data
    assert quantized(graph).counts["lstms"] == 1
    integers, scale = graph.constants["w.integers"].data, graph.constants["w.scale"].data
    assert (integers.dtype, integers.shape) == (np.int8, (directions, FEATURES, 4 * HIDDEN))
    assert np.all(np.abs(integers * scale[:, None] - weight.swapaxes(1, 2)) <= scale[:, None] * 0.501)
    assert not {"w", "r"} & graph.constants.keys()


def test_backends_agree_with_the_interpreter() -> None:
    source, sample = model(directions=2), feeds()
    graph = source.clone()
    quantized(graph)
    expected, exact = Interpreter(graph).run(sample), Interpreter(source).run(sample)
    assert 0 < drift([exact], [expected]) < 0.03
    target = replace(load_target("native"), threads=1)  # several would put their parts of a batch on grids of their own
    for backend in ("onnxruntime", "tvm"):
        outputs = planish.compile(graph, backend=backend, target=target)(sample["x"])
        for found, wanted in zip(outputs, expected.values(), strict=True):
            np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_the_kernel_never_sees_an_empty_batch() -> None:
    """It would end the process."""
    graph = model(batch="batch")
    quantized(graph)
    legal = legalized(graph, load_target("native"), "onnxruntime")
    assert [node.operator for node in legal.nodes] == ["Reshape", DYNAMIC]


def test_layers_before_learn_through_the_integers_which_stay() -> None:
    graph = Graph("main")
    x = graph.add_input("x", TensorType(DType.float32, (STEPS, 2, FEATURES)))
    op = Builder(graph)
    w, r = (op.constant(floats(1, 4 * HIDDEN, k) * np.float32(0.2), n) for n, k in (("w", FEATURES), ("r", HIDDEN)))
    scaled = op.Mul(x, op.constant(np.linspace(0.5, 1.5, FEATURES, dtype=np.float32), "gain"))
    graph.outputs = {"y": op.LSTM(scaled, w, r, hidden_size=HIDDEN)}
    data = [feeds() for _ in range(4)]
    source = graph.clone()
    quantized(graph, data)
    before = {name: constant.data.copy() for name, constant in graph.constants.items()}
    graph.constants["gain"].data = before["gain"] * np.float32(0.5)
    Distillation(epochs=4).apply(graph, PassContext(load_target("x86-64"), source=source, calibration=data))
    after = {name: constant.data for name, constant in graph.constants.items()}
    assert np.abs(after["gain"] - before["gain"]).max() < np.abs(before["gain"] * 0.5).max()
    assert all(np.array_equal(after[name], before[name]) for name in before if name != "gain")


def test_layers_go_on_to_share_a_weight() -> None:
    graph = model(layers=2)
    assert quantized(graph).counts["lstms"] == 2
    assert sum(constant.data.ndim == 3 for constant in graph.constants.values()) == 2


@pytest.mark.parametrize("scheme", ["int8", "int8-dynamic"])
@pytest.mark.parametrize(("seconds", "is_taken"), [((1.0, 0.5), True), ((1.0, 0.99), False), ((0.5, 1.0), False)])
def test_only_what_is_measured_to_be_faster_is_taken(scheme: str, seconds: tuple[float, float], is_taken: bool) -> None:
    graph = model()
    result = quantized(graph, seconds=seconds, scheme=scheme)
    assert operators(graph) == [DYNAMIC if is_taken else LSTM]
    assert (result.counts["lstms"], result.counts["recurrent"]) == ((1, 0) if is_taken else (0, 1))
    assert any("LSTM multiplies by floats: int8 isn't measured to be faster" in it for it in result.misses) != is_taken


def test_a_layer_that_loses_much_on_held_out_inputs_stays() -> None:
    """A few steps that reach far leave no codes to the others, each of which the output shows."""
    graph, far = model(), np.ones((STEPS, 1, 1))
    far[0] = 1e4
    result = quantized(graph, [feeds(), feeds(far)])
    assert operators(graph) == [LSTM]
    assert result.counts["recurrent"] == 1
    (miss,) = [miss for miss in result.misses if "LSTM" in miss]
    assert "LSTM multiplies by floats: int8 would lose " in miss


def test_nothing_is_judged_without_data() -> None:
    graph = model()
    result = quantized(graph, [])
    assert operators(graph) == [LSTM]
    assert any("only calibration data could tell what int8 would lose" in miss for miss in result.misses)


@pytest.mark.parametrize("scheme", ["int4", "int8-weights"])
def test_schemes_for_weights_alone_leave_the_input_in_floats(scheme: str) -> None:
    graph = model()
    assert quantized(graph, scheme=scheme).counts["recurrent"] == 1
    assert operators(graph) == [LSTM]


@pytest.mark.parametrize("what", ["GRU", "batch first", "target", "undecided"])
def test_other_layers_and_other_machines_have_no_kernel(what: str) -> None:
    graph = model("GRU" if what == "GRU" else LSTM, layout=what == "batch first")
    target = "x86-64-avx512" if what == "target" else "x86-64-avx512-vnni"
    result = quantized(graph, target=target, profile_decides=what != "undecided")
    assert operators(graph) == ["GRU" if what == "GRU" else LSTM]
    assert (result.counts.get("lstms", 0), result.counts["recurrent"]) == (0, 1)
