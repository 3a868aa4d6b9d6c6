"""Networks trained here in minutes: images of clothes, and what sentences feel like. Their weights are kept."""

import gzip
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from quantization_subjects import CLASSES, Subject, accuracy
from rich.progress import track
from torch import nn

from planish.targets.load import load_target

PIXELS, BATCH = 32, 64
_RATES = {"deit": 5e-4, "vit": 1e-3, "lstm": 2e-3, "perceptron": 2e-3}
"""The largest step of Adam, where it isn't that of convolutions with batch norms, 0.01."""
CNNS = {
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "efficientnet_b0": "efficientnet_b0",
    "regnet_y_400mf": "regnety_004",
    "shufflenet_v2": "",
    "ghostnet": "ghostnet_100",
    "deit": "deit_tiny_patch16_224",
}
"""Names here to timm's; torchvision has ShuffleNet."""


def small_cnn(work: Path, root: Path, cache: Path, epochs: int) -> Subject:
    """Return a plain CNN of three convolutions for clothes of 28x28 pixels."""
    return _clothes("small CNN", SmallCnn, 28, 1, work, root, cache, epochs)


def perceptron(work: Path, root: Path, cache: Path, epochs: int) -> Subject:
    """Return three linear layers with 256 and 128 neurons between for clothes of 28x28 pixels."""

    def make() -> nn.Module:
        hidden = (nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))

    return _clothes("perceptron", make, 28, 1, work, root, cache, epochs)


def hidden_cnn(work: Path, root: Path, cache: Path, epochs: int) -> Subject:
    """Return a CNN of three convolutions and a hidden layer of 256 neurons for clothes of 28x28 pixels."""
    return _clothes("hidden CNN", HiddenCnn, 28, 1, work, root, cache, epochs)


class HiddenCnn(nn.Module):
    """Three convolutions with a batch norm each, and two linear layers, which have most of 1.7 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        stages = ([*_stage(before, out), nn.MaxPool2d(2)] for before, out in ((1, 32), (32, 64)))
        self.features = nn.Sequential(*(layer for stage in stages for layer in stage), *_stage(64, 128))
        self.hidden = nn.Sequential(nn.Linear(128 * 49, 256), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores, float[n, 10], of images, float[n, 1, 28, 28]."""
        return self.head(self.hidden(self.features(x).flatten(1)))


class SmallCnn(nn.Module):
    """Three convolutions, each with a batch norm, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        stages = (_stage(1, 32), [nn.MaxPool2d(2)], _stage(32, 64), [nn.MaxPool2d(2)], _stage(64, 128))
        self.features = nn.Sequential(*(layer for stage in stages for layer in stage), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores, float[n, 10], of images, float[n, 1, 28, 28]."""
        return self.head(self.features(x).flatten(1))


def _stage(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]


def resnet20(work: Path, root: Path, cache: Path, epochs: int) -> Subject:
    """Return the ResNet of 20 layers of He et al. (CVPR 2016, section 4.2) for clothes of 28x28 pixels."""
    return _clothes("resnet20", ResNet20, 28, 1, work, root, cache, epochs)


class ResNet20(nn.Module):
    """A convolution, nine blocks of two with 16, 32 and 64 channels, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = [16] * 3 + [32] * 3 + [64] * 3
        blocks = [_Residual(before, out) for before, out in zip([16, *widths], widths, strict=False)]
        self.features = nn.Sequential(*_stage(1, 16), *blocks, nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores, float[n, 10], of images, float[n, 1, 28, 28]."""
        return self.head(self.features(x).flatten(1))


class _Residual(nn.Module):
    """Two convolutions and a shortcut, which is a convolution of one pixel where the channels grow."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        stride = out // channels
        self.body = nn.Sequential(*_stage(channels, out, stride), *_stage(out, out)[:2])
        shortcut = [nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)]
        self.shortcut = nn.Sequential(*shortcut if out > channels else ())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features, float[n, out, h, w]."""
        return torch.relu(self.body(x) + self.shortcut(x))


def cnn(name: str, work: Path, root: Path, cache: Path, epochs: int) -> Subject:
    """Return a network of `CNNS` for clothes of 32x32 pixels."""

    def make() -> nn.Module:
        import timm
        from torchvision.models import shufflenet_v2_x1_0

        if not CNNS[name]:
            return shufflenet_v2_x1_0(num_classes=10)
        size = {"img_size": PIXELS, "patch_size": 8} if name == "deit" else {}
        return timm.create_model(CNNS[name], num_classes=10, **size)

    return _clothes(name, make, PIXELS, 3, work, root, cache, epochs)


def vit(work: Path, root: Path, cache: Path, epochs: int) -> Subject:
    """Return a vision transformer of six layers with 96 channels for clothes of 28x28 pixels in patches of 7x7."""

    def make() -> nn.Module:
        from timm.models.vision_transformer import VisionTransformer

        small = {"img_size": 28, "patch_size": 7, "embed_dim": 96, "depth": 6, "num_heads": 3}
        return VisionTransformer(**small, in_chans=1, num_classes=10)

    return _clothes("vit", make, 28, 1, work, root, cache, epochs)


def _clothes(
    name: str,
    make: Callable[[], nn.Module],
    pixels: int,
    channels: int,
    work: Path,
    root: Path,
    cache: Path,
    epochs: int,
) -> Subject:
    images, labels = fashion(root, "train", pixels, channels)
    held_images, held_labels = fashion(root, "t10k", pixels, channels)
    random = np.random.default_rng(0)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)

    def batches() -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        order = random.permutation(len(images) - 2048)  # the last are for calibration
        for start in range(0, len(order) - BATCH + 1, BATCH):
            pick = order[start : start + BATCH]
            x = torch.from_numpy(images[pick])
            yield (x.flip(-1) if random.random() < 0.5 else x,), torch.from_numpy(labels[pick])

    module = trained(name, make, batches, loss, cache, epochs)
    pool = [{"x": images[start : start + 8]} for start in range(len(images) - 2048, len(images), 8)]
    test = [{"x": held_images[start : start + 50]} for start in range(0, len(held_images), 50)]
    return _subject(name, module, {"x": pool[0]["x"]}, work, pool, test, held_labels, is_text=name in ("deit", "vit"))


def fashion(root: Path, part: str, pixels: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Images, float32[n, channels, pixels, pixels], and labels, int64[n]."""
    place = root / "usr/share/datasets/fashion-mnist"
    if not place.exists():
        raise FileNotFoundError(f"there is no {place}: unpack dataset-fashion-mnist there")
    raw = np.frombuffer(gzip.decompress((place / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((place / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    edge = (pixels - 28) // 2
    images = np.pad((raw.reshape(-1, 1, 28, 28) / np.float32(255) - 0.2860) / 0.3530, [(0, 0)] * 2 + [(edge, edge)] * 2)
    return images.astype(np.float32).repeat(channels, axis=1), labels.astype(np.int64)


# -- sentences


class SentimentLstm(nn.Module):
    """Three layers of LSTM over the words of a sentence, and the mean of what they say."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 128, padding_idx=0)
        self.lstm = nn.LSTM(128, 128, num_layers=3, batch_first=True, dropout=0.2)
        self.head = nn.Linear(128, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores, float[n, 2], of word ids, int64[n, words], among which 0 is none."""
        said = self.lstm(self.embedding(x))[0]
        there = (x > 0).unsqueeze(-1).to(said.dtype)
        return self.head((said * there).sum(1) / there.sum(1))


def sentiment(work: Path, root: Path, cache: Path, epochs: int) -> Subject:
    """Return an LSTM that tells whether a sentence is kind, by vaderSentiment's tweets and reviews."""
    ids, labels, words = _sentences(root)
    random = np.random.default_rng(0)
    order = random.permutation(len(ids))
    held, pooled, rest = order[:3000], order[3000:4000], order[4000:]

    def batches() -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]:
        shuffled = random.permutation(rest)
        for start in range(0, len(shuffled) - 63, 64):
            pick = shuffled[start : start + 64]
            yield (torch.from_numpy(ids[pick]),), torch.from_numpy(labels[pick])

    module = trained("lstm", lambda: SentimentLstm(words), batches, nn.CrossEntropyLoss(), cache, 2 * epochs)
    pool = [{"x": ids[pooled[start : start + 8]]} for start in range(0, len(pooled), 8)]
    test = [{"x": ids[held[start : start + 20]]} for start in range(0, len(held), 20)]
    return _subject("LSTM", module, pool[0], work, pool, test, labels[held], is_text=True)


def rated(source: Path, name: str) -> list[tuple[float, str]]:
    """The sentences of a table of vaderSentiment's, each with its mean rating.

    Args:
        source: vaderSentiment's source archive, or a folder below which it is unpacked.
        name: the name of the table.
    """
    if source.is_file():
        tables = _member(source.read_bytes(), "/hutto_ICWSM_2014.tar.gz")
    elif (archive := next(source.rglob("hutto_ICWSM_2014.tar.gz"), None)) is not None:
        tables = archive.read_bytes()
    else:
        raise FileNotFoundError(f"vaderSentiment's source archive isn't unpacked below {source}")
    lines = _member(tables, f"/{name}_GroundTruth.txt").decode("latin-1").splitlines()
    return [(float(rating), text) for _, rating, text in (line.split("\t", 2) for line in lines)]


def _member(archive: bytes, ending: str) -> bytes:
    """The content of the one file of an archive whose name ends as said."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        (name,) = (it for it in members.getnames() if it.endswith(ending))
        file = members.extractfile(name)
        assert file is not None
        return file.read()


def _sentences(root: Path, length: int = 40) -> tuple[np.ndarray, np.ndarray, int]:
    """Word ids, int64[n, length], whether each sentence is rated above 0, and how many words there are."""
    tables = [rated(root, name) for name in ("tweets", "movieReviewSnippets", "amazonReviewSnippets")]
    sentences = [row for table in tables for row in table]
    rows = [(re.findall(r"[a-z']+|[^\sa-z']", text.lower())[:length], rating > 0) for rating, text in sentences]
    counts: dict[str, int] = {}
    for words, _ in rows:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    known = [word for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= 3]
    numbers = {word: number for number, word in enumerate(known, start=2)}
    ids = np.zeros((len(rows), length), np.int64)
    for row, (words, _) in zip(ids, rows, strict=True):
        row[: len(words)] = [numbers.get(word, 1) for word in words]
    ids[:, 0] = np.maximum(ids[:, 0], 1)
    return ids, np.array([label for _, label in rows]).astype(np.int64), len(known) + 2


# -- training


def trained(
    name: str,
    make: Callable[[], nn.Module],
    batches: Callable[[], Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]],
    loss: nn.Module,
    cache: Path,
    epochs: int,
) -> nn.Module:
    """Train a network, or read what an earlier run has trained."""
    torch.manual_seed(0)
    module, file = make(), cache / f"{name}, {epochs} epochs.pt"
    if file.exists():
        module.load_state_dict(torch.load(file, weights_only=True))
        return module.eval()
    if not epochs:
        return module.eval()
    steps = epochs * sum(1 for _ in batches())
    module = module.to(memory_format=torch.channels_last)  # convolutions of few pixels take half the time
    rate = _RATES.get(name, 1e-2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    has_bfloat16 = bool(load_target("native").bfloat16)  # half the time, where the processor multiplies in it
    for epoch in range(epochs):
        for inputs, labels in track(batches(), f"{name}, epoch {epoch + 1}", steps // epochs):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16):
                found = module(*inputs)
            loss(found.float(), labels).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    _estimate_statistics(module, batches())
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), file)
    return module.eval()


def _estimate_statistics(module: nn.Module, batches: Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor]]) -> None:
    """Give batch norms the statistics of 8,192 examples instead of those of the last few batches.

    A channel that one image in a hundred lights up is in few of the latter, and explodes on such images (Wu and
    Johnson, "Rethinking 'Batch' in BatchNorm", 2021).
    """
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for inputs, _ in islice(batches, 8192 // BATCH if norms else 0):
            module(*inputs)


def _subject(
    name: str,
    module: nn.Module,
    example: dict[str, np.ndarray],
    work: Path,
    pool: list[dict[str, np.ndarray]],
    test: list[dict[str, np.ndarray]],
    labels: np.ndarray,
    *,
    is_text: bool,
) -> Subject:
    """Export a classifier of one input `x` with a batch of any size."""
    import planish

    inputs = (torch.from_numpy(example["x"]),)
    varying = ({0: torch.export.Dim("batch", max=4096)},)
    file = work / f"{name.replace(' ', '_')}.onnx"
    torch.onnx.export(
        module, inputs, file, input_names=["x"], dynamic_shapes=varying, dynamo=True, verbose=False, external_data=False
    )
    graph = planish.trace(module, inputs, dynamic_shapes=varying)
    return Subject(name, graph, file, pool, test, "accuracy", accuracy(labels), CLASSES, is_text, is_right=True)
