"""Products of bytes as other machines compute them: exact, with what each of them is fastest at.

The instruction of AArch64 is spelled out in TVM's own arithmetic, so that all but the instruction itself runs here.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm import tirx

from planish.backends.legal import legalized
from planish.backends.tvm.codegen.hoisting import hoisted
from planish.backends.tvm.codegen.kernel_cache import KernelCache
from planish.backends.tvm.codegen.library import link, planned
from planish.backends.tvm.kernels.convolution import convolution_kernel
from planish.backends.tvm.kernels.gemm import gemm_kernel
from planish.backends.tvm.kernels.instructions.int8_dot import (
    K_PER_DOT,
    Int8Dot,
    Mul,
    Sdot,
    Vpdpbusd,
    Vpmaddubsw,
    Vpmaddwd,
)
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.llvm import llvm_target
from planish.backends.tvm.relax.lowering import to_relax
from planish.backends.tvm.runtime.program import Program
from planish.backends.tvm.runtime.storage import carried, restored
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Location
from planish.ir.interpreter import Interpreter
from planish.ir.types import DType, TensorType
from planish.passes.base import PassContext
from planish.passes.cleanup.fold_constants import ConstantFolding
from planish.passes.legalization.origins import Origins
from planish.targets.load import load_target

RNG = np.random.default_rng(0)
EIGHTH = np.float32(0.125)
DOTPROD = "llvm.aarch64.neon.sdot.v4i32.v16i8"

TARGETS = {
    "aarch64-dotprod": (Sdot, set()),
    "aarch64": (Mul, set()),
    "x86-64-avx2-vnni": (Vpdpbusd, {"avx512_vnni", "avx512vl"}),
    "x86-64-avx512": (Vpmaddubsw, {"avx512bw"}),
    "x86-64-avx2": (Vpmaddubsw, {"avx2"}),
    "x86-64": (Vpmaddwd, {"sse2"}),
}
"""What each multiplies small weights with, and what this machine needs to run that."""


@pytest.fixture
def dotprod_spelled_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let templates write AArch64's instruction by its definition meanwhile: sums, and the four products of each."""
    call = tirx.call_llvm_pure_intrin

    def spelled_out(dtype: str, name: str, *operands: tirx.Expr) -> tirx.Expr:
        if name != DOTPROD:
            return call(dtype, name, *operands)
        sums, *factors = operands
        for byte in range(K_PER_DOT):
            places = [lane * K_PER_DOT + byte for lane in range(4)]
            left, right = (tirx.Shuffle([factor], places).astype("int32x4") for factor in factors)
            sums = sums + left * right
        return sums

    monkeypatch.setattr(tirx, "call_llvm_pure_intrin", spelled_out)
    for template in (convolution_kernel, gemm_kernel):
        template.cache_clear()
    yield
    for template in (convolution_kernel, gemm_kernel):
        template.cache_clear()


@pytest.fixture(params=TARGETS)
def agree_on(request, dotprod_spelled_out, tmp_path) -> Callable[..., None]:
    """A check that a graph lowered for another machine and compiled for this one gives what the interpreter does."""
    target, native = load_target(request.param), load_target("native")
    kind, needed = TARGETS[request.param]
    if native.architecture != "x86_64" or not needed <= native.features:
        pytest.skip(f"this machine lacks {', '.join(needed)}")

    def agree_on(build: Callable[..., list], x: np.ndarray) -> None:
        assert isinstance(Int8Dot.of(Machine.of(target), np.ones((8, 8), np.int8)), kind)
        graph = Graph("test")
        given = graph.add_input("x", TensorType(DType.of(x.dtype), x.shape))
        made = build(Builder(graph, location=Location("layer")), given)
        graph.outputs = {f"y{index}": value for index, value in enumerate(made)}
        legal = legalized(graph, target, "tvm")
        ConstantFolding().run(legal, PassContext(target, source=graph))
        module, weights = hoisted(to_relax(legal, Origins.of(graph), target).module)
        machine, library = llvm_target(native), tmp_path / "model.so"
        link(planned(module, machine).module, machine, KernelCache(tmp_path))[0].export_library(library)
        found = Program(library, weights, 2)([carried(x)])
        for result, (name, expected) in zip(found, Interpreter(graph).run({"x": x}).items(), strict=True):
            np.testing.assert_array_equal(restored(result, graph.outputs[name].dtype), expected, err_msg=name)

    return agree_on


@pytest.mark.parametrize("most", [63, 127])
def test_products_are_exact(agree_on, most: int) -> None:
    """Grids are known, found for all rows, or none; steps and columns go beyond whole runs and tiles."""

    def build(op, x):
        results = []
        for depth, columns in ((32, 16), (40, 50), (100, 24)):
            weights = RNG.integers(-most, most + 1, (depth, columns)).astype(np.int8)
            part = op.Slice(x, [0], [depth], [1])
            known = op.DequantizeLinear(op.QuantizeLinear(part, EIGHTH, np.uint8(100)), EIGHTH, np.uint8(100))
            scaled = op.DequantizeLinear(weights, np.full(columns, 0.25, np.float32), axis=1)
            integers, _, zero_point = op.DynamicQuantizeLinear(part, outputs=3)
            sums = [op.MatMulInteger(integers, weights, *point) for point in ((zero_point,), ())]
            results += [op.MatMul(known, scaled), *sums]
        return results

    agree_on(build, (RNG.integers(-300, 300, (19, 100)) / 16).astype(np.float32))


CONVOLUTIONS = {
    "pointwise": ((2, 32, 7, 5), (48, 32, 1, 1), {}),
    "first": ((1, 3, 19, 23), (20, 3, 5, 5), {"strides": (2, 2), "pads": (2, 2, 2, 2)}),
    "odd": ((1, 19, 9, 11), (21, 19, 3, 2), {"pads": (1, 3, 0, 2), "dilations": (1, 2)}),
    "narrow": ((1, 16, 9, 3), (24, 16, 3, 3), {"pads": (1, 1, 1, 1)}),
    "grouped": ((1, 32, 6, 9), (32, 8, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER"}),
    "depthwise": ((1, 37, 9, 19), (37, 1, 3, 5), {"group": 37, "strides": (1, 2), "pads": (1, 2, 0, 3)}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions_are_exact(agree_on, case: str) -> None:
    """Scales are powers of two, so that float32 holds all sums; weights are small in one of two."""
    shape, filters, attributes = CONVOLUTIONS[case]
    scales = (2.0 ** RNG.integers(-6, -3, filters[0])).astype(np.float32)

    def build(op, x):
        results = []
        for most, zero_point in ((63, 77), (127, 0), (127, 128)):
            weights = RNG.integers(-most, most + 1, filters).astype(np.int8)
            images = op.DequantizeLinear(x, EIGHTH, np.uint8(zero_point))
            y = op.Conv(images, op.DequantizeLinear(weights, scales, axis=0), **attributes)
            results += [y, op.QuantizeLinear(op.Relu(y), np.float32(4), np.uint8(7))]
        return results

    agree_on(build, RNG.integers(0, 256, shape).astype(np.uint8))


@pytest.mark.parametrize(
    ("pair", "kind"),
    [
        ((64, 64), Vpmaddubsw),
        ((127, 1), Vpmaddubsw),
        ((-128, 127), Vpmaddubsw),
        ((-64, -64), Vpmaddubsw),
        ((64, 65), Vpmaddwd),
        ((-1, -128), Vpmaddwd),
    ],
)
def test_pairs_that_could_saturate_are_multiplied_in_16_bits(pair: tuple[int, int], kind: type[Int8Dot]) -> None:
    """32767 is what 16 bits hold: 255 * 128 still fits."""
    weights = np.zeros((3, 8), np.int8)
    weights[1, 4:6] = pair
    assert isinstance(Int8Dot.of(Machine(8, 16, 1, is_x86=True), weights), kind)
    across = np.zeros((3, 8), np.int8)
    across[1, 3:5] = pair  # these belong to two pairs
    assert isinstance(Int8Dot.of(Machine(8, 16, 1, is_x86=True), across), Vpmaddubsw)
