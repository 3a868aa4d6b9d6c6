"""Whether clean-up and fusion take time in proportion to the graph: 1,000, 10,000 and 100,000 nodes.

    pip install planish[build,benchmarks]
    python benchmarks/linearity.py [--only 'trans*'] [--sizes 1000,10000,100000] [--json RESULTS.json]

The graphs are layers upon layers, of few channels: transformer layers as torch's exporter writes those of GPT-2 before
its optimizer runs, blocks of convolutions with squeeze and excitation, and reshapes to sizes that are computed from
those of an input that leaves them free. Each graph has a process of its own, in which `cleanup,fuse` runs with the
verifier between the passes, after a run on a small graph that isn't counted. Seconds are those of the passes, the best
of as many runs as there is time for; they are of the processor, which other work on the machine disturbs less. The
ratio is that of the time per node to that of the smallest graph. The peak is of the process's resident memory, with the
libraries that it imports.
"""

import gc
import json
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from planish.ir.builder import Builder
from planish.ir.graph import Graph, Value
from planish.ir.types import DType, TensorType
from planish.passes.base import Pass, PassContext
from planish.passes.instrument import Instrument
from planish.passes.manager import PassManager
from planish.passes.pipeline import parse_pipeline
from planish.targets.load import load_target

MOST_RATIO, MOST_SECONDS, MOST_BYTES = 1.3, 15.0, 2 << 30
WIDTH = 8
ENOUGH_SECONDS = 3.0
"""The time for runs on one graph, of which the best counts."""

Layer = Callable[[Builder, Value, np.random.Generator], Value]


# -- the graphs


def weight(op: Builder, random: np.random.Generator, *shape: int) -> Value:
    return op.constant(random.standard_normal(shape, np.float32), "weight")


def whole(op: Builder, *sizes: int) -> Value:
    """A shape as torch's exporter writes it: constants, concatenated."""
    return op.Concat(*(op.constant([size]) for size in sizes), axis=0)


def transformer_layer(op: Builder, x: Value, random: np.random.Generator) -> Value:
    """A layer of GPT-2 for two sequences of four tokens."""
    normal = op.LayerNormalization(x, weight(op, random, WIDTH), weight(op, random, WIDTH), axis=-1)
    parts = op.SplitToSequence(linear(op, normal, 3 * WIDTH, random), op.constant(WIDTH), axis=2)
    query, key, value = (
        op.Transpose(op.Reshape(op.SequenceAt(parts, op.constant(place)), whole(op, 2, 4, 2, 4)), perm=(0, 2, 1, 3))
        for place in range(3)
    )
    shape = op.Shape(key)
    batch, rows, columns = (op.Slice(shape, [start], [end]) for start, end in ((0, 2), (2, 3), (3, 4)))
    merged = op.Reshape(key, op.Concat([-1], rows, columns, axis=0))
    turned = op.Reshape(op.Transpose(merged, perm=(0, 2, 1)), op.Concat(batch, columns, rows, axis=0))
    scale = op.CastLike(np.array(0.5), query)
    scores = op.MatMul(op.Mul(query, op.Sqrt(scale)), op.Mul(turned, op.Sqrt(scale)))
    mask = op.Where(np.tri(4, dtype=bool), np.float32(0), np.float32(-np.inf))
    chances = op.Softmax(op.Add(scores, mask), axis=-1)
    chances = op.Where(op.IsNaN(chances), np.float32(0), chances)
    mixed = op.Transpose(op.Reshape(op.MatMul(chances, value), whole(op, 2, 2, 4, 4)), perm=(0, 2, 1, 3))
    x = op.Add(op.Identity(linear(op, op.Reshape(mixed, whole(op, 2, 4, WIDTH)), WIDTH, random)), x)
    normal = op.LayerNormalization(x, weight(op, random, WIDTH), weight(op, random, WIDTH), axis=-1)
    inner = gelu(op, linear(op, normal, 2 * WIDTH, random))
    return op.Add(x, op.Identity(linear(op, inner, WIDTH, random)))


def linear(op: Builder, x: Value, columns: int, random: np.random.Generator) -> Value:
    width = x.type.static_shape[-1]
    flat = op.Reshape(x, whole(op, 8, width))
    product = op.Gemm(flat, weight(op, random, width, columns), weight(op, random, columns))
    return op.Reshape(product, whole(op, 2, 4, columns))


def gelu(op: Builder, x: Value) -> Value:
    """GELU by the tangent, as torch spells out what GPT-2 calls `gelu_new`."""
    cube = op.Mul(op.Pow(x, np.float32(3)), np.float32(0.044715))
    bent = op.Tanh(op.Mul(op.Add(x, cube), np.float32(0.7978845608028654)))
    return op.Mul(op.Mul(x, np.float32(0.5)), op.Add(bent, np.float32(1)))


def convolutional_layer(op: Builder, x: Value, random: np.random.Generator) -> Value:
    """A block of MobileNet v3: normalised convolutions, hard-swish spelled out, squeeze and excitation."""
    inner = swish(op, normalised(op, x, 1, random))
    inner = normalised(op, inner, WIDTH, random, kernel=3)
    mean = op.ReduceMean(inner, op.constant([-1, -2]), keepdims=1)
    excited = op.Relu(op.Conv(mean, weight(op, random, WIDTH, WIDTH, 1, 1), weight(op, random, WIDTH)))
    gate = op.HardSigmoid(
        op.Conv(excited, weight(op, random, WIDTH, WIDTH, 1, 1), weight(op, random, WIDTH)), alpha=1 / 6
    )
    inner = swish(op, op.Mul(gate, inner))
    return op.Add(normalised(op, inner, 1, random), op.Identity(x))


def normalised(op: Builder, x: Value, groups: int, random: np.random.Generator, kernel: int = 1) -> Value:
    kernels = weight(op, random, WIDTH, WIDTH // groups, kernel, kernel)
    product = op.Conv(x, kernels, group=groups, pads=(kernel // 2,) * 4)
    statistics = (weight(op, random, WIDTH) for _ in range(3))
    return op.BatchNormalization(product, *statistics, op.constant(np.ones(WIDTH, np.float32)))


def swish(op: Builder, x: Value) -> Value:
    bent = op.Clip(op.Add(x, np.float32(3)), np.float32(0), np.float32(6))
    return op.Div(op.Mul(x, bent), np.float32(6))


def reshaping_layer(op: Builder, x: Value, random: np.random.Generator) -> Value:
    """Heads taken apart and put together again, to sizes that are computed as torch's older exporter did."""
    batch, length = (op.Gather(op.Shape(x), op.constant(axis)) for axis in (0, 1))
    row = [op.Unsqueeze(size, op.constant([0])) for size in (batch, length)]
    heads = op.Reshape(x, op.Concat(*row, op.constant([2]), op.constant([WIDTH // 2]), axis=0))
    turned = op.Relu(op.Transpose(heads, perm=(0, 2, 1, 3)))
    back = op.Transpose(turned, perm=(0, 2, 1, 3))
    width = op.Mul(op.Gather(op.Shape(back), op.constant(2)), op.Gather(op.Shape(back), op.constant(3)))
    flat = op.Reshape(back, op.Concat(*row, op.Unsqueeze(width, op.constant([0])), axis=0))
    filled = op.Expand(weight(op, random, WIDTH), op.Concat(*row, op.constant([WIDTH]), axis=0))
    return op.Add(op.Slice(flat, [0], op.Unsqueeze(length, op.constant([0])), [1]), filled)


LAYERS: dict[str, tuple[Layer, tuple[int | str, ...]]] = {
    "transformer": (transformer_layer, (2, 4, WIDTH)),
    "convolutional": (convolutional_layer, (1, WIDTH, 8, 8)),
    "reshaping": (reshaping_layer, ("batch", "sequence", WIDTH)),
}


def make_graph(kind: str, nodes: int) -> Graph:
    """Layers of a kind until there are so many nodes."""
    layer, shape = LAYERS[kind]
    graph, random = Graph(kind), np.random.default_rng(0)
    op = Builder(graph)
    x = graph.add_input("x", TensorType(DType.float32, shape))
    while len(graph) < nodes:
        x = layer(op, x, random)
    graph.outputs["y"] = x
    return graph


# -- what runs in processes of its own


class Clock(Instrument):
    """The processor's time that the passes take, by pass."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = 0.0

    def before(self, step: Pass, graph: Graph) -> None:
        self._start = time.process_time()

    def ran(self, step: Pass, graph: Graph) -> None:
        self.seconds[step.name] = self.seconds.get(step.name, 0.0) + time.process_time() - self._start


@dataclass(frozen=True, slots=True)
class Result:
    """What is measured on one graph.

    Attributes:
        kind: the kind of its layers.
        nodes: the number of nodes before the passes.
        left: the number of nodes after the passes.
        seconds: the time of the passes.
        whole: the time with the verifier.
        peak: the most resident memory, in bytes.
        passes: the seconds of each.
    """

    kind: str
    nodes: int
    left: int
    seconds: float
    whole: float
    peak: int
    passes: dict[str, float]


def optimized(graph: Graph) -> tuple[Graph, Clock, float]:
    """A copy of a graph after the passes, their time, and that of the whole."""
    copy, clock = graph.clone(), Clock()
    gc.collect()
    start = time.process_time()
    manager = PassManager(parse_pipeline("cleanup,fuse"), [clock], verify="structure")
    manager.run(copy, PassContext(load_target("native"), copy))
    return copy, clock, time.process_time() - start


def measure(kind: str, nodes: int) -> Result:
    optimized(make_graph(kind, 1))
    graph = make_graph(kind, nodes)
    runs = [optimized(graph)]
    left = len(runs[0][0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    while sum(whole for _, _, whole in runs) < ENOUGH_SECONDS:
        _, clock, seconds = optimized(graph)
        runs.append((graph, clock, seconds))
    _, clock, seconds = min(runs, key=lambda run: sum(run[1].seconds.values()))
    return Result(kind, len(graph), left, sum(clock.seconds.values()), seconds, peak, clock.seconds)


# -- the comparison


def faults(result: Result, first: Result) -> list[str]:
    """Which bars a graph misses."""
    found: list[str] = []
    if ratio(result, first) > MOST_RATIO:
        found.append(f"more than {MOST_RATIO} times as long for each node as the smallest")
    if result.seconds > MOST_SECONDS:
        found.append(f"more than {MOST_SECONDS} s")
    if result.peak > MOST_BYTES:
        found.append(f"more than {MOST_BYTES >> 20} MiB")
    return found


def ratio(result: Result, first: Result) -> float:
    return result.seconds / result.nodes / (first.seconds / first.nodes)


def report(console: Console, results: Sequence[Result]) -> None:
    firsts = {result.kind: result for result in reversed(results)}
    table = Table(
        "layers", "nodes", "left", "seconds", "with verifier", "us per node", "ratio", "peak MiB", "slowest passes"
    )
    for result in results:
        slowest = sorted(result.passes.items(), key=lambda item: -item[1])[:3]
        table.add_row(
            result.kind,
            f"{result.nodes:,}",
            f"{result.left:,}",
            f"{result.seconds:.3f}",
            f"{result.whole:.3f}",
            f"{1e6 * result.seconds / result.nodes:.1f}",
            f"{ratio(result, firsts[result.kind]):.2f}",
            str(result.peak >> 20),
            ", ".join(f"{name} {seconds / result.seconds:.0%}" for name, seconds in slowest),
        )
    console.print(table)
    for result in results:
        for fault in faults(result, firsts[result.kind]):
            console.print(f"{result.kind}, {result.nodes:,} nodes: {fault}")


def main(
    only: Annotated[str, typer.Option(help="A glob of kinds of layers.")] = "*",
    sizes: Annotated[str, typer.Option(help="Numbers of nodes, the smallest first.")] = "1000,10000,100000",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to a file.")] = None,
) -> None:
    """Measure, print a table, and fail if a bar is missed."""
    results: list[Result] = []
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for kind in (kind for kind in LAYERS if fnmatchcase(kind, only)):
            results += [pool.submit(measure, kind, int(size)).result() for size in sizes.split(",")]
            if json_file is not None:
                json_file.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    report(Console(width=180), results)
    firsts: dict[str, Any] = {result.kind: result for result in reversed(results)}
    raise SystemExit(int(any(faults(result, firsts[result.kind]) for result in results)))


if __name__ == "__main__":
    typer.run(main)
