"""Weight-decomposed adapters in a graph: nodes that compute the weight of a layer, its direction apart from its size.

    whole = W + (A * scale) @ B                        the products at LAYER.lora_A and LAYER.lora_B
    weight = whole * (M / norm(whole))                 at LAYER.lora_M, a number for each output

Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024. The norm is part of the graph, so that its
gradient is, too. Nothing depends on the model's inputs: where constants are folded, the adapter is merged.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Location, Node, Value
from ...ir.types import DType
from ...ir.unused import drop_unused
from .adapter import DOWN, UP, Adapter, find_adapters, gain, matrix_of

SIZE = ".lora_M"
"""What the name of an adapter's magnitudes ends with; PEFT's is `lora_magnitude_vector`."""


@dataclass(frozen=True, slots=True)
class DoraAdapter:
    """An adapter that is part of its layer's weight.

    Attributes:
        layer: the layer.
        base: the weight that the layer would have without.
        down: the first factor of what is added to the weight, as the graph holds it.
        up: the second factor.
        factor: the scale of the product, a constant of one element.
        sizes: the magnitude of each output's weights.
    """

    layer: Node
    base: Value
    down: Constant
    up: Constant
    factor: Constant
    sizes: Constant

    @property
    def name(self) -> str:
        """The layer's module path."""
        return self.down.uses[0].node.location.module.removesuffix(DOWN)

    @property
    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """The two factors, `[inputs, rank]` and `[rank, outputs]`."""
        down, up = self.down.data, self.up.data
        return (down.T, up.T) if _is_turned(self.layer) else (down, up)

    @property
    def scale(self) -> float:
        return float(self.factor.data.item()) * gain(self.layer)

    @property
    def magnitudes(self) -> np.ndarray:
        """The norm that each column of the layer's weight has, `[outputs]`."""
        return self.sizes.data.reshape(-1) * abs(gain(self.layer))

    @property
    def merged(self) -> np.ndarray | None:
        """The weight that the layer reads, `[inputs, outputs]`; None where it is made of no float constant."""
        matrix, (down, up) = matrix_of(self.layer, self.base), self.matrices
        if matrix is None:
            return None
        whole = matrix + down.astype(np.float64) @ up.astype(np.float64) * self.factor.data.item()
        return whole * (self.sizes.data.reshape(-1) / _norms(whole, self.base.dtype))

    def remove(self, graph: Graph) -> None:
        """Take the adapter out; its layer reads the weight that stays."""
        made = {self.layer.operand(1).producer}
        graph.set_input(self.layer, 1, self.base)
        for node in list(graph.nodes_backwards):
            if node in made:
                read = [value for value in node.inputs if value is not None and value is not self.base]
                made |= {value.producer for value in read}
                graph.erase(node)
                drop_unused(graph, [value for value in read if isinstance(value, Constant)])


def _is_turned(layer: Node) -> bool:
    """Whether a layer has its weight as `[outputs, ...]`."""
    return layer.operator == "Conv" or bool(layer.attributes.get("transB"))


def _tiny(dtype: DType) -> float:
    """What a norm is at least, so that a column of zeros can be divided by it."""
    from ml_dtypes import finfo  # numpy's own lacks bfloat16

    return float(finfo(dtype.numpy).tiny)


def add_dora(
    graph: Graph,
    node: Node,
    down: np.ndarray,
    up: np.ndarray,
    scale: float,
    name: str,
    magnitudes: np.ndarray | None = None,
) -> None:
    """Let a layer's weight be computed from the one that it has and an adapter.

    Args:
        graph: edited in place.
        node: a layer with `layer_sizes` and a float constant as its weight.
        down: the first factor, shape [inputs, rank].
        up: the second factor, shape [rank, outputs].
        scale: the factor on the product of the two.
        name: the layer's module path.
        magnitudes: the norm of each column of the new weight, shape [outputs]; None for what it is with the product.
    """
    base, is_turned, own = node.operand(1), _is_turned(node), scale / gain(node)
    dtype, matrix = base.dtype.numpy, matrix_of(node)
    assert matrix is not None
    sizes = _norms(matrix + own * down @ up, base.dtype) if magnitudes is None else magnitudes / abs(gain(node))
    first, second = (np.ascontiguousarray(it.T if is_turned else it, dtype) for it in (down, up))
    at_down, at_up, at_size = (Location(f"{name}{part}", node.location.source) for part in (DOWN, UP, SIZE))
    op = Builder(graph, node, at_down)
    scaled = op.Mul(op.constant(first, f"{name}{DOWN}.weight"), op.constant(np.array(own, dtype), f"{name}.lora_scale"))
    op.location = at_up
    held = op.constant(second, f"{name}{UP}.weight")
    product = op.MatMul(held, scaled) if is_turned else op.MatMul(scaled, held)
    op.location = node.location
    if base.type.rank > 2:
        product = op.Reshape(product, base.type.static_shape)
    whole = op.Add(base, product)
    axes = tuple(range(1, base.type.rank)) if is_turned else (0,)
    norm = op.Max(op.ReduceL2(whole, axes, keepdims=1), _tiny(base.dtype))
    op.location = at_size
    shaped = np.asarray(sizes, dtype).reshape(norm.type.static_shape)
    graph.set_input(node, 1, op.Mul(whole, op.Div(op.constant(shaped, f"{name}{SIZE}.weight"), norm)))


def _norms(matrix: np.ndarray, dtype: DType) -> np.ndarray:
    """The norm of each column."""
    return np.maximum(np.linalg.norm(matrix.astype(np.float64), axis=0), _tiny(dtype))


def find_dora(graph: Graph) -> Iterator[DoraAdapter]:
    """The weight-decomposed adapters of a graph, in order."""
    for ratio in graph.nodes:
        if ratio.operator != "Div" or not ratio.location.module.endswith(SIZE) or ratio.output.use_count != 1:
            continue
        total = ratio.output.uses[0].node
        whole = _maker(total.operand(0), "Add")
        product = None if whole is None else _maker(whole.operand(1), "MatMul")
        if whole is None or product is None or total.output.use_count != 1:
            continue
        layer = total.output.uses[0].node
        factors = product.inputs[::-1] if _is_turned(layer) else product.inputs
        scaled = None if factors[0] is None else _maker(factors[0], "Mul")
        held = () if scaled is None else (*scaled.inputs, factors[1], ratio.operand(0))
        constants = [value for value in held if isinstance(value, Constant)]
        if len(constants) == 4:
            down, factor, up, sizes = constants
            yield DoraAdapter(layer, whole.operand(0), down, up, factor, sizes)


def _maker(value: Value, operator: str) -> Node | None:
    """The node of an operator that makes a value, perhaps of another shape."""
    node = value.producer
    node = node.operand(0).producer if node is not None and node.operator == "Reshape" else node
    return node if node is not None and node.operator == operator else None


def all_adapters(graph: Graph) -> list[Adapter | DoraAdapter]:
    """The adapters of both kinds."""
    return [*find_adapters(graph), *find_dora(graph)]
