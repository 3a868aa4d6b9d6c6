"""What a graph gives on probes, and how far another one may be from that: rounding is measured on the graph itself."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ..ir.builder import Builder
from ..ir.graph import Constant, Graph, Node, Value
from ..ir.numerics import Outputs, Tolerance, flattened, is_float, largest_difference, relative_error, scale_of
from ..ir.operators import has_trait
from ..ir.traits import Trait
from .base import Feeds
from .decisions import Record, Replay, decisions, replayed
from .legalization.expansions.integers import MATMUL_NBITS, ROW_QUANTIZER
from .probes import run_graph

ROUNDING_FLOOR = 0.01
"""The relative error that the floats of a graph which rounds coarsely are allowed at the least."""

_EIGHT_BITS = 4
"""MatMulNBits' `accuracy_level` for activations of 8 bits."""

_NUDGE = 1e-6
"""The relative size of a nudge: as much as adding in another order changes."""


class Yardstick:
    """A graph whose outputs are right, up to rounding.

    Args:
        graph: the graph that others are compared with.
        probes: the inputs that the graphs run on.
        outputs: the graph's outputs on each probe, as the interpreter computes them.
        lowered: whether it is compared with what a backend makes of it, which may round where the interpreter doesn't.

    Attributes:
        graph: the graph that others are compared with.
        probes: the inputs that the graphs run on.
        outputs: the graph's outputs on each probe, as the interpreter computes them.
    """

    def __init__(
        self, graph: Graph, probes: Sequence[Feeds], outputs: Sequence[Outputs], *, lowered: bool = False
    ) -> None:
        self.graph = graph
        self.probes = probes
        self.outputs = outputs
        self._may_round = lowered and any(map(may_round, graph.nodes))
        self._nudges: dict[int, Sequence[Outputs]] = {}

    @cached_property
    def decides(self) -> bool:
        """Whether some node of the graph depends discontinuously on the numbers that it reads."""
        return bool(decisions(self.graph))

    def decided_alike(self, graph: Graph, *, forced: bool = False) -> list[Outputs]:
        """The outputs of another graph on the probes, made to decide as this one does; see `decisions.Replay`."""
        pairs = zip(self.probes, self._records, strict=True)
        return [replayed(graph, probe, record, forced=forced) for probe, record in pairs]

    @cached_property
    def _records(self) -> Sequence[Record]:
        return [Record(self.graph, probe) for probe in self.probes]

    def slack(self, number: int, name: str, tolerance: Tolerance) -> float:
        """How far rounding may move the numbers of a float output on a probe, beyond what a tolerance says of each.

        All numbers on the way are nudged by a millionth, up or down at random, and twice the largest move is allowed,
        within what the tolerance allows the output's largest number.
        """
        return min(self._move(number, name), tolerance.rtol * scale_of(self.outputs[number][name]))

    def is_steady(self, number: int, tolerance: Tolerance) -> bool:
        """Whether rounding leaves all float outputs on a probe within what a tolerance allows their largest numbers."""
        outputs = self.outputs[number].items()
        return all(
            self._move(number, name) <= tolerance.rtol * scale_of(array) for name, array in outputs if is_float(array)
        )

    def _move(self, number: int, name: str) -> float:
        """Twice the largest move of an output's numbers when all numbers on the way to it are nudged."""
        expected = self.outputs[number][name]
        pairs = [(expected, run[name]) for run in self._nudged(number) if name in run]
        moves = [largest_difference(*pair) if pair[0].shape == pair[1].shape else float("inf") for pair in pairs]
        return 2 * max(moves, default=0.0)

    def _nudged(self, number: int) -> Sequence[Outputs]:
        if number not in self._nudges:
            self._nudges[number] = [self._run_nudged(number, seed) for seed in range(2)]
        return self._nudges[number]

    def _run_nudged(self, number: int, seed: int) -> Outputs:
        import torch  # listing the passes must not import it

        from ..ir.interpreter import Interpreter

        generator = torch.Generator().manual_seed(seed)
        decide = Replay(self.graph, self._records[number])

        def observe(value: Value, tensor: Any) -> Any:
            if tensor.dtype in (torch.float32, torch.float64):
                signs = torch.randint(0, 2, tensor.shape, generator=generator, dtype=torch.int8) * 2 - 1
                tensor = tensor * (1 + _NUDGE * signs)
            answer = decide(value, tensor)
            return tensor if answer is None else answer

        return flattened(Interpreter(self.graph).run(self.probes[number], observe))

    @cached_property
    def is_coarse(self) -> bool:
        """Whether the graph rounds to integers or to floats of 16 bits on the way, or its backend may."""
        return self._may_round or any(
            "Quantize" in node.operator or any(map(_is_short, node.outputs)) for node in self.graph.nodes
        )

    @cached_property
    def rounding(self) -> dict[str, float]:
        """The relative error that each output of a coarsely rounding graph may have in a correct run; empty for others.

        An activation that falls on the other side of a rounding is a step of the grid off, and the layers after it
        round what follows from that anew. How far this carries depends on the model, so it is measured: all that is
        quantized is nudged by one part in a million, and all that a backend may round is put into 8 bits, row by row;
        twice the largest move is allowed.
        """
        if not self.is_coarse:
            return {}
        runs = [self._alike(_scaled(self.graph, factor)) for factor in (1 - _NUDGE, 1 + _NUDGE)]
        runs += [self._alike(_rounded(self.graph))] if self._may_round else []
        return {
            name: max(2 * self._largest_move(name, runs), ROUNDING_FLOOR if is_float(array) else 0.0)
            for name, array in (self.outputs[0] if self.outputs else {}).items()
        }

    def _alike(self, graph: Graph) -> Sequence[Outputs]:
        return self.decided_alike(graph) if self.decides else run_graph(graph, self.probes)

    def _largest_move(self, name: str, runs: Sequence[Sequence[Outputs]]) -> float:
        """The largest relative error of an output among runs, without those in which its shape differs."""
        pairs = [pair for run in runs for pair in zip(self.outputs, run, strict=True) if all(name in it for it in pair)]
        alike = [pair for pair in pairs if pair[0][name].shape == pair[1][name].shape]
        return max((relative_error(name, [expected], [moved]) for expected, moved in alike), default=0.0)


def _scaled(graph: Graph, factor: float) -> Graph:
    """A copy in which whatever is quantized at run time is scaled by a factor first."""
    copy = graph.clone()
    for node in copy.nodes:
        value = node.input(0)
        if has_trait(node.operator, Trait.QUANTIZING) and not isinstance(value, Constant):
            copy.set_input(node, 0, Builder(copy, before=node).Mul(value, factor))
    return copy


def may_round(node: Node) -> bool:
    """Whether a backend may round the activation of a product to 8 bits; the interpreter doesn't."""
    return node.operator == MATMUL_NBITS and node.attributes.get("accuracy_level", 0) == _EIGHT_BITS


def _rounded(graph: Graph) -> Graph:
    """A copy in which each row of what a backend may round is put into 8 bits."""
    copy = graph.clone()
    for node in copy.nodes:
        if may_round(node):
            op, x = Builder(copy, before=node), node.operand(0)
            codes, scale, zero_point = op(ROW_QUANTIZER, x, outputs=3)
            steps = op.Sub(op.Cast(codes, to=x.dtype), op.Cast(zero_point, to=x.dtype))
            copy.set_input(node, 0, op.Mul(steps, scale))
    return copy


def _is_short(value: Value) -> bool:
    """Whether a value is a float of 16 bits or fewer, rounded to a grid as coarse as that of integers."""
    return value.dtype.is_float and value.dtype.bits <= 16
