"""LoRA on MiniLM for a task: sentences of film reviews, liked or not, as people have judged.

    pip install -e ".[dev,examples]"
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python benchmarks/adapters.py vaderSentiment-3.3.2.tar.gz [--samples 2000] [--test 2000] [--epochs 3] [--seeds 3]

The model is all-MiniLM-L6-v2 with a linear head. Rows are the head trained alone, adapters of queries and values
trained with the head behind that (Kumar et al., "Fine-Tuning Can Distort Pretrained Features and Underperform
Out-of-Distribution", ICLR 2022), these merged, and merged in int8. Change is that of the accuracy beside the head
alone, with an interval that holds 95 % of resamples of the sentences.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import quantization_scores as scores
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
LAYERS = "*.query|*.value"
BATCH = 50


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
    """The rows of a draw of sentences.

    Args:
        seed: the seed of the draw.
        judge: batches with their labels.
        table: the table that gets the rows.
    """

    def __init__(self, seed: int, judge: list[tuple[Any, np.ndarray]], table: Table) -> None:
        self._seed, self._judge, self._table = seed, judge, table
        self._reference: np.ndarray | None = None
        self._start = time.perf_counter()

    def add(self, name: str, graph: Graph, trained: str = "") -> Graph:
        """Judge a graph, beside the first one; returns it."""
        minutes = f"{(time.perf_counter() - self._start) / 60:.1f}"
        found = right(graph, self._judge)
        change = "" if self._reference is None else scores.difference(found, self._reference).text(4)
        self._reference = found if self._reference is None else self._reference
        self._table.add_row(str(self._seed), name, trained, f"{found.mean():.4f}", change, minutes)
        Console(stderr=True).print(self._seed, name, trained, f"{found.mean():.4f}", change, markup=False)
        self._start = time.perf_counter()
        return graph


def main(
    archive: Annotated[Path, typer.Argument(help="The sources of vaderSentiment.")],
    samples: Annotated[int, typer.Option(help="Sentences to learn from.")] = 2000,
    test: Annotated[int, typer.Option(help="Sentences to judge on.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 3,
    seeds: Annotated[int, typer.Option(help="Draws of the sentences.")] = 3,
    rank: Annotated[int, typer.Option(help="The rank of the adapters.")] = 8,
) -> None:
    """Print what adapters are worth."""
    texts, labels = reviews(archive)
    minilm_data.TOKENS = 32
    table = Table("seed", "model", "trained", "accuracy", "change", "minutes")
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(texts))[: samples + test]
        feeds = list(minilm_data.batches([texts[place] for place in order], BATCH))
        batches = list(zip(feeds, np.array_split(labels[order], len(feeds)), strict=True))
        adapted = _of_seed(seed, batches[: samples // BATCH], batches[samples // BATCH :], epochs, rank, table)
        if not seed:
            _switch(adapted, feeds[-1])
    Console(width=140).print(table)


def _of_seed(seed: int, learn: list[Any], judge: list[Any], epochs: int, rank: int, table: Table) -> Graph:
    """Add the rows of a draw; returns the model with adapters."""
    encoder, inputs, dynamic = minilm.build()
    torch.manual_seed(seed)
    traced = planish.trace(Classifier(encoder).eval(), inputs, dynamic_shapes=dynamic)
    results, notes = Results(seed, judge, table), Notes()

    def made(graph: Graph, *steps: Any, data: list[Any] = learn) -> Graph:
        return planish.optimize(graph, list(steps), data=data, seed=seed, verify="structure", reporter=notes).graph

    head = made(traced, "cleanup", {"fine-tune": {"epochs": epochs, "only": "head"}})
    results.add("head alone", head)
    adapters = {"lora": {"rank": rank, "only": LAYERS}}
    adapted = made(head, adapters, {"fine-tune": {"epochs": epochs, "only": "*.lora_?|head"}})
    sizes = {name: constant.data.size for name, constant in adapted.constants.items()}
    share = sum(size for name, size in sizes.items() if ".lora_" in name or "head" in name) / sum(sizes.values())
    results.add("adapters and head", adapted, f"{share:.2%}")
    merged = results.add("merged", made(adapted, "merge-lora,fuse"))
    results.add("merged, int8", made(adapted, "merge-lora,fuse,quantize", data=learn[:6]))
    moved = drift(*([Interpreter(it).run(judge[-1][0])] for it in (adapted, merged)))
    told = [text for text in notes.texts if "what the adapter does" in text]
    print(f"seed {seed}: merging moves the outputs by {moved:.1e}; {'; '.join(told)}")
    return adapted


def _switch(adapted: Graph, feeds: Any) -> None:
    """Time runs of one sentence with the same adapter, and with another one each time, in both backends."""
    switchable, first = planish.adapter_inputs(adapted)
    with tempfile.TemporaryDirectory() as folder:
        planish.save_adapter(adapted, Path(folder, "first"))
        read = planish.read_adapter(Path(folder, "first"), switchable)
    assert all(np.array_equal(read[name], array) for name, array in first.items())
    second = {name: array[::-1].copy() for name, array in first.items()}
    one = {name: array[:1] for name, array in feeds.items()}
    for backend in ("onnxruntime", "tvm"):
        executable = planish.compile(switchable, backend)
        pairs = [[partial(executable, {**one, **weights}) for weights in (first, it)] for it in (first, second)]
        kept, changed = 1e3 * in_turns(pairs, lambda pair: min(map(seconds_of, pair)), 30).min(axis=1)
        print(f"{backend}: {kept:.2f} ms with one adapter, {changed - kept:+.3f} ms where it changes each time")


if __name__ == "__main__":
    typer.run(main)
