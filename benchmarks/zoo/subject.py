"""What the zoo consists of: a module that can be run, with inputs of any seed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Inputs: TypeAlias = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of a forward pass."""


class Unbuilt(Exception):  # noqa: N818 -- it is a finding, not an error
    """There is no model to hold planish to: it can't be built here, or not run."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model of the zoo.

    Attributes:
        module: the module, in evaluation mode, with random weights.
        inputs: returns the inputs for a seed and a size; for one size, they differ in their values alone.
        sizes: the sizes of the batch, or lengths of texts, to try when they are symbolic; the first one is for tracing.
        dynamic_shapes: the dimensions that are symbolic then, as `planish.trace` takes them; None if there are none.
    """

    module: nn.Module
    inputs: Callable[[int, int], Inputs]
    sizes: tuple[int, ...] = (2,)
    dynamic_shapes: Any = field(default=None)

    def run(self, inputs: Inputs) -> list[Tensor]:
        """The tensors that the module gives, in order."""
        with torch.no_grad():
            return tensors(self.module(*inputs[0], **inputs[1]))


def tensors(output: Any) -> list[Tensor]:
    """The tensors in nested results and in the attributes of objects among them, such as caches, in order."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif isinstance(leaf, nn.Module | type) or not hasattr(leaf, "__dict__"):
            continue
        else:
            found += tensors(vars(leaf))
    return found


def images(*shape: int) -> Callable[[int, int], Inputs]:
    """A batch of images or clips, float[size, *shape], as the only argument."""

    def make(seed: int, size: int) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(size, *shape, generator=generator),), {}

    return make
