"""The built-in metrics: how good predictions are, by labels.

A metric is a function of all predictions and labels, each a list with one entry a batch: `predictions[i]` is the list
of the model's outputs on batch i, `labels[i]` that batch's labels. It returns a number; higher is better unless the
function has a true attribute `lower_is_better`.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeAlias, cast

import numpy as np

from ..ir.errors import ModelError
from .average_precision import mean_average_precision

Predictions: TypeAlias = Sequence[Sequence[np.ndarray]]
Function: TypeAlias = Callable[[Predictions, Sequence[Any]], float]


def accuracy(predictions: Predictions, labels: Sequence[Any]) -> float:
    """The share of samples whose largest score, along the last axis of the first output, is at the label.

    Where the first output holds labels itself, as classical models return them, it is the share of those that are
    right.
    """
    return float(accuracy_hits(predictions, labels).mean())


def agreement(predictions: Predictions, labels: Sequence[Any]) -> float:
    """The share of samples that get the class that the untouched model gives them; the data need no labels."""
    return accuracy(predictions, labels)


def top5(predictions: Predictions, labels: Sequence[Any]) -> float:
    """The share of samples whose label is among the five largest scores along the last axis of the first output."""
    return float(top5_hits(predictions, labels).mean())


def f1(predictions: Predictions, labels: Sequence[Any]) -> float:
    """The mean over classes of F1, the harmonic mean of a class's precision and recall; classes as for `accuracy`.

    Source: the macro average of scikit-learn's `f1_score`.
    """
    from sklearn.metrics import f1_score

    found = [(_classes("f1", *pair).ravel(), np.ravel(pair[1])) for pair in _pairs(predictions, labels)]
    chosen, wanted = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return float(cast("Any", f1_score)(wanted, chosen, average="macro", zero_division=0))


def miou(predictions: Predictions, labels: Sequence[Any]) -> float:
    """The mean over classes of intersection over union, of the pixels of a class and the pixels that were given it.

    The first output holds scores `[N, classes, H, W]` for labels `[N, H, W]`, or classes of the labels' shape. Labels
    below zero and of 255, as datasets mark borders, are left out.
    """
    from sklearn.metrics import jaccard_score

    chosen, wanted = [], []
    for scores, given in _pairs(predictions, labels):
        classes = scores.argmax(1) if scores.ndim == given.ndim + 1 else scores
        if classes.shape != given.shape:
            raise ModelError(f"miou needs labels of shape {list(classes.shape)}, got {list(given.shape)}")
        counts = (given >= 0) & (given != _BORDER)
        chosen.append(classes[counts])
        wanted.append(given[counts])
    score = cast("Any", jaccard_score)
    return float(score(np.concatenate(wanted), np.concatenate(chosen), average="macro", zero_division=0))


def pearson(predictions: Predictions, labels: Sequence[Any]) -> float:
    """Pearson's correlation of the first output with the labels."""
    return float(np.corrcoef(*_scores("pearson", predictions, labels))[0, 1])


def spearman(predictions: Predictions, labels: Sequence[Any]) -> float:
    """Spearman's rank correlation of the first output with the labels."""
    from scipy import stats

    return float(cast("Any", stats).spearmanr(*_scores("spearman", predictions, labels)).statistic)


def perplexity(predictions: Predictions, labels: Sequence[Any]) -> float:
    """The exponential of the mean negative log-likelihood of tokens, by the logits in the first output.

    Labels are the tokens that are to be predicted, one for each row of logits; those below zero are left out.
    """
    from scipy.special import log_softmax

    nats: list[np.ndarray] = []
    for logits, tokens in _pairs(predictions, labels):
        if logits.shape[:-1] != tokens.shape:
            raise ModelError(f"perplexity needs labels of shape {list(logits.shape[:-1])}, got {list(tokens.shape)}")
        rows, tokens = logits[tokens >= 0], tokens[tokens >= 0]
        nats.append(-np.take_along_axis(log_softmax(rows.astype(np.float64), -1), tokens[:, None], -1))
    return float(np.exp(np.concatenate(nats).mean()))


def cer(predictions: Predictions, labels: Sequence[Any]) -> float:
    """The character error rate: insertions, deletions and replacements, as a share of the labels' characters.

    The first output holds texts for labels that are texts; or scores `[N, steps, symbols]` for labels that are rows of
    symbols, filled up by numbers below zero. Such scores are decoded greedily, as CTC's: repeated symbols count once,
    and symbol 0 is the blank (Graves et al., "Connectionist Temporal Classification", ICML 2006).
    """
    return _error_rate("cer", predictions, labels, str)


def wer(predictions: Predictions, labels: Sequence[Any]) -> float:
    """The word error rate: insertions, deletions and replacements of words, as a share of the labels' words.

    The first output holds texts, as the labels are.
    """
    return _error_rate("wer", predictions, labels, str.split)


for _function in (perplexity, cer, wer):
    _function.lower_is_better = True  # pyright: ignore[reportFunctionMemberAccess] -- as users mark theirs

BUILT_IN: dict[str, Function] = {
    function.__name__: function
    for function in (accuracy, agreement, cer, f1, miou, pearson, perplexity, spearman, top5, wer)
} | {"map": mean_average_precision}


def accuracy_hits(predictions: Predictions, labels: Sequence[Any]) -> np.ndarray:
    """Whether the prediction is right for each sample: bool[samples]."""
    right = [_classes("accuracy", *pair) == pair[1] for pair in _pairs(predictions, labels)]
    return np.concatenate([np.ravel(batch) for batch in right])


def top5_hits(predictions: Predictions, labels: Sequence[Any]) -> np.ndarray:
    """Whether the label is among the five largest scores of each sample: bool[samples]."""
    right: list[np.ndarray] = []
    for scores, wanted in _pairs(predictions, labels):
        if scores.shape[:-1] != wanted.shape:
            raise ModelError(f"top5 needs labels of shape {list(scores.shape[:-1])}, got {list(wanted.shape)}")
        best = np.argsort(-scores, -1, kind="stable")[..., :5]
        right.append(np.ravel((best == wanted[..., None]).any(-1)))
    return np.concatenate(right)


HITS: dict[Function, Callable[[Predictions, Sequence[Any]], np.ndarray]] = {
    accuracy: accuracy_hits,
    agreement: accuracy_hits,
    top5: top5_hits,
}
"""What tells which samples are right, by the metrics that are a share of samples."""

_BORDER = 255


def classes_of(output: np.ndarray) -> np.ndarray:
    """The class that a model gives each sample, by its first output; outputs that hold classes are returned."""
    return output.argmax(-1) if output.dtype.kind == "f" and output.ndim else output


def _pairs(predictions: Predictions, labels: Sequence[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first output and the labels of each batch."""
    return ((outputs[0], np.asarray(wanted)) for outputs, wanted in zip(predictions, labels, strict=True))


def _classes(metric: str, output: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    is_label = output.dtype.kind != "f" and output.shape == wanted.shape
    chosen = output if is_label else output.argmax(-1)
    if chosen.shape != wanted.shape:
        raise ModelError(f"{metric} needs labels of shape {list(chosen.shape)}, got {list(wanted.shape)}")
    return chosen


def _scores(metric: str, predictions: Predictions, labels: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    scores = np.concatenate([np.ravel(outputs[0]) for outputs in predictions])
    wanted = np.concatenate([np.ravel(batch) for batch in labels])
    if scores.shape != wanted.shape:
        raise ModelError(f"{metric} needs one score a label, got {scores.size} scores and {wanted.size} labels")
    return scores, wanted


def _error_rate(
    metric: str, predictions: Predictions, labels: Sequence[Any], split: Callable[[str], Sequence[str]]
) -> float:
    from rapidfuzz.distance import Levenshtein

    errors = length = 0
    for outputs, rows in zip(predictions, labels, strict=True):
        found, wanted = _texts(metric, outputs[0]), [_symbols(row) for row in rows]
        if len(found) != len(wanted):
            raise ModelError(f"{metric} needs a label for each of {len(found)} rows, got {len(wanted)}")
        for text, label in zip(found, wanted, strict=True):
            if isinstance(text, str) != isinstance(label, str) or (metric == "wer" and not isinstance(text, str)):
                raise ModelError(f"{metric} needs texts for labels that are texts, got {text!r} for {label!r}")
            ours, theirs = (split(it) if isinstance(it, str) else it for it in (text, label))
            errors += Levenshtein.distance(ours, theirs)
            length += len(theirs)
    return errors / max(length, 1)


def _texts(metric: str, output: np.ndarray) -> "list[str | Sequence[Hashable]]":
    """Texts as they are, and what scores are decoded to."""
    if output.dtype.kind in "OUS":
        return [str(text) for text in output.ravel()]
    if output.dtype.kind != "f" or output.ndim != 3:
        raise ModelError(f"{metric} needs texts, or scores [N, steps, symbols], got {output.dtype}{list(output.shape)}")
    return [[int(symbol) for symbol, _ in groupby(row) if symbol] for row in output.argmax(-1)]


def _symbols(row: Any) -> "str | Sequence[Hashable]":
    return row if isinstance(row, str) else [int(symbol) for symbol in row if symbol >= 0]
