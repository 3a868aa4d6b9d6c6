"""`planish inspect`: what a model consists of, what it costs, and what a target would run in integers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..ir.analysis.cost import Cost, by_module, by_operator, flops, summarize
from ..ir.analysis.liveness import peak_activation_bytes
from ..ir.errors import UsageError
from ..ir.graph import Graph
from ..targets import Int8, Target
from ..targets.load import load_target
from .model import read_model
from .user_code import isolated_imports, suggestion

if TYPE_CHECKING:
    from .groups import GroupRow


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """All nodes of one operator.

    Attributes:
        name: of the operator.
        count: of its nodes.
        flops: of all of them, for one sample.
        int8: backends on which the target's integer kernel is faster than float.
        dynamic_int8: the same for activations quantized at run time.
        weights: by backend, the bits in which constant weights alone make it faster than float for a few rows.
    """

    name: str
    count: int
    flops: int
    int8: Sequence[str]
    dynamic_int8: Sequence[str]
    weights: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` shows.

    Attributes:
        sizes: of the symbolic dimensions, that costs are counted with.
        activations: bytes of those alive at once, at their peak.
        groups: of channels that stand or fall together, where they were asked for.
    """

    name: str
    target: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    sizes: Mapping[str, int]
    cost: Cost
    activations: int
    operators: Sequence[OperatorRow]
    modules: Mapping[str, Cost]
    groups: "Sequence[GroupRow]" = ()


def inspect(model: str, target: str, depth: int, sizes: Mapping[str, int], *, with_groups: bool = False) -> Inspection:
    """Look into a model.

    Args:
        model: a reference.
        target: whose kernels are asked for.
        depth: of the module path that costs are summed up to.
        sizes: of symbolic dimensions; 1 where not given.
        with_groups: whether groups of channels are looked for.

    Raises:
        UsageError: the model has no such dimension.
    """
    machine = load_target(target)
    with isolated_imports(Path()):
        graph = read_model(model)
    sizes = _complete(sizes, graph)
    work: dict[str, int] = {}
    for node in graph.nodes:
        work[node.operator] = work.get(node.operator, 0) + flops(node, sizes)
    int8 = machine.int8 or Int8()
    return Inspection(
        name=graph.name,
        target=machine.name,
        inputs={value.name: str(value.type) for value in graph.inputs},
        outputs={name: str(value.type) for name, value in graph.outputs.items()},
        sizes=sizes,
        cost=summarize(graph, sizes),
        activations=peak_activation_bytes(graph, sizes),
        operators=[
            OperatorRow(
                name,
                count,
                work[name],
                _backends(int8.operators, name),
                _backends(int8.dynamic_operators, name),
                _weight_bits(machine, name),
            )
            for name, count in by_operator(graph).items()
        ],
        modules=by_module(graph, depth, sizes),
        groups=_groups(graph, machine) if with_groups else (),
    )


def _groups(graph: Graph, target: Target) -> "Sequence[GroupRow]":
    from .groups import find_groups  # brings networkx and scipy, which take longer than all else here

    return find_groups(graph, target)


def _complete(sizes: Mapping[str, int], graph: Graph) -> dict[str, int]:
    """A size for every symbolic dimension of the inputs."""
    known = sorted(set().union(*(value.type.symbols for value in graph.inputs)))
    for name in sizes.keys() - set(known):
        raise UsageError(f"the model has no dimension {name!r}{suggestion(name, known)}")
    return {name: sizes.get(name, 1) for name in known}


def _weight_bits(target: Target, operator: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for bits, kernels in target.weights.items():
        for backend in _backends(kernels, operator):
            found.setdefault(backend, []).append(bits)
    return found


def _backends(kernels: Mapping[str, frozenset[str]], operator: str) -> list[str]:
    return sorted(backend for backend, operators in kernels.items() if operator in operators)
