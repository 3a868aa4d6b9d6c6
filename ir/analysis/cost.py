"""What a graph costs: parameters, bytes and floating-point operations, in all, by operator, and by the user's modules.

A multiply-add counts as two operations, whatever its element type. Symbolic dimensions take the sizes given; those not
given count as 1, so that the cost of a batch is that of one sample.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np

from ..dims import Dim, evaluate
from ..errors import ModelError
from ..graph import Constant, Graph, Node, nested, nested_nodes
from ..operators import has_trait
from ..traits import Trait
from ..types import DType, TensorType

Shape = tuple[int, ...]
Sizes = Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a graph or a part of it costs.

    Attributes:
        nodes: the number of nodes.
        parameters: elements of constants, without indices and shapes (int64), truth values and strings. Weights in few
            bits count as codes, of which a byte may hold several.
        bytes: the size of all constants, in bytes.
        flops: the floating-point operations of one run.
    """

    nodes: int
    parameters: int
    bytes: int
    flops: int


def elements(type: TensorType, symbols: Sizes = None) -> int:
    """How many elements a tensor has; one of unknown rank counts as a single element."""
    return prod(_sizes(type.dims or (), symbols))


def nbytes(type: TensorType, symbols: Sizes = None) -> int:
    """How many bytes a tensor takes, with elements of less than 8 bits packed."""
    return (elements(type, symbols) * type.dtype.bits + 7) // 8


def flops(node: Node, symbols: Sizes = None) -> int:
    """The operations of one run of a node: two per multiply-add, none to move elements, else one per element made."""
    return _flops([node], symbols)


def parameters(constant: Constant) -> int:
    """The elements of a constant that count as parameters (see `Cost`)."""
    return _numbers(constant.type) + _packed(constant)


def moved(node: Node, symbols: Sizes = None) -> int:
    """The bytes that a node moves without computing anything; none where it gives them another shape in place."""
    if not has_trait(node.operator, Trait.MOVING) or has_trait(node.operator, Trait.RESHAPING):
        return 0
    return sum(nbytes(output.type, symbols) for output in node.outputs)


def sizes_in(graph: Graph, feeds: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that inputs, by name, give to a graph's symbolic dimensions."""
    return sizes_of({value.name: value.type.dims for value in graph.inputs}, feeds)


def sizes_of(shapes: Mapping[str, Sequence[Dim] | None], feeds: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that arrays, by name, give to the symbolic dimensions of their shapes."""
    arrays = [(dims or (), feeds[name]) for name, dims in shapes.items()]
    pairs = [zip(dims, array.shape, strict=False) for dims, array in arrays if isinstance(array, np.ndarray)]
    return {dim: size for dims in pairs for dim, size in dims if isinstance(dim, str)}


def summarize(graph: Graph, symbols: Sizes = None) -> Cost:
    """The cost of a graph."""
    parts = list(nested(graph))
    nodes = [node for part in parts for node in part.nodes]
    return _cost(nodes, [constant for part in parts for constant in part.constants.values()], symbols)


def by_operator(graph: Graph) -> dict[str, int]:
    """How many nodes of each operator there are, most frequent first."""
    return dict(Counter(node.operator for node in nested_nodes(graph)).most_common())


def by_module(graph: Graph, depth: int, symbols: Sizes = None) -> dict[str, Cost]:
    """The cost of each module down to a depth of the module path, in order of first appearance.

    A constant belongs to the first module that reads it.
    """
    nodes: defaultdict[str, list[Node]] = defaultdict(list)
    constants: defaultdict[str, list[Constant]] = defaultdict(list)
    seen: set[Constant] = set()
    for node in nested_nodes(graph):
        module = _truncate(node.location.module, depth)
        nodes[module].append(node)
        new = dict.fromkeys(value for value in node.inputs if isinstance(value, Constant) and value not in seen)
        constants[module].extend(new)
        seen.update(new)
    return {module: _cost(nodes[module], constants[module], symbols) for module in nodes}


def _cost(nodes: Sequence[Node], constants: Iterable[Constant], symbols: Sizes) -> Cost:
    constants = list(constants)
    types = Counter(constant.type for constant in constants)
    return Cost(
        nodes=len(nodes),
        parameters=sum(count * _numbers(type) for type, count in types.items()) + sum(map(_packed, constants)),
        bytes=sum(count * nbytes(type) for type, count in types.items()),
        flops=_flops(nodes, symbols),
    )


def _flops(nodes: Iterable[Node], symbols: Sizes) -> int:
    operations, others = 0, list[Node]()
    for node in nodes:
        multiply_adds = None
        if rule := _rule(node.operator):
            with suppress(ModelError):  # a shape isn't known
                multiply_adds = rule(node, symbols)
        if multiply_adds is None and not has_trait(node.operator, Trait.MOVING):
            others.append(node)
        else:
            operations += 2 * (multiply_adds or 0)
    types = Counter(output.type for node in others for output in node.outputs)
    return operations + sum(count * elements(type, symbols) for type, count in types.items())


def _numbers(type: TensorType) -> int:
    return 0 if type.dtype in (DType.int64, DType.bool, DType.string) else elements(type)


def _packed(constant: Constant) -> int:
    """The parameters beyond one for each byte, where a product reads several from it."""
    if constant.dtype is not DType.uint8:
        return 0
    products = (
        use.node for use in constant.uses if use.index == 1 and use.node.operator == "com.microsoft::MatMulNBits"
    )
    node = next(products, None)
    return 0 if node is None else node.attributes["K"] * node.attributes["N"] - elements(constant.type)


def _truncate(module: str, depth: int) -> str:
    """The first components of `encoder.layer.0`, or of `/encoder/layer/0` as ONNX names nodes."""
    match = re.match(rf"(?:[./]*[^./]+){{0,{depth}}}", module)
    return match[0] if match else ""


def _sizes(shape: tuple[Dim, ...], symbols: Sizes) -> Shape:
    static = tuple([dim for dim in shape if isinstance(dim, int)])
    if len(static) == len(shape):
        return static
    known = defaultdict(lambda: 1, symbols or {})
    return tuple(max(0, evaluate(dim, known)) for dim in shape)


# -- multiply-adds; a rule gives None or raises ModelError where a shape it needs isn't there


def _results(node: Node, symbols: Sizes) -> int:
    return prod(_sizes(node.outputs[0].shape, symbols))


def _shape(node: Node, index: int, symbols: Sizes) -> Shape:
    value = node.input(index)
    return () if value is None else _sizes(value.shape, symbols)


def _convolution(weight: int) -> Callable[[Node, Sizes], int | None]:
    """Each output element sums over a filter: the weight is [out, in / groups, *kernel]."""
    return lambda node, symbols: _results(node, symbols) * prod(_shape(node, weight, symbols)[1:])


def _transposed_convolution(node: Node, symbols: Sizes) -> int:
    """Each input element spreads over a filter: the weight is [in, out / groups, *kernel]."""
    return prod(_shape(node, 0, symbols)) * prod(_shape(node, 1, symbols)[1:])


def _product(node: Node, symbols: Sizes) -> int:
    """Each output element sums over the inner dimension: the left factor's last, or first if transposed."""
    transposed = node.attributes.get("transA", 0)
    return _results(node, symbols) * _shape(node, 0, symbols)[-2 if transposed else -1]


def _attention(node: Node, symbols: Sizes) -> int | None:
    """Queries times keys, then probabilities times values; keys are [..., tokens, size]."""
    query, key = _shape(node, 0, symbols), _shape(node, 1, symbols)
    return (prod(query) + _results(node, symbols)) * key[-2] if len(key) in (3, 4) else None


def _recurrent(node: Node, symbols: Sizes) -> int:
    """Each unit has a row of every gate, for what it reads and for the state: [directions, gates * units, size]."""
    _, rows, size = _shape(node, 1, symbols)
    units = _shape(node, 2, symbols)[2]
    return _results(node, symbols) * rows // max(units, 1) * (size + units)


def _dynamic_lstm(node: Node, symbols: Sizes) -> int:
    """Each unit has a column of every gate: [directions, size, 4 * units]."""
    return _results(node, symbols) * 4 * (_shape(node, 1, symbols)[1] + _shape(node, 2, symbols)[1])


_RULES: dict[str, Callable[[Node, Sizes], int | None]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "FusedConv"), _convolution(weight=1)),
    "QLinearConv": _convolution(weight=3),
    "ConvTranspose": _transposed_convolution,
    **dict.fromkeys(
        ("MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "Gemm", "FusedGemm", "QGemm"), _product
    ),
    **dict.fromkeys(("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"), _product),
    **dict.fromkeys(("Attention", "MultiHeadAttention"), _attention),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "DynamicQuantizeLSTM": _dynamic_lstm,
}


@cache
def _rule(operator: str) -> Callable[[Node, Sizes], int | None] | None:
    return _RULES.get(operator.rpartition("::")[2])
