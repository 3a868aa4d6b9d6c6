"""How far models can be made smaller.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/compression.py structured [--only 'torchvision/classification/*'] [--ratio 0.3] [--fused]
                                                [--json RESULTS.json]

`structured` removes channels, neurons and heads of models of the zoo with random weights by `prune-channels`, and holds
what is left to the whole model, in which the same channels are set to zero wherever they are computed. A model is

    equal     smaller, valid, and every output is within a relative error (L2) of 1e-3
    refused   nothing could be removed; or planish said that it can't read the model, and why
    wrong     other outputs
    crash     anything else: another exception, a dead process, no answer in time
    unbuilt   there is no model: no small configuration of the architecture runs, or it needs what isn't installed

The seconds are those that it takes to find the groups.
"""

import gc
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import typer
import zoo
from rich.console import Console
from rich.table import Column, Table
from workers import CLASSES, Outcome, check_all

from planish.ir.graph import Graph, Value

SECONDS = 600.0
"""The time after which a model counts as hung."""
TOLERANCE = 1e-3
"""The relative error (L2) that a float output may have."""

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """How far models can be made smaller."""


def check(name: str, paths: Sequence[str], *, ratio: float, fused: bool) -> dict[str, Outcome]:
    """The outcome of removing a ratio of all that can go, and what is left of the model."""
    return {path: _check(name, ratio, fused=fused) for path in paths}


def _check(name: str, ratio: float, *, fused: bool) -> Outcome:
    import planish
    from planish.ir.analysis.channels import channel_groups
    from planish.ir.analysis.cost import summarize
    from planish.ir.errors import PlanishError
    from planish.ir.interpreter import Interpreter
    from planish.ir.verify import verify
    from planish.passes.base import PassContext
    from planish.passes.pruning.prune_channels import ChannelPruning
    from planish.passes.pruning.shrink import shrink, without
    from planish.targets.load import load_target

    try:
        subject = zoo.build(name)
    except zoo.Unbuilt as error:
        return "unbuilt", _line(error)
    inputs = subject.inputs(0, subject.sizes[0])
    try:
        graph = planish.trace(subject.module, *inputs)
        del subject
        graph = planish.optimize(graph, "cleanup,fuse" if fused else "cleanup", verify="structure").graph
        gc.collect()
        start = time.perf_counter()
        groups = [group for group in channel_groups(graph) if group.producers and group.size > 1]
        seconds = time.perf_counter() - start
        removals = ChannelPruning(ratio=ratio).plan(graph, PassContext(load_target("native"), graph)).removals
        if not removals:
            return "refused", "; ".join(dict.fromkeys(str(group.frozen) for group in groups)) or "no layer has weights"
        source, before = graph.clone(), summarize(graph).flops
        kept = without(removals)
        twins = dict(zip(graph.values(), source.values(), strict=True))
        masks = {(twins[value], axis): mask for (value, axis), mask in kept.items()}
        shrink(graph, kept)
        verify(graph)
        feeds = dict(zip([value.name for value in graph.inputs], map(_array, zoo.tensors(inputs)), strict=True))
        wanted, found = Interpreter(source).run(feeds, masked(source, masks)), Interpreter(graph).run(feeds)
        error = max(_distance(found[key], wanted[key]) for key in wanted)
        share = summarize(graph).flops / before
    except PlanishError as refusal:
        return "refused", _line(refusal)
    except Exception as fault:
        return "crash", f"{type(fault).__name__}: {_line(fault)}"
    said = (
        f"error {error:.1e}, {len(removals)} of {len(groups)} groups in {seconds:.1f} s, {100 * share:.0f} % of FLOPs"
    )
    return ("equal" if error <= TOLERANCE else "wrong"), said


def masked(graph: Graph, kept: Mapping[tuple[Value, int], np.ndarray]) -> Any:
    """An observer that sets to zero what isn't kept of a graph's values."""
    gone: dict[Value, list[tuple[int, torch.Tensor]]] = {}
    for (value, axis), mask in kept.items():
        gone.setdefault(value, []).append((axis, torch.from_numpy(np.flatnonzero(~mask))))

    def observe(value: Value, tensor: torch.Tensor) -> torch.Tensor | None:
        for axis, indices in gone.get(value, ()):
            tensor = tensor.index_fill(axis, indices, 0)
        return tensor

    return observe


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy()


def _distance(found: np.ndarray, wanted: np.ndarray) -> float:
    if found.shape != wanted.shape:
        return np.inf
    a, b = (np.nan_to_num(array.astype(np.float64)) for array in (found, wanted))
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@app.command()
def structured(
    only: Annotated[list[str] | None, typer.Option(help="A glob of the names of models; may be repeated.")] = None,
    ratio: Annotated[float, typer.Option(help="Of the channels of each group.")] = 0.3,
    fused: Annotated[bool, typer.Option("--fused", help="After `fuse`.")] = False,
    results: Annotated[Path | None, typer.Option("--json", help="Where to write every outcome as JSON.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes side by side.")] = 2,
    seconds: Annotated[float, typer.Option(help="After which a model counts as hung.")] = SECONDS,
) -> None:
    """Count the models of the zoo that give a valid smaller graph, equal to the whole with the same channels masked."""
    names = [name for name in zoo.names(False) if any(fnmatchcase(name, pattern) for pattern in only or ["*"])]
    outcomes = check_all(partial(check, ratio=ratio, fused=fused), names, ("structured",), jobs, seconds)
    found = {name: outcome["structured"] for name, outcome in outcomes.items()}
    console = Console()
    table = Table(
        Column("part", no_wrap=True), *CLASSES, "unbuilt", "equal %", title=f"{len(found)} models, ratio {ratio:g}"
    )
    for part in sorted({name.rpartition("/")[0] for name in found}):
        counts = Counter(kind for name, (kind, _) in found.items() if name.rpartition("/")[0] == part)
        share = 100 * counts["equal"] / max(sum(counts[kind] for kind in CLASSES), 1)
        table.add_row(part, *(str(counts[kind]) for kind in (*CLASSES, "unbuilt")), f"{share:.1f}")
    console.print(table)
    for name, (kind, detail) in sorted(found.items()):
        console.print(f"{kind} {name}: {detail}", markup=False, soft_wrap=True)
    if results is not None:
        results.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


if __name__ == "__main__":
    app()
