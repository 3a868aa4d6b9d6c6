"""Features: values inside a student that are to be like values inside its teacher."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...ir.errors import ModelError, UsageError
from ...ir.graph import Graph, Value
from ...ir.suggestion import nearest

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

ARROW = "->"
_LEAST = 1e-12


def pairs_of(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names from texts `student->teacher`.

    Raises:
        UsageError: a text is no such pair.
    """
    pairs: list[tuple[str, str]] = []
    for text in texts:
        ours, arrow, theirs = (part.strip() for part in text.partition(ARROW))
        if not (ours and arrow and theirs):
            raise UsageError(f"distill: {option} are of the form student{ARROW}teacher, not {text!r}")
        pairs.append((ours, theirs))
    return pairs


def return_too(graph: Graph, names: Sequence[str], owner: str) -> None:
    """Let a graph return values inside it as well, as `feature 0` and so on.

    Args:
        graph: edited in place.
        names: the names of values, or module paths, which stand for the last float that is computed there.
        owner: the graph's owner, named in messages.

    Raises:
        UsageError: there is no such float.
    """
    floats = {value.name: value for value in graph.values() if value.dtype.is_float}
    layers = {node.location.module: node.outputs[0] for node in graph.nodes if node.outputs[0].dtype.is_float}
    for place, name in enumerate(names):
        value: Value | None = floats.get(name) or layers.get(name)
        if value is None:
            near = nearest(name, (*floats, *filter(None, layers)))
            raise UsageError(f"distill: the {owner} computes no float {name!r}, and has no layer of that name{near}")
        graph.outputs[_key(place)] = value


def compare_features(count: int, got: "Mapping[str, Tensor]", wanted: "Mapping[str, Tensor]") -> "Tensor":
    """How far the features of a student are from its teacher's, summed over pairs.

    Features of one shape are compared as numbers, relative to their size. Of others the mean square over channels is
    compared at each position, relative to its size in each sample: S. Zagoruyko and N. Komodakis, "Paying More
    Attention to Attention", ICLR 2017. Channels are the second axis of images and of attention's probabilities, and
    otherwise the last one.
    """
    distances = [_apart(got[_key(place)].float(), wanted[_key(place)].float()) for place in range(count)]
    return sum(distances[1:], start=distances[0])


def _apart(got: "Tensor", wanted: "Tensor") -> "Tensor":
    if got.shape != wanted.shape:
        maps = [tensor.square().mean(1 if tensor.ndim == 4 else -1) for tensor in (got, wanted)]
        if maps[0].shape != maps[1].shape or maps[0].ndim < 2:
            raise ModelError(
                f"distill: a feature has the shape {list(got.shape)} in the student, but {list(wanted.shape)} in the "
                "teacher: pair features that differ in their channels alone"
            )
        got, wanted = (it / it.flatten(1).norm(dim=1).clamp_min(_LEAST).view(-1, *[1] * (it.ndim - 1)) for it in maps)
    return (got - wanted).square().sum() / wanted.square().sum().clamp_min(_LEAST)


def _key(place: int) -> str:
    return f"feature {place}"
