"""Which layers a logarithm keeps in float."""

import numpy as np

from planish.ir.builder import Builder
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType
from planish.passes.base import PassContext
from planish.passes.quantization.quantize import Quantize
from planish.targets.load import load_target

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_a_spectrum_stays_in_float_and_what_reads_its_logarithm_does_not():
    source = Graph()
    op = Builder(source)
    x = source.add_input("x", TensorType(DType.float32, (4, 32)))
    spectrum = op.MatMul(x, array(32, 16))
    power = op.MatMul(op.Mul(spectrum, spectrum), np.abs(array(16, 8)))
    source.outputs["y"] = op.MatMul(op.Log(op.Add(power, np.float32(1e-6))), array(8, 8))
    source.outputs["z"] = op.Log(op.Sigmoid(op.MatMul(x, array(32, 8))))
    feeds = [{"x": array(4, 32)}]
    graph = source.clone()
    result = Quantize().run(graph, PassContext(load_target("x86-64-avx512-vnni"), source, feeds))
    assert result.counts["layers"] == 2
    assert sum("a logarithm" in miss for miss in result.misses) == 2
