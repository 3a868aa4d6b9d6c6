"""Whether backends give the integers that QuantizeLinear means: all of them, but for ties."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quantization_subjects import Feeds, Subject

from planish.ir.graph import Graph, Node

_TIE = 1e-5
"""How near to the middle between two integers a float is either's, relative to its distance from 0 in steps, plus 1."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What became of the integers of a graph's QuantizeLinear nodes in a backend.

    Attributes:
        integers: the number of all integers.
        ties: integers that aren't the nearest, of floats that are in the middle.
        wrong: other integers that aren't the nearest.
        moved: integers that differ from the interpreter's, who sums floats in another order and so sees other floats.
        nodes: the places with wrong ones.
    """

    integers: int
    ties: int
    wrong: int
    moved: int
    nodes: Sequence[str]

    def __str__(self) -> str:
        places = f" in {', '.join(self.nodes[:3])}" if self.nodes else ""
        return (
            f"{self.integers} integers: {self.wrong} wrong{places}, {self.ties} ties, "
            f"{self.moved} not the interpreter's ({100 * self.moved / max(self.integers, 1):.4f} %)"
        )


def agreement(graph: Graph, backend: str, batches: Sequence[Feeds], folder: Path) -> Agreement:
    """Run a quantized graph in a backend, and hold every QuantizeLinear to the floats that it read there.

    Args:
        graph: the graph, whose grids hold for whole tensors.
        backend: the name of the backend.
        batches: the inputs, one batch after another.
        folder: an empty folder.
    """
    from planish.backends import find_backend
    from planish.backends.legal import legalized
    from planish.driver.lowering import lower
    from planish.ir.interpreter import Interpreter
    from planish.targets.load import native

    legal = legalized(graph, native(), backend)
    nodes = [node for node in legal.nodes if node.operator == "QuantizeLinear" and node.inputs[0] in _made(legal)]
    legal.outputs = {f"{place}_{kind}": value for place, node in enumerate(nodes) for kind, value in _ports(node)}
    executable = lower(legal, find_backend(backend), native(), folder).executable
    interpreter = Interpreter(legal)
    counts, places = np.zeros(4, np.int64), dict[str, None]()
    for feeds in batches:
        found = dict(zip(legal.outputs, executable.run(feeds), strict=True))
        meant = interpreter.run(feeds)
        for place, node in enumerate(nodes):
            integers = found[f"{place}_y"].astype(np.int64)
            is_tie, is_wrong = _judged(node, found[f"{place}_x"], integers)
            moved = (integers != meant[f"{place}_y"]).sum()
            counts += [integers.size, is_tie.sum(), is_wrong.sum(), moved]
            if is_wrong.any():
                places[str(node.location)] = None
    return Agreement(*(int(count) for count in counts), list(places))


def _made(graph: Graph) -> set:
    return {value for node in graph.nodes for value in node.outputs}


def _ports(node: Node):
    return (("x", node.operand(0)), ("y", node.output))


def _judged(node: Node, x: np.ndarray, integers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where integers aren't the nearest, of floats in the middle and of others."""
    scale, zero_point = node.constant(1), node.constant(2)
    assert scale is not None
    zero = 0 if zero_point is None else int(zero_point)
    limits = np.iinfo(integers.dtype if zero_point is None else zero_point.dtype)
    steps = x.astype(np.float64) / np.float64(scale)
    nearest = np.clip(np.rint(steps) + zero, limits.min, limits.max)
    differs = integers != nearest
    is_middle = np.abs(np.abs(steps - np.floor(steps)) - 0.5) <= _TIE * (np.abs(steps) + 1)
    is_next = np.abs(integers - nearest) == 1
    return differs & is_middle & is_next, differs & ~(is_middle & is_next)


def agreements(subject: Subject, pipelines: Sequence[str], count: int, folder: Path) -> Mapping[str, Agreement | str]:
    """Return what becomes of a model in ONNX Runtime and TVM, by pipeline and backend; a failure is told as a text."""
    import planish

    found: dict[str, Agreement | str] = {}
    for place, pipeline in enumerate(pipelines):
        data = subject.calibration(0, count)
        graph = planish.optimize(subject.graph, f"cleanup,fuse,{pipeline}", data=data).graph
        for backend in ("onnxruntime", "tvm"):
            try:
                judged = agreement(graph, backend, subject.test[:4], folder / f"{place}, {backend}")
            except Exception as error:  # all of them are findings
                judged = f"{type(error).__name__}: {error}".splitlines()[0][:160]
            found[f"{pipeline}, {backend}"] = judged
    return found
