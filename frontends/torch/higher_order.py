"""Control flow: torch's operators that take functions, as ONNX's that hold graphs.

What a function takes from around it is read where it is: only what changes from step to step is an input of its graph.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx

from ...ir.errors import ModelError
from ...ir.graph import Graph, Value
from ...ir.types import DType, TensorType
from .lowering import Lowering

Inline = Callable[[fx.GraphModule, Graph, Sequence[Any]], list[Any]]
"""Lowers a function's nodes into a graph, given its arguments; gives what it returns."""


def lower_higher_order(op: Lowering, name: str, arguments: Sequence[Any], inline: Inline) -> tuple[Value, ...]:
    """The values that the results of a higher-order operator become.

    Raises:
        ModelError: it has no counterpart.
    """
    if name not in _RULES:
        raise ModelError(f"{op.location}: the higher-order operator {name} has no counterpart; replace it in the model")
    made = _RULES[name](op, inline, *arguments)
    return made if isinstance(made, tuple) else (made,)


def _inner(op: Lowering, name: str) -> Graph:
    return Graph(name, op.graph)


def _inputs(graph: Graph, values: Sequence[Value], drop_axis: bool = False) -> list[Value]:
    """An input for each value, or for its slices along the first axis."""
    types = [TensorType(value.dtype, value.shape[1:] if drop_axis else value.shape) for value in values]
    return [graph.add_input(graph.unique_name(value.name), type) for value, type in zip(values, types, strict=True)]


def _return(op: Lowering, graph: Graph, results: Sequence[Any]) -> None:
    """Give a graph its outputs, each a value of its own."""
    inner = Lowering(graph, op.node, op.location, op.sizes)
    produced = {output for node in graph.nodes for output in node.outputs}
    for index, result in enumerate(results):
        if not isinstance(result, Value):
            raise ModelError(f"{op.location}: {op.node.target} returns {result!r}, which is not a tensor")
        is_own = result in produced and result not in graph.outputs.values()
        graph.outputs[f"result_{index}"] = result if is_own else inner.Identity(result)


def _condition(
    op: Lowering, inline: Inline, flag: Value, true: fx.GraphModule, false: fx.GraphModule, operands: Sequence[Any]
) -> Any:
    branches: list[Graph] = []
    for name, function in (("then", true), ("else", false)):
        graph = _inner(op, name)
        _return(op, graph, inline(function, graph, operands))
        branches.append(graph)
    then, otherwise = branches
    flag = op.reshape(op.cast(flag, DType.bool), [])
    return op.If(flag, outputs=len(then.outputs), then_branch=then, else_branch=otherwise)


def _while(
    op: Lowering,
    inline: Inline,
    condition: fx.GraphModule,
    step: fx.GraphModule,
    carried: Sequence[Any],
    additional: Sequence[Any],
) -> Any:
    (flag,) = inline(condition, op.graph, [*carried, *additional])
    body = _inner(op, "body")
    body.add_input(body.unique_name("step"), TensorType(DType.int64, ()))
    body.add_input(body.unique_name("going"), TensorType(DType.bool, ()))
    held = _inputs(body, carried)
    results = inline(step, body, [*held, *additional])
    (going,) = inline(condition, body, [*results, *additional])
    _return(op, body, [going, *results])
    return op.Loop(None, flag, *carried, outputs=len(carried), body=body)


def _scan(
    op: Lowering,
    inline: Inline,
    combine: fx.GraphModule,
    states: Sequence[Value],
    rows: Sequence[Value],
    additional: Sequence[Any] = (),
) -> Any:
    body = _inner(op, "body")
    held, slices = _inputs(body, states), _inputs(body, rows, drop_axis=True)
    _return(op, body, inline(combine, body, [*held, *slices, *additional]))
    return op.Scan(*states, *rows, outputs=len(body.outputs), body=body, num_scan_inputs=len(rows))


def _map(
    op: Lowering, inline: Inline, function: fx.GraphModule, rows: Sequence[Value], additional: Sequence[Any]
) -> Any:
    return _scan(op, inline, function, (), rows, additional)


def _inlined(op: Lowering, inline: Inline, function: fx.GraphModule, *operands: Any) -> Any:
    return tuple(inline(function, op.graph, operands))


_RULES: Mapping[str, Callable[..., Any]] = {
    "cond": _condition,
    "invoke_subgraph": lambda op, inline, function, _name, *operands: _inlined(op, inline, function, *operands),
    "map_impl": _map,
    "scan": _scan,
    "while_loop": _while,
    "wrap_with_set_grad_enabled": lambda op, inline, _enabled, *rest: _inlined(op, inline, *rest),
}
