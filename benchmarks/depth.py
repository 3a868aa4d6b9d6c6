"""What models lose without some of their residual branches, and how much faster they are.

    pip install -e ".[dev,benchmarks]"
    python benchmarks/depth.py MODEL... [--root FOLDER] [--cache FOLDER] [--blocks 3] [--samples 512] [--limit 40]

Prints for one branch, two, three and so on the metric on examples that no pass has seen, and in parentheses how far
outputs are from the whole model's there, in percent as `max_drop` counts: for `prune-blocks`, for the last branches and
for three draws of random ones, of these both as the model is then and with layers fitted as the pass fits them. Beside
it stands how many times as fast as the whole the model is in ONNX Runtime on one sample, by the processor time of one
thread (set OMP_NUM_THREADS=1), which processes that wait for the same core don't add to, in turns, with quartiles. The
models are those of `subjects.py`, as in `compression.py defaults`.
"""

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import subjects
import typer
from quantization_subjects import Subject
from turns import in_turns

import planish
from planish.driver.data import ports_of, single_sample
from planish.ir.analysis.cost import summarize
from planish.ir.analysis.residuals import residual_branches
from planish.ir.graph import Graph
from planish.passes.base import Feeds, PassContext
from planish.passes.judge import Judge, divided
from planish.passes.pruning.branches import Shortened
from planish.passes.pruning.comparison import enough_to_fit
from planish.targets.load import load_target

DRAWS = 3
"""How often random branches are drawn."""


def processor_seconds(call: Callable[[], object]) -> float:
    """The processor seconds of a call, in the mean of as many as take a hundredth of a second."""
    start, calls = time.process_time(), 0
    while (taken := time.process_time() - start) < 0.01:
        call()
        calls += 1
    return taken / calls


def faster(whole: Graph, fewer: Graph, feeds: Feeds, rounds: int) -> str:
    """How many times as fast as the whole a model is on one sample, with quartiles."""
    runs = [partial(planish.compile(graph, backend="onnxruntime"), **feeds) for graph in (whole, fewer)]
    for run in runs:
        run()
    before, after = in_turns(runs, processor_seconds, rounds)
    low, middle, high = np.percentile(before / after, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main(
    models: Annotated[list[subjects.Model], typer.Argument(help="The models to shorten.")],
    root: Annotated[Path, typer.Option(help="The folder where data are unpacked.")] = Path("/"),
    cache: Annotated[Path, typer.Option(help="The folder where trained weights are kept.")] = Path("trained"),
    blocks: Annotated[int, typer.Option(help="The most branches that go.")] = 3,
    samples: Annotated[int, typer.Option(help="Samples to calibrate on, without labels.")] = 512,
    epochs: Annotated[int, typer.Option(help="Epochs of training, where a network is trained.")] = 2,
    limit: Annotated[int, typer.Option(help="Batches to judge on.")] = 10_000,
    rounds: Annotated[int, typer.Option(help="Rounds of timing.")] = 40,
    seed: Annotated[int, typer.Option(help="The draw of the samples.")] = 0,
) -> None:
    """Print what models lose without branches."""
    warnings.simplefilter("ignore")
    for model in models:
        with tempfile.TemporaryDirectory() as work:
            subject = subjects.subject(model, Path(work), root, cache, epochs)
        data = subject.calibration(seed, max(1, samples // len(next(iter(subject.pool[0].values())))))
        print(f"{model}, {subject.metric}, {len(data)} batches", flush=True)
        shorten(subject, data, blocks, limit, rounds, seed)


def shorten(subject: Subject, data: Sequence[Feeds], blocks: int, limit: int, rounds: int, seed: int) -> None:
    """Print what a model loses without one branch, two and so on."""
    graph = planish.optimize(subject.graph, "cleanup,fuse", verify="structure").graph
    exact, feeds = subject.outputs(graph, limit), single_sample(subject.test[0], ports_of(graph))
    branches = [branch for branch in residual_branches(graph) if branch.frozen is None]
    context = PassContext(load_target("native"), graph, data)
    fitted = enough_to_fit(graph, divided(context)[0])
    start = Shortened.of(graph, branches)

    judge = Judge(graph, subject.test[:limit])

    def score(graph: Graph) -> str:
        metric = 100 * float(subject.score(subject.outputs(graph, limit), exact).mean())
        return f"{metric:.2f} ({judge.judge(graph).drop:.2f})"

    def both(numbers: Sequence[int]) -> str:
        shorter = (start.without(numbers, context, batches) for batches in ((), fitted))
        return ", fitted ".join(score(it.finished()) for it in shorter)

    print(f"all {len(branches)} branches: {score(graph)}", flush=True)
    random = np.random.default_rng(seed)
    for count in range(1, blocks + 1):
        began = time.process_time()
        fewer = planish.optimize(graph, f"prune-blocks{{blocks={count}}}", data=data, verify="structure").graph
        taken = time.process_time() - began
        left = summarize(fewer, context.sizes).flops / summarize(graph, context.sizes).flops
        times = f"{100 * left:.0f} % of operations, {faster(graph, fewer, feeds, rounds)} times as fast"
        print(f"{count} gone: {score(fewer)}, {times}, in {taken:.0f} CPU s", flush=True)
        print(f"    the last: {both(range(len(branches) - count, len(branches)))}", flush=True)
        for _ in range(DRAWS):
            numbers = sorted(random.permutation(len(branches))[:count].tolist())
            print(f"    {numbers}: {both(numbers)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
