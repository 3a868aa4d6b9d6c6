"""What an operator is: one differentiable torch function, from whose signature everything else is read.

The parameters before `*` are the operator's inputs in the order of its schema, `None` by default where optional; those
after it are its attributes, with the schema's defaults. An input annotated `Ints` is read on the host (a shape, axes,
the bounds of a slice): the function gets a sequence of ints, symbolic ones during type inference, instead of a tensor.
A function with a keyword parameter `outputs` is told how many outputs its node has, one with `input_dtype` torch's
element type of its first input. A sequence is a list of tensors, an empty optional None, and a graph inside the node a
`Body`. What of the outputs' types depends on data is declared beside it (see `from_data`), and so are its traits.

Operators of other packages have a domain of their own, and say how they are spelled out in known ones for backends that
lack them. The package names the module that registers them by an entry point `DOMAIN = "module"` of the group
`planish.operators`, so that it is imported when the first node of that domain is met.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, TypeAlias, TypeVar

from ..errors import ModelError, UsageError
from ..plugins import plugins
from ..traits import Trait
from ..types import TensorType
from .from_data import FromData

Ints: TypeAlias = Sequence[int]
Meaning = TypeVar("Meaning", bound=Callable[..., Any])


class Body(Protocol):
    """A graph inside a node, as its operator's function gets it.

    Attributes:
        types: the types of the graph's outputs.
    """

    types: tuple[TensorType, ...]

    def __call__(self, *arguments: Any) -> tuple[Any, ...]: ...


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator's meaning and what its signature says.

    Attributes:
        name: ONNX's name, with the domain where it isn't the standard's.
        function: the meaning, from torch tensors to a torch tensor or a tuple of them.
        inputs: parameter names of the inputs; a variadic one comes last.
        host: positions of the inputs that are read on the host.
        takes_outputs: whether the function is told the number of outputs.
        takes_dtype: whether it is told the element type of its first input.
        defaults: the default of each attribute, by name; `inspect.Parameter.empty` where it has none.
        from_data: which sizes of the outputs depend on data, by the position of the input that decides them.
        types: the function to run instead on tensors without data, where `function` can't.
        trainable: the meaning while training, where it differs: rounding passes gradients straight through.
        traits: what the operator has in common with others.
        expansion: spells a node out in other operators, for backends that have none of its domain: a function of a
            `Builder` and the node, which returns the values that stand for its outputs.
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
    traits: Trait = Trait.NONE
    expansion: Callable[..., Any] | None = None


_OPERATORS: dict[str, Operator] = {}


def operator(
    name: str,
    *,
    from_data: Mapping[str, FromData] | None = None,
    types: Callable[..., Any] | None = None,
    trainable: Callable[..., Any] | None = None,
    traits: Trait = Trait.NONE,
    expansion: Callable[..., Any] | None = None,
) -> Callable[[Meaning], Meaning]:
    """Register the decorated torch function as the meaning of an operator.

    Raises:
        UsageError: another package gives a meaning to an operator that has one, or that would be of ONNX's own domain.
    """

    def register(function: Meaning) -> Meaning:
        _check_name(name, function)
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
            traits=traits,
            expansion=expansion,
        )
        return function

    return register


@cache
def operators() -> dict[str, Operator]:
    """Every known operator by name; planish's files are imported on first use, other packages' by domain."""
    package = __package__ or ""
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")
    return _OPERATORS


def named_operator(name: str) -> Operator:
    """The operator of a name; the package that has those of its domain is imported where there is one.

    Raises:
        ModelError: nobody knows it; the nearest name is suggested.
        UsageError: the package can't be imported; it is named.
    """
    known = operators()
    if name in known:
        return known[name]
    domain = name.rpartition("::")[0]
    plugin = plugins("operators").get(domain)
    if plugin is not None:
        plugin.load()
    if name in known:
        return known[name]
    is_of_onnxruntime = domain == "com.microsoft"
    near = get_close_matches(name, known, n=1, cutoff=0.9 if is_of_onnxruntime else 0.6)
    hint = f"did you mean {near[0]}?" if near else "write what it does in operators of the standard"
    if domain and not any(other.startswith(f"{domain}::") for other in known):
        hint = f"no package that is installed has operators of the domain {domain!r}"
    if is_of_onnxruntime and not near:
        hint = "ONNX Runtime writes it where it optimizes or quantizes a model: read the model as it was before"
    raise ModelError(f"unknown operator {name}; {hint}")


def _check_name(name: str, function: Callable[..., Any]) -> None:
    """Hold operators of other packages to names that are theirs to give."""
    package = (__package__ or "").partition(".")[0]
    is_ours = function.__module__.partition(".")[0] == package
    held = _OPERATORS.get(name)
    if held is not None and is_ours != (held.function.__module__.partition(".")[0] == package):
        raise UsageError(
            f"{function.__module__}: the operator {name} has a meaning already, in {held.function.__module__}"
        )
    if not is_ours and "::" not in name:
        raise UsageError(f"{function.__module__}: the operator {name!r} must have a domain, as in 'mine::{name}'")


def unpacked(results: tuple[Any, ...]) -> Any:
    """Results as a function returns them: a tuple, or a single result by itself."""
    return results[0] if len(results) == 1 else results
