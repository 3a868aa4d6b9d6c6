"""What `search.py` looks for plans of: models, and data that are kept apart for calibration, choices and judgement."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quantization_subjects import example
from quantization_trained import BATCH, SmallCnn, fashion, rated, trained
from torch import nn

CALIBRATION = 2048
"""Images of clothes, or reviews, that nothing is trained on and passes see."""
EVALUATION = 6000
"""Reviews to choose and judge by."""
ROWS = 50
TEXT = ("input_ids", "attention_mask")
EPOCHS = {"cnn": 1, "vit": 3}


def cnn(root: str, cache: str) -> tuple[nn.Module, Any, Any]:
    """Three convolutions for clothes."""
    return _clothes("cnn", SmallCnn, root, cache)


def vit(root: str, cache: str) -> tuple[nn.Module, Any, Any]:
    """A vision transformer for clothes: 16 patches, six layers of 96 channels."""
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 28, "patch_size": 7, "in_chans": 1, "embed_dim": 96, "depth": 6, "num_heads": 3}
    return _clothes("vit", lambda: VisionTransformer(num_classes=10, **sizes), root, cache)


def _clothes(name: str, make: Callable[[], nn.Module], root: str, cache: str) -> tuple[nn.Module, Any, Any]:
    images, labels = fashion(Path(root), "train", 28, 1)
    random, loss = np.random.default_rng(0), nn.CrossEntropyLoss(label_smoothing=0.1)
    count = len(images) - CALIBRATION

    def batches() -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        order = random.permutation(count)
        for start in range(0, count - BATCH + 1, BATCH):
            pick = order[start : start + BATCH]
            x = torch.from_numpy(images[pick])
            yield (x.flip(-1) if random.random() < 0.5 else x,), torch.from_numpy(labels[pick])

    module = trained(name, make, batches, loss, Path(cache), EPOCHS[name])
    return module, (torch.from_numpy(images[:2]),), ({0: torch.export.Dim("batch", max=4096)},)


def clothes(root: str, part: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels for `calibration`, or the 10,000 for tests, for `evaluation`."""
    images, labels = fashion(Path(root), "train" if part == "calibration" else "t10k", 28, 1)
    first = len(images) - CALIBRATION if part == "calibration" else 0
    starts = range(first, len(images), ROWS)
    yield from ((images[start : start + ROWS], labels[start : start + ROWS]) for start in starts)


class Rater(nn.Module):
    """A number for a text by its embedding."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(384, 1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(input_ids, attention_mask)).squeeze(-1)


def minilm(root: str, cache: str) -> tuple[nn.Module, Any, Any]:
    """all-MiniLM-L6-v2, as examples/minilm has it, with a linear layer that rates how kind a review is."""
    encoder, inputs, dynamic = example("minilm", "model").build()
    module, file = Rater(encoder), Path(cache, "minilm, ratings.pt")
    if not file.exists():
        found = list(reviews(root, "learning"))
        with torch.no_grad():
            embeddings = [encoder(*(torch.from_numpy(it[name]) for name in TEXT)) for it in found]
        x = torch.cat([torch.cat(embeddings), torch.ones(sum(map(len, embeddings)), 1)], 1).double()
        y = torch.from_numpy(np.concatenate([it["labels"] for it in found])).double()
        *weight, bias = torch.linalg.solve(x.T @ x + torch.eye(385), x.T @ y).float()
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.stack(weight)[None], "bias": bias[None]}, file)
    module.head.load_state_dict(torch.load(file, weights_only=True))
    return module, inputs, dynamic


def reviews(root: str, part: str) -> Iterator[dict[str, np.ndarray]]:
    """Sentences of film reviews, about as many words in a batch, and how kind readers found them.

    Those for `learning` a head, for `calibration` and for `evaluation` are others.
    """
    rows = rated(Path(root), "movieReviewSnippets")
    order = np.random.default_rng(0).permutation(len(rows))
    parts = np.split(order, [-EVALUATION - CALIBRATION, -EVALUATION])
    places = dict(zip(("learning", "calibration", "evaluation"), parts, strict=True))
    chosen = sorted((rows[number] for number in places[part]), key=lambda row: len(row[1]))
    ratings = np.array([rating for rating, _ in chosen], np.float32)
    inputs = example("minilm", "data").batches([text for _, text in chosen], ROWS)
    found = [{**one, "labels": ratings[place * ROWS : (place + 1) * ROWS]} for place, one in enumerate(inputs)]
    found = [found[place] for place in np.random.default_rng(0).permutation(len(found))]
    if part == "calibration":
        yield from ({name: one[name] for name in TEXT} for one in found)
    else:
        yield from found


def ocr() -> Any:
    """PP-OCRv4's recognition, as examples/ocr has it."""
    return example("ocr", "model").build()


def text_lines(part: str) -> Iterator[dict[str, Any]]:
    """Drawn lines of text; those of each part are others."""
    data = example("ocr", "data")
    if part == "calibration":
        yield from data.calibration(256)
    else:
        yield from data.test(1600)


def character_error_rate(predictions: Any, labels: Any) -> float:
    """Edits a character, as examples/ocr counts them."""
    return example("ocr", "metric").character_error_rate(predictions, labels)


character_error_rate.lower_is_better = True
