"""Quantization-aware training: rounding takes less, scales have moved, and backends agree with the interpreter."""

from typing import Any

import numpy as np
import pytest

import planish
from planish.ir.errors import UsageError
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift
from planish.ir.verify import verify
from planish.passes.base import Feeds, PassContext
from planish.passes.distillation.qat import QuantizationAwareTraining
from planish.targets.load import load_target

TARGET = load_target("x86-64-avx512-vnni")
NET = """(%x: float32[batch, 4, 8, 8]) {
  const %w: float32[16, 4, 3, 3]
  const %b: float32[16]
  const %v: float32[16, 16, 3, 3]
  const %c: float32[16]
  const %u: float32[5, 16]
  const %d: float32[5]
  %a: float32[batch, 16, 6, 6] = Conv(%x, %w, %b) @ "first"
  %r: float32[batch, 16, 6, 6] = Relu(%a)
  %e: float32[batch, 16, 4, 4] = Conv(%r, %v, %c) @ "second"
  %s: float32[batch, 16, 4, 4] = Relu(%e)
  %p: float32[batch, 16, 1, 1] = GlobalAveragePool(%s)
  %f: float32[batch, 16] = Flatten(%p)
  %y: float32[batch, 5] = Gemm(%f, %u, %d) {transB = 1} @ "head"
  return y = %y
}"""


@pytest.fixture(scope="module")
def data() -> list[Feeds]:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((32, 4, 8, 8), np.float32)} for _ in range(10)]


@pytest.fixture
def source(graph_of) -> Graph:
    shapes = {"w": (16, 4, 3, 3), "b": (16,), "v": (16, 16, 3, 3), "c": (16,), "u": (5, 16), "d": (5,)}
    random = np.random.default_rng(1)
    weights = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return graph_of(NET, {name: (array / np.sqrt(array[0].size)).astype(np.float32) for name, array in weights.items()})


def quantized(source: Graph, data: list[Feeds]) -> Graph:
    pipeline = "quantize{weight_bits=2,gptq=false,reconstruct=false}"
    return planish.optimize(source, pipeline, data=data[:2], target=TARGET, verify="structure").graph


def trained(source: Graph, graph: Graph, data: list[Feeds], **options: Any) -> Graph:
    student = graph.clone()
    step = QuantizationAwareTraining(epochs=40, lr=2e-2, loss="mse", **options)
    assert step.apply(student, PassContext(TARGET, source, data[:9])).changed
    verify(student)
    return student


def error(source: Graph, graph: Graph, data: list[Feeds]) -> float:
    return drift(*([Interpreter(it).run(feeds) for feeds in data[-1:]] for it in (source, graph)))


@pytest.mark.wide
def test_rounding_takes_less_and_backends_agree_with_the_interpreter(source: Graph, data: list[Feeds]) -> None:
    before = quantized(source, data)

    after = trained(source, before, data)

    assert error(source, after, data) < 0.9 * error(source, before, data)
    scales = [name for name in before.constants if name.endswith("scale")]
    assert len(scales) == 10  # of three weights, three biases, and four activations
    assert not any(np.array_equal(before.constants[name].data, after.constants[name].data) for name in scales)
    assert all(after.constants[name].type == constant.type for name, constant in before.constants.items())
    for node in after.nodes:
        if node.operator in ("Conv", "Gemm"):
            x, weight, bias = (value.producer.inputs[1].data for value in node.inputs)
            np.testing.assert_array_equal(bias, x * weight)
    for backend in ("onnxruntime", "tvm"):
        (found,) = planish.compile(after, backend)(data[-1]["x"])
        assert drift([Interpreter(after).run(data[-1])], [{"y": found}]) < 1e-6, backend


def test_zeros_of_a_pruned_model_stay_on_the_grid(source: Graph, data: list[Feeds]) -> None:
    """A mask, rounding and a teacher in one training."""
    pruned = source.clone()
    weight = pruned.constants["v"].data.copy()
    weight[np.abs(weight) < np.median(np.abs(weight))] = 0
    pruned.constants["v"].data = weight
    before = planish.optimize(
        pruned, "quantize{weight_bits=4,gptq=false}", data=data[:2], target=TARGET, verify="structure"
    ).graph
    (held,) = (it for it in before.constants.values() if it.type.shape == (16, 16, 3, 3))

    after = trained(source, before, data)

    assert np.mean(held.data == 0) >= 0.5
    assert not after.constants[held.name].data[held.data == 0].any()
    assert error(source, after, data) < 0.9 * error(source, before, data)


def test_what_is_not_selected_keeps_its_grid(source: Graph, data: list[Feeds]) -> None:
    before = quantized(source, data)

    after = trained(source, before, data, only=("head",))

    changed = {name for name, it in after.constants.items() if not np.array_equal(it.data, before.constants[name].data)}
    assert "u.scale" in changed
    assert not {"w.scale", "v.scale", "x.scale"} & changed


def test_a_float_model_is_refused(source: Graph, data: list[Feeds]) -> None:
    with pytest.raises(UsageError, match="no scales to train; quantize it before"):
        QuantizationAwareTraining().apply(source.clone(), PassContext(TARGET, source, data))


def test_a_channel_of_next_to_nothing_has_gradients(source: Graph, data: list[Feeds]) -> None:
    """PP-OCRv6 has some whose weights decayed to 1e-35: gradients divided by such a scale twice are infinite."""
    for name in "vc":
        source.constants[name].data[3] *= np.float32(1e-34)
    before = planish.optimize(source, "quantize", data=data[:2], target=TARGET, verify="structure").graph
    after = before.clone()
    step = QuantizationAwareTraining(epochs=2, lr=1e-4, loss="mse")
    step.apply(after, PassContext(TARGET, source, data[:9]))
    assert all(np.isfinite(constant.data).all() for constant in after.constants.values())
