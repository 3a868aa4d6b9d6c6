"""How far models can be made smaller.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/compression.py structured [--only 'torchvision/classification/*'] [--ratio 0.3] [--fused]
                                                [--onnx] [--json RESULTS.json]

`structured` removes channels, neurons, heads, hidden units and widths of streams from models of the zoo with random
weights by `prune-channels`, and holds what is left to the whole model, in which the same channels are set to zero
wherever they are computed, and means and norms are taken of the others. A model is

    equal     smaller, valid, and every output is within a relative error (L2) of 1e-3, with near ties decided alike
    refused   nothing could be removed; or planish said that it can't read the model, and why
    wrong     other outputs
    crash     anything else: another exception, a dead process, no answer in time
    unbuilt   there is no model: no small configuration of the architecture runs, or it needs what isn't installed

The table has medians of what is left of parameters and operations, and of the weights that are frozen but for those
that compute the outputs themselves. The seconds are those that it takes to find the groups. With --onnx, torch exports
the model to ONNX, and planish reads that.

    python benchmarks/compression.py trained DATA [--cache FOLDER] [--flops 0.5] [--seeds 3]

`trained` takes that share of the operations from a CNN for Fashion-MNIST (DATA is where Debian's dataset-fashion-mnist
is unpacked) by unlabelled samples, without training, and prints its accuracy on 10,000 images: by `prune-channels`
before and after `fuse`, by the norms of filters alone, and by Torch-Pruning where it is installed (`pip install
torch-pruning`), at the ratio that comes nearest.

    python benchmarks/compression.py defaults MODEL... [--root FOLDER] [--cache FOLDER] [--seeds 3] [--samples 256]

`defaults` runs every pass that compresses with its default options, alone behind `fuse`, by samples without labels,
and prints how many points of the metric each loses (of 100, with an interval that holds 95 % of resamples of the
examples), what is left of parameters, bytes and operations, and what it takes, or why it says that it removes nothing;
and how many points more `prune-channels` loses before `fuse` than behind it. The models are those of `subjects.py`:
`minilm`, `paraphrase`, `ocr`, `magika` and `basic_pitch` as packages ship them, others trained here or read from
`--cache`, on Fashion-MNIST and, `lstm`, on vaderSentiment's sentences, which are unpacked somewhere in `--root`, and
`smollm2`, for whose texts see quantization.py (`--samples 32 --limit 12`).
"""

import gc
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from fnmatch import fnmatchcase
from functools import partial
from io import StringIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import typer
import zoo
from compression_defaults import defaults
from masking import run_masked
from rich.console import Console
from rich.table import Column, Table
from workers import CLASSES, Outcome, check_all, distance

from planish.ir.graph import Graph

if TYPE_CHECKING:
    from planish.ir.analysis.channels import ChannelGroup

SECONDS = 600.0
"""The time after which a model counts as hung."""
TOLERANCE = 1e-3
"""The relative error (L2) that a float output may have."""

app = typer.Typer(add_completion=False, no_args_is_help=True)
app.command()(defaults)


@app.callback()
def main() -> None:
    """How far models can be made smaller."""


def check(name: str, paths: Sequence[str], *, ratio: float, fused: bool, onnx: bool) -> dict[str, Outcome]:
    """The outcome of removing a ratio of all that can go, and what is left of the model."""
    return {path: _check(name, ratio, fused=fused, onnx=onnx) for path in paths}


def _check(name: str, ratio: float, *, fused: bool, onnx: bool) -> Outcome:
    import planish
    from planish.ir.errors import PlanishError

    try:
        subject = zoo.build(name)
    except zoo.Unbuilt as error:
        return "unbuilt", _line(error)
    inputs = subject.inputs(0, subject.sizes[0])
    try:
        if onnx:
            graph, feeds = _through_onnx(subject.module, inputs)
        else:
            graph = planish.trace(subject.module, *inputs)
            feeds = dict(zip([it.name for it in graph.inputs], map(_array, zoo.tensors(inputs)), strict=True))
        del subject
        graph = planish.optimize(graph, "cleanup,fuse" if fused else "cleanup", verify="structure").graph
        gc.collect()
        return compare(graph, feeds, ratio)
    except PlanishError as refusal:
        return "refused", _line(refusal)
    except Exception as fault:  # all of them are findings
        return "crash", f"{type(fault).__name__}: {_line(fault)}"


def _through_onnx(module: torch.nn.Module, inputs: zoo.Inputs) -> tuple[Graph, dict[str, np.ndarray]]:
    import planish

    if hasattr(module, "config"):
        module.config.use_cache = False  # torch's exporter knows no caches
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        program = torch.onnx.export(
            module, inputs[0], kwargs=dict(inputs[1]), dynamo=True, verbose=False, optimize=False
        )
        assert program is not None
        program.save(file := Path(folder) / "model.onnx")
        graph = planish.read(file)
    arrays = {
        it.name: _array(tensor) for it, tensor in zip(program.model.graph.inputs, zoo.tensors(inputs), strict=True)
    }
    return graph, {it.name: arrays[it.name] for it in graph.inputs}


def compare(graph: Graph, feeds: Mapping[str, np.ndarray], ratio: float) -> Outcome:
    """Remove a ratio of all that can go, and hold what is left to the whole."""
    from planish.ir.analysis.channels import channel_groups
    from planish.ir.analysis.cost import summarize
    from planish.ir.interpreter import Interpreter
    from planish.ir.verify import verify
    from planish.passes.base import PassContext
    from planish.passes.decisions import Record, Replay
    from planish.passes.pruning.prune_channels import ChannelPruning
    from planish.passes.pruning.shrink import shrink, without
    from planish.targets.load import load_target

    start = time.perf_counter()
    groups = [group for group in channel_groups(graph) if group.producers and group.size > 1]
    seconds = time.perf_counter() - start
    frozen, reasons = _frozen(groups)
    removals = ChannelPruning(ratio=ratio).plan(graph, PassContext(load_target("native"), graph)).removals
    if not removals:
        return "refused", "; ".join(reasons) or "no layer has weights"
    source, before = graph.clone(), summarize(graph)
    kept = without(removals)
    twins = dict(zip(graph.values(), source.values(), strict=True))
    shrink(graph, kept)
    verify(graph)
    masks = {(twins[value], axis): mask for (value, axis), mask in kept.items()}
    wanted = run_masked(source, masks, feeds, Replay(source, Record(graph, feeds)))  # near ties may fall either way
    found, after = Interpreter(graph).run(feeds), summarize(graph)
    error = max(distance(found[key], wanted[key]) for key in wanted)
    said = (
        f"error {error:.1e}, {len(removals)} of {len(groups)} groups in {seconds:.1f} s, "
        f"{100 * after.parameters / max(before.parameters, 1):.0f} % of parameters, "
        f"{100 * after.flops / max(before.flops, 1):.0f} % of operations, {100 * frozen:.0f} % frozen"
    )
    return ("equal" if error <= TOLERANCE else "wrong"), "; ".join((said, *reasons))


def _frozen(groups: Sequence["ChannelGroup"]) -> tuple[float, list[str]]:
    """The share of the weights that compute frozen channels, but for the graph's outputs, and why they are frozen."""
    weights: Counter[str | None] = Counter()
    for group in groups:
        members = {(member.value, member.axis): member for _, member in group.producers}
        for value, axis, indices in members.values():
            shape = value.type.static_shape
            weights[group.frozen] += prod(shape) * indices.size // shape[axis]
    reasons = [reason for reason, _ in weights.most_common() if reason and "output" not in reason]
    return sum(weights[reason] for reason in reasons) / max(sum(weights.values()), 1), reasons


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@app.command()
def structured(
    only: Annotated[list[str] | None, typer.Option(help="A glob of the names of models; may be repeated.")] = None,
    ratio: Annotated[float, typer.Option(help="The share of the channels of each group that is removed.")] = 0.3,
    fused: Annotated[bool, typer.Option("--fused", help="Run `fuse` before pruning.")] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Read models from ONNX as torch exports it.")] = False,
    results: Annotated[Path | None, typer.Option("--json", help="The JSON file to write every outcome to.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes side by side.")] = 2,
    seconds: Annotated[float, typer.Option(help="Seconds after which a model counts as hung.")] = SECONDS,
) -> None:
    """Count the models of the zoo that give a valid smaller graph, equal to the whole with the same channels masked."""
    names = [name for name in zoo.names(False) if any(fnmatchcase(name, pattern) for pattern in only or ["*"])]
    outcomes = check_all(partial(check, ratio=ratio, fused=fused, onnx=onnx), names, ("structured",), jobs, seconds)
    found = {name: outcome["structured"] for name, outcome in outcomes.items()}
    report(found, f"{len(found)} models, ratio {ratio:g}")
    if results is not None:
        results.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


def report(found: Mapping[str, Outcome], title: str) -> None:
    """Print a row for each part of the zoo, and a line for each model."""
    console = Console(width=140)
    shares = ("% of parameters", "% of operations", "% frozen")
    table = Table(Column("part", no_wrap=True), *CLASSES, "unbuilt", "equal %", *shares, title=title)
    for part in sorted({name.rpartition("/")[0] for name in found}):
        row = [outcome for name, outcome in found.items() if name.rpartition("/")[0] == part]
        counts = Counter(kind for kind, _ in row)
        equal = 100 * counts["equal"] / max(sum(counts[kind] for kind in CLASSES), 1)
        left = [
            [int(number[1]) for _, detail in row if (number := re.search(rf"(\d+) {share}", detail))]
            for share in shares
        ]
        medians = [f"{np.median(numbers):.0f}" if numbers else "" for numbers in left]
        table.add_row(part, *(str(counts[kind]) for kind in (*CLASSES, "unbuilt")), f"{equal:.1f}", *medians)
    console.print(table)
    for name, (kind, detail) in sorted(found.items()):
        console.print(f"{kind} {name}: {detail}", markup=False, soft_wrap=True)


# -- networks with weights that mean something


@app.command()
def trained(
    data: Annotated[Path, typer.Argument(help="The folder where dataset-fashion-mnist is unpacked.")],
    cache: Annotated[Path, typer.Option(help="The folder where trained weights are kept.")] = Path("trained"),
    flops: Annotated[float, typer.Option(help="The share of the operations that is removed.")] = 0.5,
    samples: Annotated[int, typer.Option(help="Unlabelled images.")] = 512,
    seeds: Annotated[int, typer.Option(help="Draws of the images.")] = 3,
) -> None:
    """Prune a trained network by a share of its operations, and print what accuracy is left."""
    from quantization_trained import small_cnn

    import planish
    from planish.ir.analysis.cost import summarize

    with tempfile.TemporaryDirectory() as work:
        subject = small_cnn(Path(work), data, cache, epochs=2)

    def score(graph: Graph) -> float:
        outputs = subject.outputs(graph)
        return 100 * float(subject.score(outputs, outputs).mean())

    whole = planish.optimize(subject.graph, "cleanup", verify="structure").graph
    table = Table("method", "accuracy, %", "operations left, %", title=f"small CNN, {samples} samples without labels")
    table.add_row("whole", f"{score(whole):.2f}", "100")
    share = f"flops={flops:g}"
    for pipeline in (
        f"cleanup,prune-channels{{{share}}}",
        f"cleanup,fuse,prune-channels{{{share}}}",
        f"cleanup,prune-channels{{{share},repair=false}}",
        f"cleanup,prune-channels{{{share},importance=l1,repair=false}}",
        "cleanup,fuse,prune-channels",
    ):
        graphs = [
            planish.optimize(
                subject.graph, pipeline, data=subject.calibration(seed, samples // 8), verify="structure"
            ).graph
            for seed in range(seeds)
        ]
        left = np.mean([summarize(graph).flops / summarize(whole).flops for graph in graphs])
        table.add_row(pipeline, " ".join(f"{score(graph):.2f}" for graph in graphs), f"{100 * left:.0f}")
    for name, accuracy, left in _torch_pruning(subject, cache / "small CNN, 2 epochs.pt", 1 - flops):
        table.add_row(name, f"{accuracy:.2f}", f"{100 * left:.0f}")
    Console(width=160).print(table)


def _torch_pruning(subject: Any, weights: Path, wanted: float) -> Iterator[tuple[str, float, float]]:
    """What Torch-Pruning leaves of the small CNN, by its importances, at the ratio that comes nearest to a share."""
    try:
        import torch_pruning as tp  # pyright: ignore[reportMissingImports]  a peer that need not be there
    except ImportError:
        return
    from quantization_trained import SmallCnn

    example = torch.from_numpy(subject.pool[0]["x"][:1])
    kinds = {"L1": tp.importance.MagnitudeImportance(p=1), "L2": tp.importance.MagnitudeImportance(p=2)}
    for name, importance in kinds.items():
        tried: list[tuple[float, Any]] = []
        for ratio in np.arange(0.1, 0.6, 0.02):
            module = SmallCnn().eval()
            module.load_state_dict(torch.load(weights, weights_only=True))
            before, _ = tp.utils.count_ops_and_params(module, example)
            pruner = tp.pruner.MetaPruner(
                module, example, importance, pruning_ratio=float(ratio), ignored_layers=[module.head]
            )
            pruner.step()
            tried.append((tp.utils.count_ops_and_params(module, example)[0] / before, module.eval()))
        left, module = min(tried, key=lambda pair: abs(pair[0] - wanted))
        with torch.no_grad():
            outputs = [[module(torch.from_numpy(feeds["x"])).numpy()] for feeds in subject.test]
        yield f"Torch-Pruning, {name}", 100 * float(subject.score(outputs, outputs).mean()), left


if __name__ == "__main__":
    app()
