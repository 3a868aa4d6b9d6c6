"""Which fused kernels of ONNX Runtime beat what they are made of on this machine: the source of targets' `fused`.

    python benchmarks/fused_kernels.py [--threads 2] [--seconds 1.5] [--only 'Gelu*']

Sessions of one operator in float32 run in turn, round after round: as it is; spelled out as `legalize` does for a
target that doesn't list it, or as exporters do; and that with the runtime's own fusions switched off (all beyond its
basic optimizations), which tells what the kernel is worth where the runtime would find it by itself. Ratios above 1
favour the fused kernel, in brackets the quartiles over the rounds. What the sessions give must be equal.

Last come products of one input that could be one product: queries, keys and values, in float32 and dynamic int8.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated

import numpy as np
import onnx_ir
import onnxruntime
import typer

import planish
from planish.backends.legal import legalized
from planish.backends.onnx_model import to_onnx
from planish.ir.builder import Builder
from planish.ir.graph import Graph, Value
from planish.ir.types import DType, TensorType
from planish.passes.legalization.fused import FUSED
from planish.targets.load import load_target

Shape = tuple[int, ...]
Run = Callable[[], list[np.ndarray]]
LEVELS = onnxruntime.GraphOptimizationLevel
TOKENS, HIDDEN, IMAGE, GATE = (1, 128, 768), (1, 128, 3072), (1, 96, 56, 56), (1, 480, 1, 1)
WIDE, CHANNELS = TOKENS[-1], IMAGE[1]


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True)
class Case:
    """A fused operator on inputs of some shapes.

    Attributes:
        operator: the operator, as a target lists it.
        shapes: the shapes of the inputs.
        build: writes the operator into a graph.
        spelled: writes the same in other operators, where these aren't the ones that `legalize` writes.
        note: what is special about the case.
        is_integer: whether its products are quantized dynamically.
    """

    operator: str
    shapes: tuple[Shape, ...]
    build: Callable[..., Value]
    spelled: Callable[..., Value] | None = None
    note: str = ""
    is_integer: bool = False

    @property
    def label(self) -> str:
        return " ".join(
            filter(None, (self.operator.rpartition("::")[2], self.note, "x".join(map(str, self.shapes[0]))))
        )

    def graph(self, build: Callable[..., Value]) -> Graph:
        graph = Graph()
        inputs = [graph.add_input(f"x{i}", TensorType(DType.float32, shape)) for i, shape in enumerate(self.shapes)]
        graph.outputs = {"y": build(Builder(graph), *inputs)}
        return planish.optimize(graph, "quantize{scheme=int8-dynamic}").graph if self.is_integer else graph

    def fused_and_spelled(self) -> tuple[Graph, Graph]:
        """The fused and the spelled form as graphs that the runtime takes."""
        target = load_target("native")
        fused = legalized(self.graph(self.build), replace(target, fused={}), "onnxruntime")
        kept = frozenset(FUSED) - {self.operator}
        spelled = self.graph(self.spelled or self.build)
        return fused, legalized(spelled, replace(target, fused={"onnxruntime": kept}), "onnxruntime")


def attention(heads: int, guarded: bool = False) -> Callable[..., Value]:
    """Attention spelled out as exporters do it, with a guard against rows that are masked altogether or without."""

    def build(op: Builder, q: Value, k: Value, v: Value) -> Value:
        width = q.type.static_shape[2] // heads
        q, k, v = (op.Reshape(value, [0, 0, heads, width]) for value in (q, k, v))
        scaled = op.Mul(op.Transpose(q, perm=(0, 2, 1, 3)), width**-0.5)
        rows = op.Softmax(op.MatMul(scaled, op.Transpose(k, perm=(0, 2, 3, 1))), axis=-1)
        rows = op.Where(op.IsNaN(rows), op.constant(0.0), rows) if guarded else rows
        y = op.MatMul(rows, op.Transpose(v, perm=(0, 2, 1, 3)))
        return op.Reshape(op.Transpose(y, perm=(0, 2, 1, 3)), [0, 0, heads * width])

    return build


def rotated(op: Builder, x: Value, cosines: Value, sines: Value) -> Value:
    """Rotary embedding as Llama writes it: `x cos + rotate_half(x) sin`."""
    half = x.type.static_shape[3] // 2
    cosines, sines = (op.Unsqueeze(op.Concat(value, value, axis=-1), [1]) for value in (cosines, sines))
    left, right = op.Slice(x, [0], [half], [3]), op.Slice(x, [half], [2 * half], [3])
    return op.Add(op.Mul(x, cosines), op.Mul(op.Concat(op.Neg(right), left, axis=-1), sines))


def three_products(is_merged: bool) -> Callable[..., Value]:
    """Attention of one input, with queries, keys and values by products of their own or one for all."""

    def build(op: Builder, x: Value) -> Value:
        width = x.type.static_shape[2]
        matrices, biases = np.split(weights(width, 3 * width) * width**-0.5, 3, axis=1), np.split(weights(3 * width), 3)
        if is_merged:
            product = op.Add(op.MatMul(x, np.concatenate(matrices, axis=1)), np.concatenate(biases))
            rows = op.Split(product, [width] * 3, axis=-1, outputs=3)
        else:
            rows = [op.Add(op.MatMul(x, matrix), bias) for matrix, bias in zip(matrices, biases, strict=True)]
        return op.Attention(*rows, q_num_heads=12, kv_num_heads=12)

    return build


def merged_products() -> list[Case]:
    return [
        Case(
            "Q/K/V merged", (shape,), three_products(is_merged=True), three_products(is_merged=False), note, is_integer
        )
        for shape in [(1, 1, 768), (1, 16, 768), (1, 128, 384), TOKENS, (1, 197, 768), (8, 128, 384)]
        for note, is_integer in (("", False), ("int8", True))
    ]


def cases() -> list[Case]:
    """Sizes are those of BERT, ViT, ResNet, MobileNet, Stable Diffusion."""
    found: list[Case] = []
    for tokens, heads, width in [(128, 12, 32), (128, 12, 64), (197, 12, 64), (512, 12, 64), (16, 4, 16)]:
        shapes = ((1, tokens, heads * width),) * 3

        def fused(op: Builder, *inputs: Value, heads: int = heads) -> Value:
            return op.Attention(*inputs, q_num_heads=heads, kv_num_heads=heads)

        found += [Case("Attention", shapes, fused, attention(heads))]
        found += [Case("Attention", shapes, fused, attention(heads, guarded=True), "guarded")]
    found += [
        Case("Gelu", (HIDDEN,), lambda op, x: op.Gelu(x)),
        Case("Gelu", (HIDDEN,), lambda op, x: op.Gelu(x, approximate="tanh"), note="tanh"),
        Case("LayerNormalization", (TOKENS,), lambda op, x: op.LayerNormalization(x, weights(WIDE), weights(WIDE))),
        Case("RMSNormalization", (TOKENS,), lambda op, x: op.RMSNormalization(x, weights(WIDE))),
        Case("RotaryEmbedding", ((1, 12, 128, 64), (1, 128, 32), (1, 128, 32)), lambda op, *x: op.RotaryEmbedding(*x),
             rotated),
        Case("HardSigmoid", (IMAGE,), lambda op, x: op.HardSigmoid(x, alpha=1 / 6, beta=0.5)),
        Case("HardSigmoid", (GATE,), lambda op, x: op.HardSigmoid(x, alpha=1 / 6, beta=0.5)),
        Case("HardSwish", (IMAGE,), lambda op, x: op.HardSwish(x)),
        Case("com.microsoft::QuickGelu", (IMAGE,), lambda op, x: op("com.microsoft::QuickGelu", x, alpha=1.0)),
        Case("com.microsoft::QuickGelu", (HIDDEN,), lambda op, x: op("com.microsoft::QuickGelu", x)),
        Case("Mish", (IMAGE,), lambda op, x: op.Mish(x)),
        Case("Mish", (IMAGE,), lambda op, x: op.Mish(x), lambda op, x: op.Mul(x, op.Tanh(op.Softplus(x))),
             "by Softplus"),
        Case("InstanceNormalization", (IMAGE,),
             lambda op, x: op.InstanceNormalization(x, weights(CHANNELS), weights(CHANNELS))),
        *(
            Case("GroupNormalization", (shape,), lambda op, x: op.GroupNormalization(
                x, weights(x.shape[1]), weights(x.shape[1]), num_groups=32))
            for shape in [(1, 128, 32, 32), (1, 320, 64, 64)]
        ),
        *(
            Case("com.microsoft::SkipLayerNormalization", (shape, shape), lambda op, x, y: op.LayerNormalization(
                op.Add(x, y), weights(x.shape[-1]), weights(x.shape[-1])))
            for shape in [(1, 128, 384), TOKENS, (8, 128, 768), (1, 1, 768)]
        ),
    ]  # fmt: skip
    return found


def runner(graph: Graph, threads: int, level: onnxruntime.GraphOptimizationLevel) -> Run:
    """A call that runs the graph once on fixed random inputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = level
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it steals a core from the next session
    model = onnx_ir.to_proto(to_onnx(graph)).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds = {port.name: random.standard_normal(port.shape, dtype=np.float32) for port in session.get_inputs()}
    return lambda: session.run(None, feeds)


def ratio(slow: np.ndarray, fast: np.ndarray) -> str:
    low, middle, high = np.quantile(slow / fast, [0.25, 0.5, 0.75])
    return f"x{middle:5.2f} ({low:4.2f}-{high:4.2f})"


def main(
    threads: Annotated[int, typer.Option(help="Threads of each session.")] = 2,
    seconds: Annotated[float, typer.Option(help="Seconds for each case.")] = 1.5,
    only: Annotated[str, typer.Option(help="A glob of cases.")] = "*",
) -> None:
    """Measure and print."""
    from turns import in_turns, warm_seconds  # here, since a test loads this file from elsewhere

    print(
        f"onnxruntime {onnxruntime.__version__}, {threads} threads; "
        f"speed of the fused kernel relative to the spelled form,"
    )
    print("and to it without fusions of the runtime's own")
    for case in (case for case in (*cases(), *merged_products()) if fnmatchcase(case.label, only)):
        fused, spelled = case.fused_and_spelled()
        runs = [runner(fused, threads, LEVELS.ORT_ENABLE_ALL), runner(spelled, threads, LEVELS.ORT_ENABLE_ALL)]
        runs += [runner(spelled, threads, LEVELS.ORT_ENABLE_BASIC)]
        for run in runs[1:]:
            np.testing.assert_allclose(run()[0], runs[0]()[0], rtol=1e-3, atol=5e-3 if case.is_integer else 1e-4)
        one, other, unfused = in_turns(runs, warm_seconds, 15, seconds, shuffled=True)
        print(
            f"{case.label:40} {np.median(one) * 1e6:9.1f} us   {ratio(other, one)}   {ratio(unfused, one)} unfused",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
