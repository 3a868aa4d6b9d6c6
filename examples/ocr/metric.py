"""How many characters are read wrongly."""

from collections.abc import Sequence

import numpy as np
import onnx
from model import build


def character_error_rate(predictions: Sequence[Sequence[np.ndarray]], labels: Sequence[Sequence[str]]) -> float:
    """Edits that turn what was read into what was written, a character; spaces don't count."""
    read = [text for outputs in predictions for text in decode(outputs[0])]
    written = [text.replace(" ", "") for batch in labels for text in batch]
    return sum(map(edits, read, written)) / sum(map(len, written))


character_error_rate.lower_is_better = True


def decode(scores: np.ndarray) -> list[str]:
    """The most likely text of each line, without spaces, from scores, float[n, steps, characters].

    Connectionist temporal classification: one character a step, repetitions are one, the first class is no character.
    """
    entries = {entry.key: entry.value for entry in onnx.load(build()).metadata_props}
    characters = np.array(["", *entries["character"].splitlines(), ""])  # the last class is the space
    best = scores.argmax(-1)
    repeated = np.diff(best, axis=1, prepend=-1) == 0
    return ["".join(characters[line]) for line in np.where(repeated, 0, best)]


def edits(a: str, b: str) -> int:
    """The least number of insertions, deletions and replacements between two texts (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        previous, row = row, [i + 1]
        for j, y in enumerate(b):
            row.append(min(previous[j] + (x != y), previous[j + 1] + 1, row[j] + 1))
    return row[-1]
