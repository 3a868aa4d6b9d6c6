"""What the page says of a node: one flat record, which a graph's history is made of."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from ...ir.analysis.cost import Sizes, elements, flops, nbytes, parameters
from ...ir.graph import Constant, Graph, Node, Value, nested_nodes
from ...ir.types import DType

_LONGEST = 120
"""Letters of attributes and types that are shown."""
_BLOCK = 1 << 20
"""Elements of a weight that are looked at at once."""
_NUMBERS = sorted(
    (it for it in DType if it.is_float or (it.is_integer and it.bits <= 16)),
    key=lambda it: it.bits,
)
"""The element types that stand for numbers rather than for places, those of the fewest bits first."""


class Row(NamedTuple):
    """A node as the page shows it, known by the name of its first output.

    Attributes:
        name: the name of the first output.
        operator: the node's operator; `input` and `output` for what the graph takes and returns.
        module: the module that the node came from.
        source: the file and line that the node came from.
        type: the types of the outputs.
        reads: the types of the constants that the node reads.
        attributes: the attributes, as text.
        precision: the element type with the fewest bits that the node computes with or converts.
        weights: the element type of its largest constant of two axes or more that are parameters; empty without any.
        parameters: the number of parameters in the constants that no node before it reads.
        bytes: the bytes of the same constants.
        flops: the FLOPs of one run.
        elements: the number of elements in its weights, as far as zeros can be told in them.
        zeros: how many of these elements are zero.
        inputs: the names of the nodes whose results it reads.
    """

    name: str
    operator: str
    module: str
    source: str
    type: str
    reads: str
    attributes: str
    precision: str
    weights: str
    parameters: int
    bytes: int
    flops: int
    elements: int
    zeros: int
    inputs: tuple[str, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The fields that are texts, the first ones."""
        return cast("tuple[str, ...]", self[:TEXTS])


TEXTS = Row._fields.index("parameters")
"""How many fields of a row are texts."""


class NodeRows:
    """Makes the rows of a graph again and again while passes rewrite it; what hasn't been edited is not made anew.

    Args:
        sizes: the sizes of symbolic dimensions that operations are counted with.
    """

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._known: dict[str, tuple[int, Row]] = {}  # and the moment of its node's last edit
        self._zeros: dict[int, tuple[np.ndarray, tuple[int, int]]] = {}  # holds the array, so that no id comes twice

    def rows(self, graph: Graph) -> dict[str, Row]:
        """The rows of all nodes, those of graphs within nodes included, by name."""
        first_reads: set[Constant] = set()
        zeros, self._zeros = self._zeros, {}
        made: dict[str, tuple[int, Row]] = {}
        for node in nested_nodes(graph):
            name = node.outputs[0].name
            held = [value for value in node.inputs if isinstance(value, Constant)]
            new = [value for value in dict.fromkeys(held) if value not in first_reads]
            first_reads.update(new)
            counted = [self._count(value, node, zeros) for value in held if _is_weight(value)]
            changing = {
                "parameters": sum(map(parameters, new)),
                "bytes": sum(nbytes(value.type) for value in new),
                "elements": sum(number for number, _ in counted),
                "zeros": sum(number for _, number in counted),
                "inputs": tuple(_inputs(node)),
                "precision": _precision(node),
                "module": node.location.module,
                "source": node.location.source,
            }
            moment, known = self._known.get(name, (-1, None))
            row = _row(node, held, self._sizes) if known is None or moment != node.edited else known
            made[name] = node.edited, row._replace(**changing)
        self._known = made
        return {**_ends(graph), **{name: row for name, (_, row) in made.items()}}

    def _count(self, constant: Constant, node: Node, before: Mapping[int, Any]) -> tuple[int, int]:
        """How many elements a weight has and how many of them are zero; none where its codes hide that."""
        data = constant.data
        kept = self._zeros.get(id(data), before.get(id(data)))
        if kept is None or kept[0] is not data:
            kept = data, _zeros(constant, node)
        self._zeros[id(data)] = kept
        return kept[1]


def _row(node: Node, held: list[Constant], sizes: Sizes) -> Row:
    weights = [value for value in held if _is_weight(value)]
    largest = max(weights, key=lambda value: elements(value.type), default=None)
    stored = "" if largest is None else _bits(node) if _is_packed(node) else str(largest.dtype)
    return Row(
        name=node.outputs[0].name,
        operator=node.operator,
        module="",
        source="",
        type=_short(", ".join(str(value.type) for value in node.outputs)),
        reads=_short(", ".join(str(value.type) for value in held)),
        attributes=_short(", ".join(f"{name} = {spelled(value)}" for name, value in node.attributes.items())),
        precision="",
        weights=stored,
        parameters=0,
        bytes=0,
        flops=flops(node, sizes),
        elements=0,
        zeros=0,
        inputs=(),
    )


def _ends(graph: Graph) -> dict[str, Row]:
    """Rows of what a graph takes and returns."""
    ends = [(value.name, "input", value, ()) for value in graph.inputs]
    ends += [(f"output:{name}", "output", value, (_origin(value),)) for name, value in graph.outputs.items()]
    return {
        name: Row(name, kind, "", "", _short(str(value.type)), "", "", str(value.dtype), "", 0, 0, 0, 0, 0, inputs)
        for name, kind, value, inputs in ends
    }


def _inputs(node: Node) -> Iterator[str]:
    """The names of what a node reads, each once: nodes and inputs of the graph, and what graphs within it return."""
    inner = (value for graph in node.graphs for value in graph.outputs.values())
    read = (value for value in (*node.inputs, *inner) if value is not None and not isinstance(value, Constant))
    yield from dict.fromkeys(map(_origin, read))


def _origin(value: Value) -> str:
    return value.name if value.producer is None else value.producer.outputs[0].name


def _precision(node: Node) -> str:
    """The element type with the fewest bits among a node's inputs, as they are stored, and its outputs."""
    if _is_packed(node):
        return _bits(node)
    types = {_stored(value) for value in node.inputs if value is not None}
    types.update(value.dtype for value in node.outputs)
    return next((it.name for it in _NUMBERS if it in types), node.outputs[0].dtype.name)


def _stored(value: Value) -> DType:
    """The element type that a value is held in, before it is converted to the one that it is read in."""
    producer = value.producer
    if producer is None or producer.operator not in ("Cast", "DequantizeLinear"):
        return value.dtype
    held = producer.operand(0)
    inner = _stored(held)
    is_code = producer.operator == "DequantizeLinear" or isinstance(held, Constant)
    return inner if is_code and inner.bits < value.dtype.bits else value.dtype


def _is_weight(constant: Constant) -> bool:
    return len(constant.type.dims or ()) > 1 and parameters(constant) > 0


def _is_packed(node: Node) -> bool:
    """Whether a node reads a weight of which a byte may hold several numbers."""
    return node.operator == "com.microsoft::MatMulNBits"


def _bits(node: Node) -> str:
    return f"int{node.attributes['bits']}"


def _zeros(constant: Constant, node: Node) -> tuple[int, int]:
    if _is_packed(node):
        return 0, 0
    zero: Any = 0
    if constant.dtype is DType.uint8:  # its zero is where the node says
        point = node.constant(2)
        if point is None or point.size == 0 or (point != point.flat[0]).any():
            return 0, 0
        zero = point.flat[0]
    flat = constant.data.reshape(-1)
    parts = (flat[at : at + _BLOCK] for at in range(0, flat.size, _BLOCK))
    return flat.size, sum(int(np.count_nonzero(part.astype(np.float32) == zero)) for part in parts)


def spelled(value: Any) -> str:
    """The value of an attribute, in a few words."""
    if isinstance(value, Graph):
        return f"graph of {len(value)} nodes"
    if isinstance(value, np.ndarray):
        return f"array of {list(cast('np.ndarray', value).shape)}"
    return _short(str(list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
