"""Strings in torch, which has none: a tensor of strings holds numbers into a table of all strings met.

Its element type is torch's 32-bit complex, which no ONNX type is: tensors of it can be cut, joined, indexed and
chosen from like any other, so that the operators that only move elements serve strings as they are. Number 0 is the
empty string, which is what padding with zeros makes.
"""

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

STRING = torch.complex32

_TEXTS: list[str] = [""]
_NUMBERS: dict[str, int] = {"": 0}

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch says once per process that computing with these is experimental
    torch.empty(0, dtype=STRING)


def to_tensor(strings: np.ndarray) -> Tensor:
    """A tensor with the strings of an array; bytes are UTF-8."""
    return from_texts(
        (text.decode() if isinstance(text, bytes) else str(text) for text in strings.reshape(-1)), strings.shape
    )


def from_texts(texts: Iterable[str], shape: Iterable[int]) -> Tensor:
    """A tensor of strings in row-major order."""
    return torch.tensor([_number(text) for text in texts], dtype=torch.int32).reshape(tuple(shape)).view(STRING)


def to_texts(tensor: Tensor) -> list[str]:
    """The strings of a tensor in row-major order."""
    return [_TEXTS[number] for number in tensor.contiguous().view(torch.int32).reshape(-1).tolist()]


def to_array(tensor: Tensor) -> np.ndarray:
    array = np.empty(tensor.numel(), dtype=object)
    array[:] = to_texts(tensor)
    return array.reshape(tuple(tensor.shape))


def _number(text: str) -> int:
    if text not in _NUMBERS:
        _NUMBERS[text] = len(_TEXTS)
        _TEXTS.append(text)
    return _NUMBERS[text]
