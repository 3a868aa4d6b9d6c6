"""Whether a backend's compiled graph computes what the graph means, and if not, which layer is the first to differ.

Results are compared with the interpreter's. Where they differ, the graph is compiled once more with its intermediate
results among the outputs. Then the interpreter runs each node on the inputs that the backend computed for it, so that
no node answers for the errors of those before it. That finds the node at fault; and where there is none, because the
backend has only decided differently which boxes to return or which number is the largest, it clears the backend.

A backend may round otherwise where it returns intermediate results, since it can't fuse their nodes with others. So at
first only the inputs and outputs of nodes that decide something are returned: mostly, that leaves all decisions as they
were.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import Backend, Executable, find_backend
from ..backends.artifact import load, write_artifact
from ..backends.machine import runs_here
from ..ir.drafts import workspace
from ..ir.errors import CheckError, ModelError, PlanishError
from ..ir.graph import Graph, Value
from ..ir.interpreter import Interpreter
from ..ir.numerics import FLOATS, Outputs, Tolerance, drift, flattened, is_close, is_float
from ..ir.ops.dtypes import to_numpy, to_torch
from ..ir.types import DType
from ..passes.base import Feeds
from ..passes.decisions import decides
from ..passes.measures import is_of_sigmoid
from ..passes.probes import make_probes, run_graph
from ..passes.reproducer import Reproducer, leave
from ..passes.verification import Verification
from ..passes.yardstick import ROUNDING_FLOOR, Yardstick, may_round
from ..targets import Target
from ..targets.load import load_target

_MOST = 1 << 30
"""Bytes of what nodes yield that are looked at together."""
_COARSE = 0.02
"""The relative error of one node that rounds to integers or to 16 bits."""


@dataclass(frozen=True, slots=True)
class BackendCheck:
    """Holds compiled models to the interpreter.

    Attributes:
        backend: the backend that has compiled them.
        target: the target that they are compiled for.
        tolerance: the tolerance for floats that aren't rounded coarsely.
    """

    backend: Backend
    target: Target
    tolerance: Tolerance = FLOATS

    def hold(self, executable: Executable, graph: Graph, probes: Sequence[Feeds], scratch: Path) -> None:
        """Hold a compiled model to the interpreter: within float tolerance, or quantization's rounding.

        Args:
            executable: the model that was compiled from the graph.
            graph: the graph, which the interpreter runs.
            probes: the batches of inputs that both run on.
            scratch: a folder for whatever else has to be compiled.

        Raises:
            CheckError: an output differs further. It says which layer is at fault, and leaves a reproducer.
        """
        if fault := self._difference(executable, graph, probes, scratch):
            name, machine = self.backend.name, self.target
            verification = Verification(rtol=self.tolerance.rtol, atol=self.tolerance.atol)
            error = f"{CheckError.__name__}: {fault}"
            case = Reproducer(
                graph, "", backend=name, machine=machine, error=error, verification=verification, probes=probes
            )
            raise CheckError(f"{fault}{leave(case, self.run_again)}")

    def run_again(self, case: Reproducer) -> None:
        """Let a backend fail as it did before: over the graph of a reproducer.

        Raises:
            TargetError: it can't compile the graph.
            CheckError: it computes something else.
        """
        probes = case.probes or make_probes(case.graph, case.calibration, case.seed, case.verification.probes)
        with workspace() as folder:
            write_artifact(folder / "artifact", case.graph, self.backend, self.target)
            if self.backend.native and not runs_here(self.target.architecture, self.target.features):
                return
            executable = load(folder / "artifact")
            if fault := self._difference(executable, case.graph, probes, folder):
                raise CheckError(fault)

    def _difference(self, executable: Executable, graph: Graph, probes: Sequence[Feeds], scratch: Path) -> str:
        """How a compiled model differs from what the graph means; empty where it doesn't."""
        yardstick = Yardstick(graph, probes, run_graph(graph, probes), lowered=True)
        for number, (probe, expected) in enumerate(zip(probes, yardstick.outputs, strict=True)):
            found = flattened(dict(zip(graph.outputs, executable.run(probe), strict=True)))
            if not (fault := self._fault(expected, found, yardstick, number)):
                continue
            decided, every = _of_interest(graph, probe)
            layer, cleared = "", False
            for name, values, is_coarse in (("decided", decided, yardstick.is_coarse), ("nodes", every, False)):
                if values and not cleared:
                    folder = scratch / f"{name}-{number}"
                    layer, right = self._node_by_node(graph, probe, values, folder, is_coarse=is_coarse)
                    cleared = not layer and right is not None and not self._fault(right, found, yardstick, number)
            if not cleared:
                return (
                    f"{layer}{self.backend.name} computes something other than the graph: {fault} on probe {number}; "
                    "build for another backend, and report this"
                )
        return ""

    def _fault(self, expected: Outputs, found: Outputs, yardstick: Yardstick, number: int) -> str:
        """What is wrong with outputs; empty where nothing is."""
        for name, wanted in expected.items():
            got, is_coarse = found.get(name), yardstick.is_coarse and is_float(wanted)
            room = _room(yardstick.graph.outputs.get(name), self.tolerance)
            if got is None:
                return f"output {name!r} is missing"
            if got.shape != wanted.shape:
                return f"output {name!r} has shape {list(got.shape)} instead of {list(wanted.shape)}"
            if is_close(wanted, got, ROUNDING_FLOOR if is_coarse else 0.0, tolerance=self.tolerance, slack=room):
                continue  # most often, so that nobody has to measure what rounding does
            rounding = yardstick.rounding.get(name, 0.0)
            slack = room + yardstick.slack(number, name, self.tolerance) if is_float(wanted) else 0.0
            if not is_close(wanted, got, rounding, tolerance=self.tolerance, slack=slack):
                return f"output {name!r} is off by {drift([{name: wanted}], [{name: got}]):.3g} (relative error)"
        return ""

    def _node_by_node(
        self, graph: Graph, probe: Feeds, values: Sequence[Value], folder: Path, *, is_coarse: bool
    ) -> tuple[str, Outputs | None]:
        """The first layer that the backend computes otherwise, for a message's head, and what the outputs should be.

        The right outputs are those that the interpreter computes from the backend's intermediate results; None where
        the backend can't return these, or the interpreter can't go on from them. Floats are compared coarsely where
        nodes between two of these results round.
        """
        try:
            write_artifact(folder, _exposed(graph, values), self.backend, self.target)
            results = load(folder).run(probe)
        except PlanishError:
            return "", None
        walk = _Walk(dict(zip(values, results[len(graph.outputs) :], strict=True)), self.tolerance, is_coarse=is_coarse)
        right = None
        with suppress(ModelError):  # numbers that are wrong may have shapes that are
            right = flattened(Interpreter(graph).run(probe, walk))
        return walk.first, right


class _Walk:
    """Compares nodes with a backend's intermediate results, from which the interpreter goes on.

    Attributes:
        first: the layer of the first node that differs, and how, for the head of a message; empty if none does.
    """

    def __init__(self, found: Mapping[Value, np.ndarray], tolerance: Tolerance, *, is_coarse: bool) -> None:
        self.first = ""
        self._found = found
        self._tolerance = tolerance
        self._is_coarse = is_coarse

    def __call__(self, value: Value, expected: Any) -> Any:
        if value not in self._found:
            return None
        got, node = self._found[value], value.producer
        assert node is not None
        is_coarse = "Quantize" in node.operator or may_round(node) or (self._is_coarse and value.dtype.is_float)
        room = _room(value, self._tolerance)
        if not self.first and (fault := self._fault(to_numpy(expected), got, room, is_coarse=is_coarse)):
            self.first = f"{node.location}: {node.operator} {fault}; "
        return to_torch(got)

    def _fault(self, wanted: np.ndarray, got: np.ndarray, room: float, *, is_coarse: bool) -> str:
        if wanted.shape != got.shape:
            return f"gives the shape {list(got.shape)} instead of {list(wanted.shape)}"
        error = drift([{"": wanted}], [{"": got}])
        is_coarse = is_coarse or (is_float(wanted) and DType.of(wanted.dtype).bits <= 16)
        if is_close(wanted, got, tolerance=self._tolerance, slack=room) or (is_coarse and error <= _COARSE):
            return ""
        return f"is off by {error:.3g} (relative error)"


def _room(value: Value | None, tolerance: Tolerance) -> float:
    """The absolute error that a sigmoid's numbers may have: their scale is 1, however small all of them are.

    ONNX Runtime's approximation is as near to 0 as a sigmoid of 1e-8, but not to the sigmoid itself.
    """
    return tolerance.atol if value is not None and is_of_sigmoid(value) else 0.0


def compile_again(case: Reproducer, graph: Graph) -> None:
    """Have the backend of a reproducer compile what its pipeline made of its graph.

    Raises:
        TargetError: it can't compile that.
        CheckError: it computes something else.
    """
    check = BackendCheck(find_backend(case.backend).strict(), load_target(case.target), case.verification.tolerance)
    check.run_again(replace(case, graph=graph))


def _of_interest(graph: Graph, probe: Feeds) -> tuple[list[Value], list[Value]]:
    """Inputs and outputs of nodes that decide something; and all intermediate results, none if they take too much."""
    sizes: dict[Value, int] = {}
    yielded = {output for node in graph.nodes for output in node.outputs}

    def observe(value: Value, tensor: Any) -> None:
        if value in yielded and value.dtype is not DType.string:
            sizes[value] = tensor.nbytes

    Interpreter(graph).run(probe, observe)
    decided = {value for node in graph.nodes if decides(node) for value in (*node.inputs, *node.outputs)}
    every = list(sizes) if sum(sizes.values()) <= _MOST else []
    return [value for value in sizes if value in decided], every


def _exposed(graph: Graph, values: Sequence[Value]) -> Graph:
    """A copy of a graph that returns some values after its own outputs."""
    copy = graph.clone()
    twins = {
        value: twin
        for node, other in zip(graph.nodes, copy.nodes, strict=True)
        for value, twin in zip(node.outputs, other.outputs, strict=True)
    }
    for number, value in enumerate(values):
        copy.outputs[f"{number}"] = twins[value]
    return copy
