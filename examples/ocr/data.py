"""Lines of printed text as a bad scanner would see them; drawn from a seed, so that every run sees the same ones."""

from collections.abc import Iterator

import numpy as np

try:
    from PIL import Image, ImageDraw, ImageFilter, ImageFont
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("Pillow is missing: pip install 'planish[examples]'") from error

HEIGHT = 48  # that the model reads at
MARGIN = 12
WORDS = [
    "account", "address", "amount", "annual", "apple", "archive", "arrival", "balance", "battery", "bottle", "branch",
    "bridge", "budget", "cabinet", "camera", "carbon", "castle", "century", "channel", "charge", "circle", "climate",
    "coffee", "column", "concert", "copper", "corner", "credit", "crystal", "damage", "degree", "deposit", "desert",
    "device", "dinner", "document", "eastern", "engine", "evening", "factory", "fashion", "federal", "filter",
    "finance", "forest", "fortune", "garden", "gravity", "harbour", "highway", "history", "honey", "import",
    "insurance", "invoice", "island", "jacket", "journal", "kitchen", "language", "laptop", "leather", "letter",
    "library", "machine", "market", "measure", "medical", "meeting", "memory", "message", "mineral", "morning",
    "mountain", "museum", "network", "number", "object", "office", "orange", "order", "oxygen", "package", "paper",
    "payment", "pencil", "people", "pepper", "picture", "planet", "pocket", "policy", "postage", "price", "printer",
    "quality", "quarter", "railway", "receipt", "record", "region", "rocket", "salary", "sample", "school", "season",
    "section", "signal", "silver", "smooth", "spring", "station", "street", "student", "summer", "supply", "system",
    "ticket", "total", "travel", "tunnel", "valley", "vector", "village", "volume", "voyage", "warehouse", "water",
    "weather", "western", "window", "winter", "yellow", "zebra",
]  # fmt: skip


def calibration(count: int = 96, batch: int = 4) -> Iterator[dict[str, np.ndarray | list[str]]]:
    """Lines for the passes to observe, and what they say, so that a drop of the metric can be bounded."""
    for images, texts in lines(1, count, batch):
        yield {"x": images, "labels": texts}


def test(count: int = 120, batch: int = 10) -> Iterator[dict[str, np.ndarray | list[str]]]:
    """Other lines, and what they say."""
    for images, texts in lines(2, count, batch):
        yield {"x": images, "labels": texts}


def lines(seed: int, count: int, batch: int) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Batches of lines, float32[n, 3, 48, widest of the batch] in -1 to 1, and their texts."""
    random = np.random.default_rng(seed)
    for _ in range(0, count, batch):
        texts = [line(random) for _ in range(batch)]
        drawn = [draw(text, random) for text in texts]
        width = -(-max(image.shape[1] for image in drawn) // 32) * 32
        padded = [np.pad(image, ((0, 0), (0, width - image.shape[1]))) for image in drawn]
        yield np.stack(padded)[:, None].repeat(3, axis=1), texts


def line(random: np.random.Generator) -> str:
    """Two words, some capital, and a number, in any order."""
    words = [str(word) for word in random.choice(WORDS, 2)]
    words = [word.capitalize() if random.random() < 0.3 else word for word in words]
    number = f"{random.integers(10_000)}.{random.integers(100):02d}"
    return " ".join(random.permutation([*words, number]))


def draw(text: str, random: np.random.Generator) -> np.ndarray:
    """A line of text, float32[48, its width] in -1 to 1: faint, tilted, blurred and noisy."""
    font = ImageFont.load_default(size=int(random.integers(22, 34)))
    width = int(font.getlength(text)) + 2 * MARGIN
    image = Image.new("L", (width, HEIGHT), 255)
    ImageDraw.Draw(image).text((MARGIN, HEIGHT // 2), text, font=font, fill=0, anchor="lm")
    image = image.rotate(random.uniform(-1.5, 1.5), Image.Resampling.BICUBIC, fillcolor=255)
    image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 1.5)))
    ink = 1 - np.asarray(image, np.float32) / 255
    paper = np.linspace(random.uniform(0.6, 1), random.uniform(0.6, 1), width, dtype=np.float32)
    noisy = paper - random.uniform(0.3, 0.6) * ink + random.normal(0, 0.06, ink.shape)
    return (2 * noisy.clip(0, 1) - 1).astype(np.float32)
