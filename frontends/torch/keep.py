"""Operators without a counterpart in ONNX stay what they are: nodes that torch runs, and that backends refuse by name."""

from typing import Any

from torch.utils import _pytree as pytree

from ...ir.errors import ModelError
from ...ir.ops.aten import inputs_and_attributes, is_runnable
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
    values = tuple(split(op, value) for value in (made if isinstance(made, tuple) else (made,)))
    return values if isinstance(results, tuple | list) else values[0]
