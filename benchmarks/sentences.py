"""What a teacher of sentences is worth to a small encoder: MiniLM teaches a network without attention.

    pip install -e ".[dev,examples]"
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python benchmarks/sentences.py vaderSentiment-3.3.2.tar.gz [--sentences 4000] [--epochs 12] [--seeds 3]

The student is a deep averaging network (Iyyer et al., ACL 2015) with the teacher's word vectors, of which each is
weighed: the mean over a text, and two layers. It learns the teacher's vectors of sentences from film reviews, and of
those of 300 news documents, without labels; or, alone, from what people thought of the sentences, with a linear layer
on top of it. Spearman is that of the likeness of Lee's 50 documents, in pairs, with people's judgement; change is
beside labels alone, with an interval that holds 95 % of resamples of documents. Accuracy is that of the linear layer on
other sentences, trained with labels at last in all cases, with McNemar's test. Latency is that of one document, one
thread of ONNX Runtime, in turn with the teacher.
"""

import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import adapters
import numpy as np
import quantization_scores as scores
import torch
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from torch import nn

import planish
from planish.driver.measurement import interleaved
from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter
from planish.targets.load import load_target

BATCH = 50
COLUMNS = ("seed", "taught by", "Spearman", "of the teacher's", "change", "accuracy", "change", "McNemar")


class Averaging(nn.Module):
    """The weighted mean of words' vectors, two layers beside it, and a norm of one."""

    def __init__(self, words: torch.Tensor) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(words.clone(), freeze=False)
        self.weights = nn.Embedding.from_pretrained(torch.ones(len(words), 1), freeze=False)
        width = words.shape[1]
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.straight = nn.Linear(width, width)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings, float[n, 384], of texts, int64[n, tokens]."""
        weights = self.weights(input_ids) * attention_mask[..., None].to(torch.float32)
        mean = (self.words(input_ids) * weights).sum(1) / attention_mask.sum(1, keepdim=True).to(torch.float32)
        return nn.functional.normalize(self.straight(mean) + self.layers(mean), dim=-1)


class Student(nn.Module):
    """A text's vector, and two scores by a linear layer."""

    def __init__(self, words: torch.Tensor) -> None:
        super().__init__()
        self.encoder = Averaging(words)
        self.head = nn.Linear(words.shape[1], 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = self.encoder(input_ids, attention_mask)
        return vectors, self.head(8 * vectors)


def documents(count: int) -> list[str]:
    """News documents, and each half of them."""
    texts = adapters.minilm_data.read("lee_background.cor")[:count]
    halves: list[str] = []
    for text in texts:
        parts = re.split(r"(?<=[.?!]) ", text)
        middle = (len(parts) + 1) // 2
        halves += [" ".join(part) for part in (parts[:middle], parts[middle:]) if part]
    return texts + halves


class Lee:
    """The likeness of Lee's documents, as people have judged it."""

    def __init__(self) -> None:
        minilm_data = adapters.minilm_data
        self.feeds = list(minilm_data.batches(minilm_data.read("lee.cor"), 1))
        path = minilm_data.folder("gensim") / "test/test_data/similarities0-1.txt"
        judged = np.loadtxt(path)
        self._judged = np.triu(judged, 1) + np.triu(judged, 1).T

    def likeness(self, graph: Graph) -> np.ndarray:
        """Cosines, float[50, 50], of the first output's vectors."""
        interpreter = Interpreter(graph)
        found = np.concatenate([next(iter(interpreter.run(feeds).values())) for feeds in self.feeds])
        found /= np.linalg.norm(found, axis=-1, keepdims=True)
        return found @ found.T

    def spearman(self, likeness: np.ndarray, drawn: np.ndarray | None = None) -> float:
        """The rank correlation over pairs of different documents, of all or of those that were drawn."""
        places = np.arange(len(likeness)) if drawn is None else drawn
        one, other = (places[index] for index in np.triu_indices(len(places), 1))
        one, other = one[one != other], other[one != other]
        return float(spearmanr(likeness[one, other], self._judged[one, other]).statistic)

    def change(self, likeness: np.ndarray, reference: np.ndarray) -> scores.Interval:
        """How much greater the correlation is than another, over resamples of documents."""
        random = np.random.default_rng(0)
        draws = [random.integers(len(likeness), size=len(likeness)) for _ in range(1000)]
        changes = [self.spearman(likeness, drawn) - self.spearman(reference, drawn) for drawn in draws]
        low, high = np.quantile(changes, [0.025, 0.975])
        return scores.Interval(self.spearman(likeness) - self.spearman(reference), float(low), float(high))


def main(
    archive: Annotated[Path, typer.Argument(help="The sources of vaderSentiment.")],
    sentences: Annotated[int, typer.Option(help="Sentences to learn from.")] = 2000,
    news: Annotated[int, typer.Option(help="Documents to learn from.")] = 300,
    test: Annotated[int, typer.Option(help="Sentences to judge on.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Epochs of learning, from the teacher and from labels each.")] = 12,
    seeds: Annotated[int, typer.Option(help="Draws of sentences and weights.")] = 3,
) -> None:
    """Print what a teacher of sentences is worth."""
    texts, labels = adapters.reviews(archive)
    encoder, inputs, dynamic = adapters.minilm.build()
    words = encoder.bert.get_input_embeddings().weight.detach()
    teacher = planish.trace(encoder, inputs, dynamic_shapes=dynamic)
    lee, table = Lee(), Table(*COLUMNS)
    whole = lee.spearman(lee.likeness(teacher))
    table.add_row("", "the teacher itself", f"{whole:.4f}")
    taught: list[Graph] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "teacher.planish")
        planish.write(teacher, path)
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(texts))[: sentences + test]
            feeds = list(adapters.minilm_data.batches([texts[place] for place in order], BATCH))
            batches = list(zip(feeds, np.array_split(labels[order], len(feeds)), strict=True))
            learn, judge = batches[: sentences // BATCH], batches[sentences // BATCH :]
            torch.manual_seed(seed)
            student = planish.trace(Student(words).eval(), inputs, dynamic_shapes=dynamic)
            vectors, head = student.outputs

            def made(graph: Graph, name: str, data: Sequence[Any], seed: int = seed, **options: Any) -> Graph:
                steps = ["cleanup", {name: {"epochs": epochs, **options}}]
                return planish.optimize(graph, steps, data=data, seed=seed, verify="structure").graph

            start = time.perf_counter()
            names = [f"{vectors}->{next(iter(teacher.outputs))}"]
            unlabelled = [*feeds[: sentences // BATCH], *adapters.minilm_data.batches(documents(news), BATCH)]
            taught.append(made(student, "distill", unlabelled, teacher=str(path), outputs=names))
            Console(stderr=True).print(
                seed, f"taught in {(time.perf_counter() - start) / 60:.1f} minutes", markup=False
            )
            graphs = {
                "labels": made(student, "fine-tune", learn, output=head),
                "nobody, then labels the layer": made(student, "fine-tune", learn, output=head, only="head"),
                "the teacher, the linear layer by labels": made(
                    taught[-1], "fine-tune", learn, output=head, only="head"
                ),
                "the teacher, then labels all": made(taught[-1], "fine-tune", learn, output=head),
            }
            found = {name: (lee.likeness(graph), _right(graph, head, judge)) for name, graph in graphs.items()}
            for name, (likeness, right) in found.items():
                own = lee.spearman(likeness)
                cells = [f"{own:.4f}", f"{own / whole:.1%}", lee.change(likeness, found["labels"][0]).text(3)]
                against = found["labels"][1]
                cells += [f"{right.mean():.4f}", scores.difference(right.astype(float), against.astype(float)).text(3)]
                cells.append(f"{scores.mcnemar(right, against):.1e}")
                table.add_row(str(seed), name, *cells)
                Console(stderr=True).print(seed, name, *cells, markup=False)
    Console(width=170).print(table)
    shares = [lee.spearman(lee.likeness(graph)) / whole for graph in taught]
    print(f"{scores.spread(shares, 3)} of the teacher's Spearman where it alone taught, by {seeds} seeds")
    _time(teacher, taught[-1], lee.feeds[0])


def _time(teacher: Graph, student: Graph, feeds: Any) -> None:
    """Print how much faster the vector of one document is computed."""
    student.outputs.popitem()
    target = replace(load_target("native"), threads=1)
    fused = [planish.optimize(it, "cleanup,fuse", verify="structure").graph for it in (teacher, student)]
    before, after = interleaved([partial(planish.compile(it, "onnxruntime", target), feeds) for it in fused])
    print(f"{after.speedup_over(before)} as fast, {1e3 * before.median:.2f} ms and {1e3 * after.median:.3f} ms")


def _right(graph: Graph, head: str, batches: list[tuple[Any, np.ndarray]]) -> np.ndarray:
    """Whether each sentence gets its class."""
    interpreter = Interpreter(graph)
    return np.concatenate([interpreter.run(feeds)[head].argmax(-1) == labels for feeds, labels in batches])


if __name__ == "__main__":
    typer.run(main)
