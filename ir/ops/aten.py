"""ATen operators that ONNX has no counterpart of: nodes `aten::name`, or `aten::name.overload`, that torch runs.

A node's inputs are the tensors among the overload's arguments, in the order of torch's schema. The rest are attributes
under the schema's names, unless they are the schema's defaults:

    %q: float32[4, 3], %r: float32[3, 3] = aten::linalg_qr(%x)
    %y: float32[4] = aten::special_xlog1py.other_scalar(%x) {other = 2.0}

A list of tensors is so many inputs as its attribute says, an element type is its code in ONNX, and a number that is
neither an int nor a float is an array without axes. Where a tensor lies in memory is left out.

A graph may come from anybody, so only what can do nothing but compute may run: operators that write into nothing,
return tensors, draw no random numbers, and that torch's own compilers know the shapes of.
"""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from ..types import DType
from .dtypes import dtype_of, torch_dtype
from .registry import Operator

DOMAIN = "aten"
_PRIVATE = ("_fft_", "_linalg_")
"""Prefixes of the private operators that may run, since torch.fft and torch.linalg are made of them."""
_MEMORY = frozenset({"device", "generator", "layout", "memory_format", "non_blocking", "pin_memory"})
_ANYWHERE = "CompositeExplicitAutogradNonFunctional"
"""The dispatch key of operators that are made of others and so run wherever those do, without data too."""


@cache
def aten_operator(name: str) -> Operator | None:
    """The operator of a node's name, such as `aten::linalg_qr`; None where torch has none that may run."""
    overload = _overload(name)
    if overload is None or not is_runnable(overload):
        return None
    schema = overload._schema
    inputs = tuple(argument.name for argument in schema.arguments if _is_tensor(argument))
    return Operator(
        name=name,
        function=partial(_run, overload),
        inputs=inputs,
        defaults={},
        host=frozenset(),
        takes_outputs=False,
        takes_dtype=False,
        from_data={},
        types=None,
        trainable=None,
    )


@cache
def is_runnable(overload: Any) -> bool:
    """Whether an overload may be a node."""
    schema, name = overload._schema, overload.name()
    returns = {str(value.type) for value in schema.returns}
    if schema.is_mutable or not returns or not returns <= {"Tensor", "List[Tensor]"}:
        return False
    if torch.Tag.nondeterministic_seeded in overload.tags or not any(map(_is_tensor, schema.arguments)):
        return False
    if torch.Tag.core in overload.tags:
        return True
    is_public = not schema.name.removeprefix("aten::").startswith("_") or schema.name.startswith(
        tuple(f"aten::{prefix}" for prefix in _PRIVATE)
    )
    if not is_public:
        return False
    kernels = {key for key in ("CPU", "CompositeExplicitAutograd", "Meta", _ANYWHERE) if _has_kernel(name, key)}
    return _ANYWHERE in kernels or ("Meta" in kernels and len(kernels) > 1)


def inputs_and_attributes(
    overload: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """A call of an overload as a node's inputs and attributes.

    Args:
        overload: the overload, a runnable one.
        arguments: the positional arguments; anything that isn't a number, string, type or list stands for a tensor.
        keywords: the keyword arguments, in the same form.

    Raises:
        TypeError: an argument can't be an attribute, such as a size that isn't known.
    """
    inputs: list[Any] = []
    attributes: dict[str, Any] = {}
    schema = overload._schema.arguments
    given = dict(zip((argument.name for argument in schema), arguments, strict=False)) | dict(keywords)
    for argument in schema:
        value = given.get(argument.name)
        if _is_list(argument):
            attributes[argument.name] = len(value or ())
            inputs += value or ()
        elif _is_tensor(argument):
            inputs.append(value)
        elif value is not None and argument.name not in _MEMORY and value != argument.default_value:
            attributes[argument.name] = _attribute(argument, value)
    return inputs, attributes


def _overload(name: str) -> Any:
    domain, _, operator = name.partition("::")
    packet, _, overload = operator.partition(".")
    if domain != DOMAIN or packet.startswith("__"):
        return None
    return getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)


def _has_kernel(name: str, key: str) -> bool:
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    except RuntimeError:  # an overload that TorchScript alone knows
        return False


def _is_tensor(argument: Any) -> bool:
    return "Tensor" in str(argument.type)


def _is_list(argument: Any) -> bool:
    return _is_tensor(argument) and "List" in str(argument.type)


def _attribute(argument: Any, value: Any) -> Any:
    match value:
        case torch.dtype():
            return dtype_of(value).value
        case bool() if "bool" in str(argument.type):
            return int(value)
        case bool() | complex():
            return np.asarray(value)
        case int() if "float" in str(argument.type):
            return float(value)
        case int() | float():
            return value
        case str() if "str" in str(argument.type):  # other texts are symbolic sizes
            return value
        case list() | tuple():
            return tuple(_attribute(argument, item) for item in value)
        case _:
            raise TypeError(
                f"its argument {argument.name} is {value!r}, which a graph can't keep: give it another, or a fixed size"
            )


def _run(overload: Any, /, *inputs: Tensor | None, **attributes: Any) -> Any:
    waiting, unread = list(inputs), dict(attributes)
    positional: list[Any] = []
    keywords: dict[str, Any] = {}
    for argument in overload._schema.arguments:
        if _is_list(argument):
            count = max(0, unread.pop(argument.name))
            value, waiting = waiting[:count], waiting[count:]
        elif _is_tensor(argument):
            value = waiting.pop(0) if waiting else None
        elif argument.name in unread:
            value = _argument(argument, unread.pop(argument.name))
        else:
            value = argument.default_value  # None where it has none
        if argument.kwarg_only:
            keywords[argument.name] = value
        else:
            positional.append(value)
    if waiting or unread:
        raise ModelError(f"it has {len(waiting)} inputs too many, and no attributes {list(unread)}")
    results = overload(*positional, **keywords)
    return tuple(results) if isinstance(results, list) else results


def _argument(argument: Any, value: Any) -> Any:
    if "ScalarType" in str(argument.real_type):
        return torch_dtype(DType(value))
    if isinstance(value, np.ndarray):
        return value.item()
    kind = bool if "bool" in str(argument.type) else lambda item: item
    return [kind(item) for item in value] if isinstance(value, tuple) else kind(value)
