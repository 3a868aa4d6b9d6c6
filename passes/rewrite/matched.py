"""Where a pattern was found: what its parts stand for."""

from dataclasses import dataclass

import numpy as np

from ...ir.graph import Attribute, Constant, Node, Value


@dataclass(frozen=True, slots=True)
class Match:
    """Where a pattern was found.

    Attributes:
        root: the node whose output is replaced, or the first of them.
        nodes: all nodes of the pattern, the root first.
        results: the values that are replaced.
        place: the node before which the replacement is written.
        values: what each variable is bound to; None for an optional input that is left out.
        rests: what each `op.rest` is bound to.
        attributes: what each `op.attribute` is bound to.
    """

    root: Node
    nodes: tuple[Node, ...]
    results: tuple[Value, ...]
    place: Node
    values: dict[str, Value | None]
    rests: dict[str, tuple[Value | None, ...]]
    attributes: dict[str, Attribute]

    def __getitem__(self, variable: str) -> Value:
        value = self.values[variable]
        if value is None:
            raise KeyError(f"{variable} is an input that is left out")
        return value

    def constant(self, variable: str) -> np.ndarray | None:
        """The data of a variable that is bound to a constant, None otherwise."""
        value = self.values[variable]
        return value.data if isinstance(value, Constant) else None

    def data(self, variable: str) -> np.ndarray:
        """The data of a variable that the rule's pattern or check found constant."""
        value = self[variable]
        assert isinstance(value, Constant)
        return value.data

    def node(self, operator: str) -> Node:
        """The first node of an operator in the match, from the root up."""
        return next(node for node in self.nodes if node.operator == operator)
