"""Torch's symbolic sizes in terms of the graph's, and where in the graph each can be measured."""

from collections.abc import Mapping
from typing import Any

import sympy
import torch
from torch.utils import _pytree as pytree

from ...ir.dims import Dim
from ...ir.graph import Graph, Value
from ...ir.scope import expression_dim
from .rounding import in_whole_numbers


class Sizes:
    """What torch's symbols are called in a graph, and the values whose axes, or elements, they are."""

    def __init__(self, graph: Graph, names: Mapping[str, str], outer: "Sizes | None" = None) -> None:
        """Sizes of a graph.

        Args:
            graph: the graph under construction.
            names: the graph's names of the symbols that torch has for dimensions of inputs.
            outer: the sizes of the graph around this one.
        """
        self._graph = graph
        self._outer = outer
        self._names: dict[sympy.Expr, sympy.Expr] = (
            {_symbol(symbol): _symbol(wanted) for symbol, wanted in names.items()} if outer is None else outer._names
        )
        self._axes: dict[str, tuple[Value, int]] = {}
        self._numbers: dict[str, Value] = {}

    def dim(self, size: int | torch.SymInt) -> Dim:
        """A size as a dimension of the graph.

        Raises:
            ModelError: it is more than whole-number arithmetic.
        """
        if isinstance(size, int):
            return size
        expression: Any = size.node.expr
        return expression_dim(in_whole_numbers(expression), self._names)

    def see(self, results: Any, made: Any) -> None:
        """Learn from an operator's results: a size that only data tells is called as in the graph from here on.

        Args:
            results: torch's results, tensors without data.
            made: the value that the result became, or a row of values; complex ones are held as their parts.
        """
        pairs = zip(pytree.tree_leaves(results), _values(made), strict=False)
        for result, value in pairs:
            for axis, size in enumerate(result.shape if isinstance(result, torch.Tensor) else ()):
                self._see_axis(size, value, axis)

    def see_number(self, number: torch.SymInt, value: Value) -> None:
        """Learn that a number is an element of a tensor, the only one."""
        self._numbers[str(number.node.expr)] = value

    def axis(self, symbol: str) -> tuple[Value, int] | None:
        """A value and the axis of it that has a size."""
        if symbol in self._axes:
            return self._axes[symbol]
        found = next(
            (
                (value, value.shape.index(symbol))
                for node in self._graph.nodes_backwards
                for value in node.outputs
                if value.type.dims and symbol in value.shape
            ),
            None,
        )
        return self._outer.axis(symbol) if found is None and self._outer else found

    def number(self, symbol: str) -> Value | None:
        """A tensor whose only element is a size."""
        if symbol in self._numbers:
            return self._numbers[symbol]
        return self._outer.number(symbol) if self._outer else None

    def _see_axis(self, size: Any, value: Value | None, axis: int) -> None:
        if value is None or value.type.dims is None or axis >= value.type.rank:
            return
        dim = value.shape[axis]
        if isinstance(dim, str) and dim.isidentifier():
            self._axes.setdefault(dim, (value, axis))
        if not isinstance(size, torch.SymInt):
            return
        expression: Any = size.node.expr  # sympy.Expr; the stubs of some versions say sympy.Basic
        if not expression.is_Symbol or expression in self._names:
            return
        if isinstance(dim, int):
            self._names[expression] = sympy.Integer(dim)
        elif dim.isidentifier():
            self._names[expression] = _symbol(dim)


def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, integer=True, positive=True)


def _values(made: Any) -> list[Value | None]:
    """The values that a lowering gave, one for each of torch's results."""
    rows = made if isinstance(made, tuple | list) else (made,)
    return [value if isinstance(value, Value) or value is None else value.real for value in rows]
