"""Where ONNX Runtime spends its time, by the nodes of the graph that it was given.

The runtime profiles what is left after its own fusions. Each node gets a number for a name before, and its outputs do,
too, since fused nodes keep the one or the other. A convolution with its activation has the name of either, by the
layout that its channels allow, and counts for the convolution. What the runtime has put in between, such as changes of
layout, counts for the node that reads it, or whose result it is.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from ...ir.graph import Graph, Location, Node
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ..artifact import port_of
from ..base import NodeTimes
from ..node_timing import QUIET, WatchedGraph, timed_in_turn
from ..onnx_file import write_onnx
from .session import OnnxRuntimeExecutable, session

if TYPE_CHECKING:
    from ...targets import Target

_MARK = re.compile(r"@(\d+)@")
_KERNEL = "_kernel_time"
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_BEFORE = frozenset({"ReorderInput", "Transpose", "QuantizeLinear"})
"""What the runtime puts before a node rather than behind one."""
_REORDERS = frozenset({"ReorderInput", "ReorderOutput"})
"""Changes to the layout that convolutions have for themselves, and back."""


def node_times(legal: Sequence[Graph], target: "Target", feeds: Mapping[str, np.ndarray]) -> list[NodeTimes]:
    """Time the operators of graphs one by one, while all of a graph's run, and the graphs in turn.

    Args:
        legal: the graphs, which the runtime can run.
        target: the target, with the number of threads.
        feeds: one inference's inputs.
    """
    return timed_in_turn(lambda graph, folder: _Watched(graph, target, folder), legal, feeds)


class _Watched(WatchedGraph):
    """A graph in a session that profiles.

    Args:
        graph: the graph whose nodes are timed.
        target: the target, with the number of threads.
        folder: the folder for what the runtime writes.
    """

    def __init__(self, graph: Graph, target: "Target", folder: Path) -> None:
        super().__init__()
        marked = graph.clone()
        for number, node in enumerate(marked.nodes):
            node.location = Location(f"@{number}@")
            for output in node.outputs:
                marked.rename(output, f"@{number}@")
        self._nodes = list(graph.nodes)
        self._fused = folder / "fused.onnx"
        write_onnx(marked, folder / "model.onnx")
        self._session = session(
            folder / "model.onnx",
            target.threads,
            enable_profiling=True,
            profile_file_prefix=str(folder / "profile"),
            optimized_model_filepath=str(self._fused),
        )
        inputs = [port_of(value.name, value) for value in graph.inputs]
        self._executable = OnnxRuntimeExecutable(
            self._session, inputs, [port_of(name, value) for name, value in graph.outputs.items()]
        )

    def run(self, feeds: Mapping[str, np.ndarray]) -> None:
        self._executable.run(feeds)

    def times(self) -> NodeTimes:
        owners = _Owners(onnx.load(self._fused, load_external_data=False).graph)
        modules = [node.location.module for node in self._nodes]
        times, conversions = dict.fromkeys(modules, 0.0), dict.fromkeys(modules, 0.0)
        for name, (operator, seconds) in self._kernels().items():
            number = owners.find(name, operator)
            module = "" if number is None else _computed_by(self._nodes[number], operator).location.module
            times[module] = times.get(module, 0.0) + seconds
            if operator in _CONVERSIONS:
                conversions[module] = conversions.get(module, 0.0) + seconds
        return NodeTimes(times, conversions)

    def _kernels(self) -> dict[str, tuple[str, float]]:
        """The operator and the seconds of each kernel, by its name, in the order in which they run."""
        taken: dict[str, list[float]] = {}
        operators: dict[str, str] = {}
        for event in json.loads(Path(self._session.end_profiling()).read_text()):
            if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
                name = event["name"].removesuffix(_KERNEL)
                taken.setdefault(name, []).append(event["dur"] / 1e6)
                operators[name] = event["args"]["op_name"]
        warm = {
            name: [one for number, one in enumerate(seconds) if self.is_warm(number)] for name, seconds in taken.items()
        }
        return {name: (operators[name], float(np.quantile(warm[name] or taken[name], QUIET))) for name in taken}


class _Owners:
    """Finds which numbered node a kernel belongs to."""

    def __init__(self, fused: onnx.GraphProto) -> None:
        self._nodes = {node.name: node for node in fused.node if node.name}
        nameless: dict[str, list[Any]] = {}
        for node in fused.node:
            if not node.name:
                nameless.setdefault(node.op_type, []).append(node)
        self._nameless = {kind: iter(nodes) for kind, nodes in nameless.items()}
        self._readers = {name: node for node in fused.node for name in node.input}
        self._makers = {name: node for node in fused.node for name in node.output}

    def find(self, name: str, operator: str) -> int | None:
        """The number of a kernel's node; kernels without a name are asked for in the order in which they run."""
        node = self._nodes.get(name)
        if node is None:
            node = next(self._nameless.get(operator, iter(())), None)
        return _number(name) if node is None else self._owner(node)

    def _owner(self, node: Any) -> int | None:
        """The number in a node's name or outputs, or that of what reads it, or of what it reads."""
        for text in (node.name, *node.output):
            if (number := _number(text)) is not None:
                return number
        readers = [self._readers[name] for name in node.output if name in self._readers]
        makers = [self._makers[name] for name in node.input if name in self._makers]
        near = [*readers, *makers] if node.op_type in _BEFORE else [*makers, *readers]
        found = (_number(text) for other in near for text in (other.name, *other.output))
        return next((number for number in found if number is not None), None)


def _computed_by(node: Node, kernel: str) -> Node:
    """The node that a kernel is for, where the runtime has fused the node found by its name with the one before it.

    A change of layout around a convolution with an activation counts for the convolution, as both do.
    """
    wanted = "Conv" if kernel in _REORDERS else kernel
    found = [node]
    while found:
        one = found.pop()
        if one.operator in wanted:  # FusedConv
            return one
        if not has_trait(one.operator, Trait.CONTRACTING):
            makers = [value.producer for value in one.inputs if value is not None and value.use_count == 1]
            found += [maker for maker in makers if maker is not None]
    return node


def _number(text: str) -> int | None:
    match = _MARK.search(text)
    return None if match is None else int(match[1])
