"""What `search.py` looks for plans of: models, and data that are kept apart for calibration, choices and judgement."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantization_subjects import EXAMPLES
from quantization_trained import BATCH, SmallCnn, fashion, trained
from torch import nn

CALIBRATION = 2048
"""Images of clothes that nothing is trained on and passes see."""
ROWS = 50
EPOCHS = {"cnn": 1, "vit": 3}


def cnn(root: str, cache: str) -> tuple[nn.Module, Any, Any]:
    """Three convolutions for clothes."""
    return _clothes("cnn", SmallCnn(), root, cache)


def vit(root: str, cache: str) -> tuple[nn.Module, Any, Any]:
    """A vision transformer for clothes: 16 patches, six layers of 96 channels."""
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 28, "patch_size": 7, "in_chans": 1, "embed_dim": 96, "depth": 6, "num_heads": 3}
    return _clothes("vit", VisionTransformer(num_classes=10, **sizes), root, cache)


def _clothes(name: str, module: nn.Module, root: str, cache: str) -> tuple[nn.Module, Any, Any]:
    images, labels = fashion(Path(root), "train", 28, 1)
    random, loss = np.random.default_rng(0), nn.CrossEntropyLoss(label_smoothing=0.1)
    count = len(images) - CALIBRATION

    def batches() -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        order = random.permutation(count)
        for start in range(0, count - BATCH + 1, BATCH):
            pick = order[start : start + BATCH]
            x = torch.from_numpy(images[pick])
            yield (x.flip(-1) if random.random() < 0.5 else x,), torch.from_numpy(labels[pick])

    module = trained(name, lambda: module, batches, loss, Path(cache), EPOCHS[name])
    return module, (torch.from_numpy(images[:2]),), ({0: torch.export.Dim("batch", max=4096)},)


def clothes(root: str, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels for `calibration`, and of the 10,000 for tests those for `choices`, `judgement` or `both`."""
    images, labels = fashion(Path(root), "train" if part == "calibration" else "t10k", 28, 1)
    first = len(images) - CALIBRATION if part == "calibration" else 0
    starts = range(first, len(images), ROWS)
    found = [(images[start : start + ROWS], labels[start : start + ROWS]) for start in starts]
    yield from found if part == "calibration" else _part(found, part)


def minilm() -> Any:
    """all-MiniLM-L6-v2, as examples/minilm has it."""
    return _example("minilm", "model").build()


def documents(part: str) -> Iterator[dict[str, np.ndarray]]:
    """Lee's documents, of which those of each part are others; news for `calibration`.

    Labels are the number of each document, and how people judge its likeness to later ones.
    """
    data = _example("minilm", "data")
    if part == "calibration":
        yield from data.calibration(300)
        return
    judged = np.loadtxt(data.folder("gensim") / "test/test_data/similarities0-1.txt")
    found = [
        {**inputs, "labels": np.concatenate([[number], judged[number]])}
        for number, inputs in enumerate(data.batches(data.read("lee.cor"), 1))
    ]
    yield from _part(found, part)


def spearman(predictions: Any, labels: Any) -> float:
    """The rank correlation of cosine and judged likeness, over all pairs of different documents that are given."""
    from scipy import stats

    places = np.array([int(label[0]) for label in labels])
    order = np.argsort(places, kind="stable")
    places = places[order]
    embeddings = np.concatenate([outputs[0] for outputs in predictions])[order]
    judged = np.stack([label[1:] for label in labels])[order][:, places]
    pairs = np.nonzero(places[:, None] < places)
    return float(stats.spearmanr((embeddings @ embeddings.T)[pairs], judged[pairs]).statistic)


def ocr() -> Any:
    """PP-OCRv4's recognition, as examples/ocr has it."""
    return _example("ocr", "model").build()


def text_lines(part: str) -> Iterator[dict[str, Any]]:
    """Drawn lines of text; those of each part are others."""
    data = _example("ocr", "data")
    if part == "calibration":
        yield from data.calibration(512)
    else:
        yield from _part(list(data.test(800)), part)


def character_error_rate(predictions: Any, labels: Any) -> float:
    """Edits a character, as examples/ocr counts them."""
    return _example("ocr", "metric").character_error_rate(predictions, labels)


character_error_rate.lower_is_better = True


def _part(batches: list[Any], part: str) -> list[Any]:
    """The batches that a search chooses by, those that it judges by, or both in turn."""
    return batches if part == "both" else batches[part == "judgement" :: 2]


def _example(name: str, module: str) -> Any:
    """A module of an example, whose modules have the names that other examples' have."""
    for other in ("data", "model", "metric"):
        sys.modules.pop(other, None)
    sys.path.insert(0, str(EXAMPLES / name))
    try:
        return __import__(module)
    finally:
        sys.path.remove(str(EXAMPLES / name))
