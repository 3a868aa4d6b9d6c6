"""The builder: how frontends, passes and replacements of rewrites write nodes.

    op = Builder(graph)
    y = op.Relu(op.Conv(x, weight, pads=(1, 1, 1, 1)))

Operators are methods under ONNX's names, attributes are keyword arguments; `op("com.microsoft::Gelu", x)` reaches other
domains. The types of the outputs are inferred.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .errors import ModelError
from .graph import Attribute, Constant, Graph, Location, Node, Value
from .types import DType

Operand: TypeAlias = Value | np.ndarray | np.generic | Sequence[int] | int | float | None
"""A value, or what becomes a constant: an array, a row of ints, a number of its neighbour's element type."""


class Builder:
    """Inserts nodes into a graph, at its end or before a node.

    Attributes:
        graph: the graph to insert into.
        before: the node to insert in front of; None for the end.
        location: the location given to every node from here on.
    """

    def __init__(self, graph: Graph, before: Node | None = None, location: Location = Location()) -> None:
        self.graph = graph
        self.before = before
        self.location = location

    def __call__(self, operator: str, *inputs: Operand, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """Insert one node.

        Args:
            operator: the name, with its domain unless it is ONNX's own.
            inputs: the inputs in the schema's order.
            outputs: the number of outputs; the result is a tuple of values unless this is 1.
            name: the name wished for the first output.
            attributes: the attributes by their names in the schema; None leaves one out.

        Raises:
            ModelError: the operator is unknown or the inputs don't fit; the location is named.
        """
        from .infer import infer  # brings torch; passes that merely can build nodes are listed without it

        like = next((value for value in inputs if isinstance(value, Value)), None)
        values = [self._value(operand, like) for operand in inputs]
        while values and values[-1] is None:
            values.pop()
        held = {key: attribute_value(value) for key, value in attributes.items() if value is not None}
        try:
            types = infer(operator, values, held, outputs)
        except ModelError as error:
            raise ModelError(f"{self.location}: {error}") from error
        node = self.graph.add_node(
            operator,
            values,
            types,
            held,
            names=[name] if name else [],
            location=self.location,
            before=self.before,
        )
        return node.output if outputs == 1 else node.outputs

    def __getattr__(self, operator: str) -> Callable[..., Any]:
        if operator.startswith("_"):
            raise AttributeError(operator)

        def insert(*inputs: Operand, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
            return self(operator, *inputs, outputs=outputs, name=name, **attributes)

        return insert

    def constant(self, data: np.ndarray | np.generic | Sequence[int] | float, name: str = "constant") -> Constant:
        """A new constant; ints become int64, Python floats float32."""
        array = np.asarray(data)
        if not isinstance(data, np.ndarray | np.generic):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        return self.graph.add_constant(array, name)

    def _value(self, operand: Operand, like: Value | None) -> Value | None:
        if operand is None or isinstance(operand, Value):
            return operand
        if isinstance(operand, int | float):
            default = DType.float32 if isinstance(operand, float) else DType.int64
            return self.constant(np.asarray(operand, dtype=(like.dtype if like else default).numpy))
        return self.constant(operand)


def attribute_value(value: Any) -> Attribute:
    """The form in which a node holds the value of an attribute."""
    if isinstance(value, DType):
        return value.value
    if isinstance(value, bool):
        return int(value)
    return tuple(value) if isinstance(value, list) else value
