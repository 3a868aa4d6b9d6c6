"""Operators on strings. They run on the host, from Python's strings to Python's strings."""

from collections import Counter
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..traits import Trait
from .from_data import FromData
from .registry import operator
from .texts import STRING, from_texts, to_texts


@operator(
    "StringConcat",
    types=lambda x, y: (x == y).to(STRING),
    traits=Trait.ELEMENTWISE | Trait.BROADCASTING,
)
def string_concat(x: Tensor, y: Tensor) -> Tensor:
    x, y = torch.broadcast_tensors(x, y)
    return from_texts((left + right for left, right in zip(to_texts(x), to_texts(y), strict=True)), x.shape)


@operator(
    "StringSplit",
    from_data={"x": FromData(lambda x: [{x.ndim: 0}, {}])},
    types=lambda x, delimiter=None, maxsplit=None: (x.unsqueeze(-1), torch.empty_like(x, dtype=torch.int64)),
)
def string_split(x: Tensor, *, delimiter: str | None = None, maxsplit: int | None = None) -> tuple[Tensor, Tensor]:
    """The parts of each string along a last axis, filled up with empty ones; and how many there are."""
    limit = -1 if maxsplit is None else maxsplit
    rows = [text.split(delimiter or None, limit) for text in to_texts(x)]
    width = max(map(len, rows), default=0)
    parts = [part for row in rows for part in (*row, *[""] * (width - len(row)))]
    return from_texts(parts, (*x.shape, width)), torch.tensor([len(row) for row in rows]).long().reshape(x.shape)


@operator(
    "StringNormalizer",
    from_data={"x": FromData(lambda x, stopwords: [x.ndim - 1] if stopwords else [])},
    types=lambda x, **attributes: x,
)
def string_normalizer(
    x: Tensor,
    *,
    case_change_action: str = "NONE",
    is_case_sensitive: int = 0,
    locale: str | None = None,
    stopwords: tuple[str, ...] | None = None,
) -> Tensor:
    """Strings that are no stop words, with their case changed; `locale` is for languages whose rules are their own."""
    stops = {word if is_case_sensitive else word.lower() for word in stopwords or ()}
    kept = [text for text in to_texts(x) if (text if is_case_sensitive else text.lower()) not in stops]
    change = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}[case_change_action]
    kept = [change(text) for text in kept] if kept or not x.numel() else [""]
    return from_texts(kept, (len(kept),) if x.ndim == 1 else (1, len(kept)))


@operator(
    "RegexFullMatch",
    types=lambda x, pattern=None: torch.empty_like(x, dtype=torch.bool),
    traits=Trait.ELEMENTWISE,
)
def regex_full_match(x: Tensor, *, pattern: str | None = None) -> Tensor:
    """Whether a pattern matches the whole of each string."""
    whole = matcher(pattern)
    return torch.tensor([whole.fullmatch(text) is not None for text in to_texts(x)]).bool().reshape(x.shape)


def matcher(pattern: str | None, *, longest: bool = False) -> Any:
    """A pattern, made ready by the library that the standard names: it takes linear time.

    Args:
        pattern: the pattern, in RE2's syntax.
        longest: whether the longest text that matches counts, instead of the one that the first alternative gives.

    Raises:
        TargetError: the library isn't installed.
        ValueError: RE2 doesn't read the pattern.
    """
    try:
        import re2
    except ImportError as error:
        raise TargetError("matching patterns needs RE2: pip install 'planish[regex]'") from error
    if pattern is None:
        raise ValueError("it has no pattern")
    options = re2.Options()
    options.log_errors = False
    options.longest_match = longest
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"the pattern {pattern!r} is none of RE2's: {error.args[0].decode()}") from error


def _vector_type(x: Tensor, *, ngram_indexes: tuple[int, ...], **attributes: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], max(ngram_indexes) + 1), dtype=torch.float32)


@operator("TfIdfVectorizer", types=_vector_type)
def tf_idf_vectorizer(
    x: Tensor,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: tuple[int, ...],
    ngram_indexes: tuple[int, ...],
    pool_int64s: tuple[int, ...] | None = None,
    pool_strings: tuple[str, ...] | None = None,
    weights: tuple[float, ...] | None = None,
) -> Tensor:
    """How often each n-gram of a pool occurs in a row, with up to so many tokens skipped between its parts."""
    pool = pool_strings or pool_int64s or ()
    columns = _columns(pool, ngram_counts, ngram_indexes, range(min_gram_length, max_gram_length + 1))
    width = x.shape[-1] if x.ndim else 1
    tokens = to_texts(x) if x.dtype is STRING else x.reshape(-1).tolist()
    y = torch.zeros((x.numel() // max(width, 1), max(ngram_indexes) + 1))
    for row in range(len(y)):
        found = _grams(tokens[row * width : (row + 1) * width], {len(gram) for gram in columns}, max_skip_count)
        for gram, count in found.items():
            if gram in columns:
                y[row, columns[gram]] += count
    y = y.reshape(*x.shape[:-1], y.shape[-1])
    if mode == "TF":
        return y
    y = y.clamp(max=1) if mode == "IDF" else y
    return y if weights is None else y * torch.tensor(weights[: y.shape[-1]])


def _columns(
    pool: tuple[int, ...] | tuple[str, ...], counts: tuple[int, ...], indexes: tuple[int, ...], lengths: range
) -> dict[tuple[int | str, ...], int]:
    """The output's column of each n-gram; the pool holds first those of one token, then those of two, and so on."""
    columns: dict[tuple[int | str, ...], int] = {}
    number = 0
    for length, (first, last) in enumerate(pairwise((*counts, len(pool))), 1):
        for start in range(first, last - length + 1, length):
            if length in lengths:
                columns[pool[start : start + length]] = indexes[number]
            number += 1
    return columns


def _grams(tokens: list[int] | list[str], lengths: set[int], skips: int) -> Counter[tuple[int | str, ...]]:
    found: Counter[tuple[int | str, ...]] = Counter()
    for length in lengths:
        for gap in range(1, skips + 2 if length > 1 else 2):
            starts = range(len(tokens) - (length - 1) * gap)
            found.update(tuple(tokens[start : start + (length - 1) * gap + 1 : gap]) for start in starts)
    return found
