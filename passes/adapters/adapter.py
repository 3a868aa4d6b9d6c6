"""Low-rank adapters in a graph: a narrow pair of layers beside a layer, whose result is added to its own.

    narrow = x @ A    at LAYER.lora_A          wide = (narrow * scale) @ B    at LAYER.lora_B

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. The nodes are ordinary ones, so that
every pass and backend knows them; their layers' names tell what they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Location, Node, Value
from ...ir.unused import drop_unused
from ..lowrank.matrix import TURNS, WINDOW

DOWN, UP = ".lora_A", ".lora_B"
"""What the names of an adapter's two layers end with."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as it is in a graph.

    Attributes:
        layer: the layer that the adapter stands beside.
        narrow: the node that multiplies by the first weight.
        wide: the node that multiplies by the second weight.
        total: the node that adds the adapter's result to the layer's.
        factor: the scale between the two weights, a constant of one element.
    """

    layer: Node
    narrow: Node
    wide: Node
    total: Node
    factor: Constant

    @property
    def name(self) -> str:
        """The layer's module path."""
        return self.wide.location.module.removesuffix(UP)

    @property
    def weights(self) -> tuple[Value, Value]:
        """The two weights; inputs of the graph where adapters are exchanged at run time."""
        return self.narrow.operand(1), self.wide.operand(1)

    @property
    def scale(self) -> float:
        return float(self.factor.data.item())

    @property
    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """The two weights, which are constants, as `[inputs, rank]` and `[rank, outputs]`."""
        down, up = (matrix_of(node) for node in (self.narrow, self.wide))
        assert down is not None
        assert up is not None
        return down, up

    @property
    def merged(self) -> np.ndarray | None:
        """The layer's weight with the adapter, `[inputs, outputs]`; None where it is no float constant by itself."""
        matrix, (down, up) = matrix_of(self.layer), self.matrices
        change = down.astype(np.float64) @ up.astype(np.float64) * (self.scale / gain(self.layer))
        return None if matrix is None else matrix + change

    def remove(self, graph: Graph) -> None:
        """Take the adapter out; its layer yields what it did without."""
        graph.replace_uses(self.total.output, self.total.operand(0))
        for node in (self.total, self.wide, self.wide.operand(0).producer, self.narrow):
            assert node is not None
            held = [value for value in node.inputs if isinstance(value, Constant)]
            graph.erase(node)
            drop_unused(graph, held)


def layer_sizes(node: Node) -> tuple[int, int] | None:
    """How many numbers a layer contracts, and how many it yields; None where a node is no layer with a weight."""
    weight = node.input(1)
    if weight is None or node.domain or node.location.module.endswith((DOWN, UP)) or not _is_held(weight):
        return None
    if any(node.attributes.get(name) for name in TURNS) or not weight.type.is_static:
        return None
    if node.operator == "Conv" and node.attributes.get("group", 1) == 1:
        return int(np.prod(weight.type.static_shape[1:])), weight.type.static_shape[0]
    if node.operator in ("MatMul", "Gemm") and weight.type.rank == 2:
        rows, columns = weight.type.static_shape
        return (columns, rows) if node.attributes.get("transB") else (rows, columns)
    return None


def _is_held(weight: Value) -> bool:
    """Whether a weight is a constant, or made of one: dequantized, or transposed where nothing has been folded yet."""
    if weight.producer is not None and weight.producer.operator in ("DequantizeLinear", "Transpose"):
        return _is_held(weight.producer.operand(0))
    return isinstance(weight, Constant)


def matrix_of(node: Node, value: Value | None = None) -> np.ndarray | None:
    """A view of a layer's weight in float, shape [inputs, outputs]; None where it is no constant or transposed one.

    Args:
        node: the layer.
        value: the weight, if it isn't the one that the layer reads.
    """
    value = node.operand(1) if value is None else value
    weight, producer = value.data if isinstance(value, Constant) else None, value.producer
    if producer is not None and producer.operator == "Transpose" and value.type.rank == 2:
        held = producer.constant(0)
        weight = None if held is None else held.transpose(producer.attributes.get("perm", (1, 0)))
    if weight is None:
        return None
    if node.operator == "Conv":
        return weight.reshape(len(weight), -1).T
    return weight.T if node.attributes.get("transB") else weight


def gain(node: Node) -> float:
    """The number that a layer multiplies its product by."""
    return float(node.attributes.get("alpha", 1.0)) if node.operator == "Gemm" else 1.0


def replace_weight(graph: Graph, node: Node, matrix: np.ndarray) -> None:
    """Give a layer another weight, `[inputs, outputs]`, in place of the one that `matrix_of` views."""
    old = node.operand(1)
    turn = old.producer
    held = old if turn is None else turn.operand(0)
    assert isinstance(held, Constant)
    turned = matrix.T if node.operator == "Conv" or node.attributes.get("transB") else matrix
    array = np.ascontiguousarray(turned, held.data.dtype).reshape(old.type.static_shape)
    new, name = graph.add_constant(array, held.name), held.name
    graph.set_input(node, 1, new)
    if turn is not None and not old.use_count and not graph.is_output(old):
        graph.erase(turn)
    if not held.use_count and not graph.is_output(held):
        graph.erase_constant(held)
        graph.rename(new, name)


def stored(layer: Node, down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weights of an adapter, `[inputs, rank]` and `[rank, outputs]`, as the nodes beside a layer take them."""
    dtype = layer.operand(1).dtype.numpy
    if layer.operator == "Conv":
        _, channels, *kernel = layer.operand(1).type.static_shape
        down, up = down.T.reshape(-1, channels, *kernel), up.T.reshape(up.shape[1], -1, *(1,) * len(kernel))
    return np.ascontiguousarray(down, dtype), np.ascontiguousarray(up, dtype)


def add_adapter(graph: Graph, node: Node, down: np.ndarray, up: np.ndarray, scale: float, name: str) -> Adapter:
    """Put an adapter beside a layer.

    Args:
        graph: edited in place.
        node: a layer with `layer_sizes`.
        down: the first weight, shape [inputs, rank].
        up: the second weight, shape [rank, outputs].
        scale: the factor on the product of the two.
        name: the layer's module path.
    """
    x, dtype = node.operand(0), node.operand(1).dtype.numpy
    source = node.location.source
    narrowing, widening = (Location(f"{name}{part}", source) for part in (DOWN, UP))
    op = Builder(graph, _after(graph, node), narrowing)
    first, second = (
        op.constant(weight, f"{name}{part}.weight")
        for weight, part in zip(stored(node, down, up), (DOWN, UP), strict=True)
    )
    if node.operator == "Conv":
        window = {key: value for key, value in node.attributes.items() if key in WINDOW}
        narrow, multiply = op.Conv(x, first, **window), op.Conv
    else:
        narrow, multiply = op.MatMul(x, first), op.MatMul
    factor = op.constant(np.array(scale, dtype), f"{name}.lora_scale")
    scaled = op.Mul(narrow, factor)
    op.location = widening
    wide = multiply(scaled, second)
    op.location = node.location
    total = op.Add(node.output, wide)
    graph.replace_uses(node.output, total)
    graph.set_input(total.producer, 0, node.output)
    return Adapter(node, narrow.producer, wide.producer, total.producer, factor)


def _after(graph: Graph, node: Node) -> Node | None:
    """The node behind a node; None where it is the last one."""
    following = None
    for other in graph.nodes_backwards:
        if other is node:
            break
        following = other
    return following


def layer_name(node: Node) -> str:
    """The module path of a layer, also from the name that exporters give to a node, `/encoder/layer.0/query/MatMul`."""
    name = node.location.module or node.outputs[0].name
    return ".".join(name.split("/")[1:-1]) or name if name.startswith("/") else name


def find_adapters(graph: Graph) -> Iterator[Adapter]:
    """The adapters of a graph, in order."""
    for wide in graph.nodes:
        if not wide.location.module.endswith(UP) or wide.operator not in ("MatMul", "Conv"):
            continue
        scaled = wide.operand(0).producer
        narrow = None if scaled is None or scaled.operator != "Mul" else scaled.operand(0).producer
        factor = None if scaled is None else scaled.input(1)
        total = wide.output.uses[0].node if wide.output.use_count == 1 else None
        if narrow is None or total is None or total.operator != "Add" or not isinstance(factor, Constant):
            continue
        layer = total.operand(0).producer
        if layer is not None:
            yield Adapter(layer, narrow, wide, total, factor)
