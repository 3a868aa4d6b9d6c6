"""What an operator is: one differentiable torch function, from whose signature everything else is read.

The parameters before `*` are the operator's inputs in the order of its schema, `None` by default where optional; those
after it are its attributes, with the schema's defaults. An input annotated `Ints` is read on the host (a shape, axes,
the bounds of a slice): the function gets a sequence of ints, symbolic ones during type inference, instead of a tensor.
A function with a keyword parameter `outputs` is told how many outputs its node has, one with `input_dtype` torch's element
type of its first input. A sequence is a list of tensors, an empty optional None, and a graph inside the node a `Body`.
What of the outputs' types depends on data is declared beside it (see `from_data`).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, TypeAlias, TypeVar

from ..types import TensorType
from .from_data import FromData

Ints: TypeAlias = Sequence[int]
Meaning = TypeVar("Meaning", bound=Callable[..., Any])


class Body(Protocol):
    """A graph inside a node, as its operator's function gets it.

    Attributes:
        types: of what it returns.
    """

    types: tuple[TensorType, ...]

    def __call__(self, *arguments: Any) -> tuple[Any, ...]: ...


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator's meaning and what its signature says.

    Attributes:
        name: ONNX's, with the domain where it isn't the standard's.
        function: the meaning, from torch tensors to a torch tensor or a tuple of them.
        inputs: parameter names of the inputs; a variadic one comes last.
        host: positions of the inputs that are read on the host.
        takes_outputs: whether the function is told the number of outputs.
        takes_dtype: whether it is told the element type of its first input.
        defaults: of the attributes that have one, by name.
        from_data: which sizes of the outputs depend on data, by the position of the input that decides them.
        types: run instead of the function on tensors without data, where the function can't.
        trainable: the meaning while training, where it differs: rounding passes gradients straight through.
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    host: frozenset[int]
    takes_outputs: bool
    takes_dtype: bool
    defaults: Mapping[str, Any] = field(default_factory=dict)
    from_data: Mapping[int, FromData] = field(default_factory=dict)
    types: Callable[..., Any] | None = None
    trainable: Callable[..., Any] | None = None


_OPERATORS: dict[str, Operator] = {}


def operator(
    name: str,
    *,
    from_data: Mapping[str, FromData] | None = None,
    types: Callable[..., Any] | None = None,
    trainable: Callable[..., Any] | None = None,
) -> Callable[[Meaning], Meaning]:
    """Register the decorated torch function as the meaning of an operator."""

    def register(function: Meaning) -> Meaning:
        parameters = inspect.signature(function).parameters.values()
        names = {parameter.name for parameter in parameters}
        positional = [parameter for parameter in parameters if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
        host = frozenset(
            index for index, parameter in enumerate(positional) if parameter.annotation in (Ints, Ints | None)
        )
        inputs = tuple(parameter.name for parameter in positional)
        _OPERATORS[name] = Operator(
            name=name,
            function=function,
            inputs=inputs,
            defaults={
                parameter.name: parameter.default
                for parameter in parameters
                if parameter.kind is inspect.Parameter.KEYWORD_ONLY
            },
            host=host,
            takes_outputs="outputs" in names,
            takes_dtype="input_dtype" in names,
            from_data={inputs.index(decider): rule for decider, rule in (from_data or {}).items()},
            types=types,
            trainable=trainable,
        )
        return function

    return register


@cache
def operators() -> dict[str, Operator]:
    """Every operator that planish knows the meaning of, by name; the families' files are imported on first use."""
    package = __package__ or ""
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")
    return _OPERATORS


def unpacked(results: tuple[Any, ...]) -> Any:
    """Results of a number that differs, as a function returns them: the only one by itself."""
    return results[0] if len(results) == 1 else results
