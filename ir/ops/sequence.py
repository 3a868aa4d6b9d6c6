"""Sequences, which are lists of tensors, and optionals, which are None or what they hold."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..limits import MOST_STEPS
from ..types import TensorType
from .registry import Body, Ints, operator, unpacked

Tensors: TypeAlias = Sequence[Tensor]


@operator("SequenceConstruct")
def construct(*inputs: Tensor) -> Tensors:
    return list(inputs)


@operator("SequenceEmpty")
def empty(*, dtype: int | None = None) -> Tensors:
    return []


@operator("SequenceInsert")
def insert(sequence: Tensors, tensor: Tensor, position: Ints | None = None) -> Tensors:
    place = len(sequence) if position is None else _place(sequence, position[0], len(sequence) + 1)
    return [*sequence[:place], tensor, *sequence[place:]]


@operator("SequenceErase")
def erase(sequence: Tensors, position: Ints | None = None) -> Tensors:
    place = _place(sequence, -1 if position is None else position[0], len(sequence))
    return [*sequence[:place], *sequence[place + 1 :]]


@operator("SequenceAt")
def at(sequence: Tensors, position: Ints) -> Tensor:
    return sequence[_place(sequence, position[0], len(sequence))]


def _place(sequence: Tensors, position: int, count: int) -> int:
    """A position from the front; one from the end counts from the last element."""
    place = position + len(sequence) if position < 0 else position
    if not 0 <= place < count:
        raise IndexError(f"there is no place {position} in a sequence of {len(sequence)}")
    return place


@operator("SequenceLength")
def length(sequence: Tensors) -> Tensor:
    return torch.tensor(len(sequence))


@operator("SequenceMap")
def map_(sequence: Tensors, *additional: Any, body: Body, outputs: int = 1) -> Any:
    """The body's results on each element; further sequences are walked along, tensors given to each step."""
    rows = [
        body(tensor, *(other[index] if isinstance(other, list) else other for other in additional))
        for index, tensor in enumerate(sequence)
    ]
    return unpacked(tuple(list(column) for column in zip(*rows, strict=True)) if rows else ([],) * outputs)


@operator("SplitToSequence")
def split(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, keepdims: int = 1) -> Tensors:
    step = 1 if sizes is None else int(sizes) if sizes.ndim == 0 else MOST_STEPS
    if x.shape[axis] > step * MOST_STEPS:
        raise ValueError(f"it would make more than {MOST_STEPS:,} parts")
    if sizes is None:
        parts = x.split(1, axis)
        return [part if keepdims else part.squeeze(axis) for part in parts]
    return list(x.split(int(sizes) if sizes.ndim == 0 else sizes.tolist(), axis))


@operator("ConcatFromSequence")
def concatenate(sequence: Tensors, *, axis: int, new_axis: int = 0) -> Tensor:
    return torch.stack(tuple(sequence), axis) if new_axis else torch.cat(tuple(sequence), axis)


@operator("Optional")
def optional(x: Any = None, *, type: TensorType | None = None) -> Any:
    return x


@operator("OptionalHasElement")
def has_element(x: Any = None) -> Tensor:
    return torch.tensor(x is not None)


@operator("OptionalGetElement")
def get_element(x: Any) -> Any:
    if x is None:
        raise ValueError("the optional holds nothing")
    return x
