"""Operators without a counterpart in ONNX stay what they are: nodes of their own names.

Those of torch are run by torch, and refused by name by backends. Those of the user (`torch.library`) are what
`planish.operator` says of the same name, with the same arguments and defaults.
"""

from collections.abc import Mapping
from typing import Any

from torch.utils import _pytree as pytree

from ...ir.errors import ModelError
from ...ir.infer import find_operator
from ...ir.ops.aten import DOMAIN, inputs_and_attributes, is_runnable
from .complexes import join, split
from .lowering import Lowering


def keep(op: Lowering, *arguments: Any, **keywords: Any) -> Any:
    """The lowering of an operator to a node of its own name.

    Raises:
        ModelError: it may not be a node, since it writes, draws random numbers, or takes what a graph can't hold.
    """
    overload: Any = op.node.target
    if not is_runnable(overload):
        raise ModelError(
            f"{op.location}: {overload} has no counterpart among the operators; "
            "replace it in the model, or give the model as ONNX"
        )
    arguments, keywords = pytree.tree_map(lambda leaf: join(op, leaf), (arguments, keywords))
    try:
        inputs, attributes = inputs_and_attributes(overload, arguments, keywords)
    except TypeError as error:
        raise ModelError(f"{op.location}: {overload} has no counterpart, and {error}") from error
    results = op.node.meta["val"]
    count = len(results) if isinstance(results, tuple | list) else 1
    made = op(overload.name(), *inputs, outputs=count, **attributes)
    if overload.namespace != DOMAIN:
        _check_defaults(op, overload, attributes)
    values = tuple(split(op, value) for value in (made if isinstance(made, tuple) else (made,)))
    return values if isinstance(results, tuple | list) else values[0]


def _check_defaults(op: Lowering, overload: Any, attributes: Mapping[str, Any]) -> None:
    """Hold the defaults of what isn't given, which nodes leave out, to those of the operator's meaning."""
    defaults = find_operator(overload.name()).defaults
    for argument in overload._schema.arguments:
        default = argument.default_value
        expected = tuple(default) if isinstance(default, list) else default
        if argument.has_default_value() and argument.name not in attributes and defaults.get(argument.name) != expected:
            found = defaults.get(argument.name)
            raise ModelError(
                f"{op.location}: the default of {argument.name} is {default} in {overload}, but {found} in the "
                "operator registered for it: make them equal"
            )
