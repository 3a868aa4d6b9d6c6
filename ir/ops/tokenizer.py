"""ONNX Runtime's Tokenizer, which converters of models of texts write before TfIdfVectorizer."""

from collections.abc import Iterator

from torch import Tensor

from .from_data import FromData
from .registry import operator
from .strings import matcher
from .texts import from_texts, to_texts

_START, _END = "\x02", "\x03"


@operator(
    "com.microsoft::Tokenizer",
    from_data={"x": FromData(lambda x: [x.ndim])},
    types=lambda x, **attributes: x.unsqueeze(-1),
)
def tokenizer(
    x: Tensor,
    *,
    mark: int,
    mincharnum: int,
    pad_value: str,
    separators: tuple[str, ...] | None = None,
    tokenexp: str | None = None,
) -> Tensor:
    """The tokens of each string along a last axis, filled up at the end; those shorter than `mincharnum` are left out.

    Tokens are what an expression matches, or what is between separators, which are expressions as well; an empty
    separator is between all characters. With `mark`, control characters stand before and behind the tokens of a string.
    """
    if separators == ("",) or tokenexp == ".":
        rows = [list(text) for text in to_texts(x)]
    elif separators:
        rows = [list(_parts(text, separators, mincharnum)) for text in to_texts(x)]
    else:
        found = matcher(tokenexp or "", longest=True)
        matches = ((match[0] for match in found.finditer(text)) for text in to_texts(x))
        rows = [[token for token in row if len(token) >= mincharnum] for row in matches]
    width = max(map(len, rows), default=0)
    if mark and width:
        rows, width = [[_START, *row, _END] for row in rows], width + 2
    tokens = [token for row in rows for token in (*row, *[pad_value] * (width - len(row)))]
    return from_texts(tokens, (*x.shape, width))


def _parts(text: str, separators: tuple[str, ...], least: int) -> Iterator[str]:
    """What is left of a text when one separator after the other has taken it apart."""
    row = [text]
    for separator in separators:
        splits = matcher(f"(?:{separator})", longest=True)
        row = [part for piece in row for part in splits.split(piece) if len(part) >= least]
    return iter(row)
