"""`planish inspect`: what a model consists of, what it costs, and what a target would run in integers."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.manifest import MANIFEST, read_manifest
from ..ir.analysis.cost import Cost, by_module, by_operator, flops, moved, sizes_in, summarize
from ..ir.analysis.liveness import peak_activation_bytes
from ..ir.errors import UsageError
from ..ir.graph import Graph
from ..ir.suggestion import did_you_mean
from ..passes.pipeline import format_pipeline, make_pipeline
from ..targets import Int8, Target
from ..targets.load import load_target
from .data import ports_of, read_data
from .model import read_model
from .model_explorer import write_collection
from .user_code import isolated_imports

if TYPE_CHECKING:
    from .groups import GroupRow

_LINES = 30
"""Modules that fit a page."""
_DEEPEST = 12
"""Parts of a path beyond which nobody looks."""


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """All nodes of one operator.

    Attributes:
        name: the name of the operator.
        count: the number of its nodes.
        flops: the FLOPs of all of them, for one sample.
        moved: the bytes that they move without computing anything.
        int8: backends on which the target's integer kernel is faster than float.
        dynamic_int8: the same for activations quantized at run time.
        weights: the bits, by backend, to which quantizing weights alone makes it faster than float for a few rows.
    """

    name: str
    count: int
    flops: int
    moved: int
    int8: Sequence[str]
    dynamic_int8: Sequence[str]
    weights: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` shows.

    Attributes:
        sizes: the sizes of the symbolic dimensions that costs are counted with.
        activations: the bytes of the activations that are alive at once, at their peak.
        groups: the groups of channels that stand or fall together, where they were asked for.
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


def inspect(
    model: str,
    target: str,
    depth: int | None,
    sizes: Mapping[str, int],
    data: str | None = None,
    *,
    with_groups: bool = False,
    model_explorer: Path | None = None,
) -> Inspection:
    """Look into a model.

    Args:
        model: a reference, or the folder of an artifact of ONNX Runtime.
        target: the target whose fast kernels are shown.
        depth: the depth of module paths that costs are summed up to; None for the deepest with at most 30 modules.
        sizes: the sizes of symbolic dimensions; those not given are the data's, or else 1.
        data: the data whose first batch has sizes.
        with_groups: whether groups of channels are looked for.
        model_explorer: the file to write the graph to, for Google's Model Explorer.

    Raises:
        UsageError: the model has no such dimension, or the file can't be written.
    """
    machine = load_target(target)
    with isolated_imports(Path()):
        graph = read_model(model_of(model))
        found = sizes_in(graph, read_data(data, Path(), ports_of(graph))[0].inputs) if data else {}
    sizes = _complete({**found, **sizes}, graph)
    if model_explorer is not None:
        write_collection(graph, sizes, model_explorer)
    work: Counter[str] = Counter()
    moves: Counter[str] = Counter()
    for node in graph.nodes:
        work[node.operator] += flops(node, sizes)
        moves[node.operator] += moved(node, sizes)
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
                moves[name],
                _backends(int8.operators, name),
                _backends(int8.dynamic_operators, name),
                _weight_bits(machine, name),
            )
            for name, count in by_operator(graph).items()
        ],
        modules=by_module(graph, depth, sizes) if depth is not None else _readable(graph, sizes),
        groups=_groups(graph, machine) if with_groups else (),
    )


def _readable(graph: Graph, sizes: Mapping[str, int]) -> Mapping[str, Cost]:
    """The costs of modules, as deep as a page has lines for."""
    deepest = by_module(graph, 1, sizes)
    for depth in range(2, _DEEPEST):
        finer = by_module(graph, depth, sizes)
        if len(finer) > _LINES:
            break
        deepest = finer
    return deepest


def model_of(reference: str) -> str:
    """The reference to a model as it is, or the model file of an artifact's folder.

    Raises:
        UsageError: the artifact holds compiled code alone.
    """
    if not (Path(reference) / MANIFEST).is_file():
        return reference
    manifest = read_manifest(Path(reference))
    files = [name for name in manifest["files"] if name.endswith(".onnx")]
    if not files:
        raise UsageError(f"{reference} holds compiled code, which can't be looked into: {_instead(manifest)}")
    return str(Path(reference) / files[0])


def _instead(manifest: Mapping[str, Any]) -> str:
    """What to do about an artifact that keeps no graph: how to make the graph that it was compiled from."""
    recipe = manifest.get("recipe")
    if recipe is None:
        return "give the model that it was built from"
    passes = (it if isinstance(it, str) else format_pipeline(make_pipeline([it])) for it in recipe["passes"])
    options = {"-p": ",".join(passes), "-d": recipe["data"]["calibration"], "-t": recipe["target"]}
    given = [word for flag, value in options.items() if value for word in (flag, value)]
    command = shlex.join(["planish", "opt", recipe["model"], *given, "-o", "compiled.onnx"])
    return f"make the graph that was compiled with `{command}`, and give compiled.onnx in its place"


def _groups(graph: Graph, target: Target) -> "Sequence[GroupRow]":
    from .groups import find_groups  # brings networkx and scipy, which take longer than all else here

    return find_groups(graph, target)


def _complete(sizes: Mapping[str, int], graph: Graph) -> dict[str, int]:
    """A size for every symbolic dimension of the inputs."""
    known = sorted(set().union(*(value.type.symbols for value in graph.inputs)))
    for name in sizes.keys() - set(known):
        raise UsageError(f"the model has no dimension {name!r}{did_you_mean(name, known)}")
    return {name: sizes.get(name, 1) for name in known}


def _weight_bits(target: Target, operator: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for bits, kernels in target.weights.items():
        for backend in _backends(kernels, operator):
            found.setdefault(backend, []).append(bits)
    return found


def _backends(kernels: Mapping[str, frozenset[str]], operator: str) -> list[str]:
    return sorted(backend for backend, operators in kernels.items() if operator in operators)
