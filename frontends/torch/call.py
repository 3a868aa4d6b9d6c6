"""A call of a module with its example inputs, and why it can't be exported."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from ...ir.errors import ModelError, describe

_DATA_DEPENDENT = (GuardOnDataDependentSymNode, DataDependentOutputException, DynamicOutputShapeException)
_HINTS = re.compile(r" If you're using mark_dynamic.*| For more information.*", re.MULTILINE)
"""What torch says to those who call it themselves."""


@dataclass(frozen=True)
class Call:
    """A module, and what it is called with.

    Attributes:
        module: the module.
        arguments: example inputs by position.
        keywords: example inputs by name.
        dynamic_shapes: which dimensions stay symbolic, as `torch.export.export` takes it.
    """

    module: nn.Module
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dynamic_shapes: Any = None

    @property
    def name(self) -> str:
        return type(self.module).__name__

    @property
    def bound(self) -> Mapping[str, Any]:
        """The example inputs by the names of the parameters that they are given for.

        Raises:
            ModelError: the module's forward takes others.
        """
        signature = inspect.signature(self.module.forward)
        try:
            return signature.bind(*self.arguments, **self.keywords).arguments
        except TypeError as error:
            positions = f"{len(self.arguments)} by position" if self.arguments else ""
            given = " and ".join(filter(None, [positions, ", ".join(self.keywords)])) or "none"
            raise ModelError(
                f"the forward of {self.name} takes ({', '.join(signature.parameters)}), "
                f"which doesn't fit the example inputs, {given}: {error}"
            ) from error

    def specifications(self) -> list[Any]:
        """What `dynamic_shapes` says of each input, in the order in which export flattens them; None for nothing."""
        bound = self.bound
        said: dict[int, Any] = {}

        def descend(argument: Any, spec: Any) -> None:
            if isinstance(argument, Mapping):
                for key, part in argument.items():
                    descend(part, spec.get(key) if isinstance(spec, Mapping) else None)
            elif isinstance(argument, tuple | list):
                parts = spec if isinstance(spec, tuple | list) else [None] * len(argument)
                for part, part_spec in zip(argument, parts, strict=False):
                    descend(part, part_spec)
            else:
                said[id(argument)] = spec

        shapes = self.dynamic_shapes
        descend(bound if isinstance(shapes, Mapping) else tuple(bound.values()), shapes)
        return [said.get(id(leaf)) for leaf in pytree.tree_leaves((self.arguments, dict(self.keywords)))]

    def explain(self, error: Exception, reason: str) -> str:
        """What to say of a module that can't be exported: what is wrong, and what to do about that.

        Args:
            error: the error that export raised.
            reason: the first paragraph of the error, with who says so.
        """
        try:
            with torch.no_grad():
                self.module(*self.arguments, **self.keywords)
        except Exception as failure:  # whatever the module's own code raises
            return f"{self.name} fails on its example inputs by itself: {describe(failure)}"
        reason = _HINTS.sub("", reason)
        single = ", ".join(self._single())
        if single and "specialized" in reason:
            return (
                f"the example inputs of {self.name} have size 1 in symbolic dimensions, which torch.export takes for "
                f"a constant: give an example of at least 2 for {single}"
            )
        if "specialized" in reason:
            return f"{reason}\nThe module's code computes with that number: leave the dimension fixed, or use x.shape"
        if isinstance(error, _DATA_DEPENDENT) or "'Sym" in reason:  # a number of torch's where Python has its own
            return (
                f"{reason}\nReplace data-dependent Python control flow in its forward with torch.where or torch.cond, "
                "or give the model as ONNX"
            )
        return reason

    def _single(self) -> Iterator[str]:
        """The symbolic dimensions whose example is of size 1."""
        leaves = pytree.tree_leaves((self.arguments, dict(self.keywords)))
        for leaf, spec in zip(leaves, self.specifications(), strict=True):
            for axis, size in enumerate(leaf.shape if isinstance(leaf, torch.Tensor) else ()):
                if size == 1 and _is_symbolic(entry := _entry(spec, axis)):
                    yield getattr(entry, "__name__", None) or f"axis {axis} of {list(leaf.shape)}"


def call_of(module: nn.Module, examples: Any, keywords: Mapping[str, Any] | None, dynamic_shapes: Any) -> Call:
    """A call from what users write: tensors or arrays in a row, a lone one, or a dict of them by name.

    A tensor that is given twice is copied: export would take such inputs for one and the same.
    """
    named = dict(keywords or {})
    if isinstance(examples, Mapping):
        examples, named = (), {**examples, **named}
    elif isinstance(examples, torch.Tensor | np.ndarray):
        examples = (examples,)
        if isinstance(dynamic_shapes, Mapping) and all(isinstance(key, int) for key in dynamic_shapes):
            dynamic_shapes = (dynamic_shapes,)  # of the lone input
    seen: set[int] = set()

    def own(leaf: Any) -> Any:
        leaf = torch.from_numpy(np.ascontiguousarray(leaf)) if isinstance(leaf, np.ndarray) else leaf
        if not isinstance(leaf, torch.Tensor) or id(leaf) not in seen:
            seen.add(id(leaf))
            return leaf
        return leaf.clone()

    arguments, named = pytree.tree_map(own, (tuple(examples), named))
    call = Call(module, arguments, named, dynamic_shapes)
    return replace(call, dynamic_shapes=_passed(call)) if isinstance(dynamic_shapes, Mapping) else call


def _passed(call: Call) -> Mapping[str, Any]:
    """What `dynamic_shapes` says of parameters that are passed: export refuses those left at their defaults."""
    bound, known = call.bound, inspect.signature(call.module.forward).parameters
    said = {name: spec for name, spec in call.dynamic_shapes.items() if name in bound or name not in known}
    return {name: None if bound.get(name, name) is None else spec for name, spec in said.items()}


def dim_name(specification: Any, axis: int) -> str | None:
    """The name that the user gives to a dimension, if any."""
    return getattr(_entry(specification, axis), "__name__", None)


def _entry(specification: Any, axis: int) -> Any:
    if isinstance(specification, Sequence):
        return specification[axis]
    return specification.get(axis) if isinstance(specification, Mapping) else None


def _is_symbolic(entry: Any) -> bool:
    is_hint = entry is torch.export.Dim.AUTO or entry is torch.export.Dim.STATIC
    return not (entry is None or isinstance(entry, int) or is_hint)
