"""Layers that multiply by a constant matrix: linear ones, convolutions, and look-ups in a table."""

import numpy as np

from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.numerics import flushed, is_float
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ...ir.unused import drop_unused
from ..added_bias import added_bias

WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
"""The attributes that say what a convolution does to its window."""
TURNS = ("transA", "transBatchA", "transBatchB")
"""The attributes by which a product rearranges the axes of its left factor, or those of batches."""


def read_matrix(node: Node) -> np.ndarray | None:
    """A view of the weight of shape [inputs, outputs]; None where the node is no such layer.

    The inputs of a convolution are the windows that its outputs read.
    """
    weight = node.constant(1)
    if weight is None or isinstance(node.input(0), Constant) or any(node.attributes.get(name) for name in TURNS):
        return None
    if node.operator == "Conv" and node.attributes.get("group", 1) == 1 and weight.size:
        return weight.reshape(len(weight), -1).T
    is_product = has_trait(node.operator, Trait.CONTRACTING) and "Conv" not in node.operator
    if is_product and weight.ndim == 2:
        return weight.T if node.attributes.get("transB") else weight
    return None


def read_table(node: Node) -> np.ndarray | None:
    """The table of an embedding, `[rows, width]`; None where the node looks up no rows of a constant."""
    table = node.constant(0) if node.operator == "Gather" and not node.attributes.get("axis", 0) else None
    return table if table is not None and table.ndim == 2 and is_float(table) else None


def weight_of(node: Node) -> Constant:
    """The weight of a layer, or the table of an embedding."""
    weight = node.inputs[0 if node.operator == "Gather" else 1]
    assert isinstance(weight, Constant)
    return weight


def data_of(node: Node) -> Value:
    """What a layer multiplies by its weight, or the places that an embedding looks up."""
    return node.operand(1 if node.operator == "Gather" else 0)


def channel_axis(node: Node) -> int:
    """The axis of the channels in what a layer reads and in what it computes."""
    return 1 if node.operator == "Conv" else -1


def kernel_of(node: Node) -> tuple[int, ...]:
    """The sizes of a convolution's kernel; none of another layer."""
    return weight_of(node).data.shape[2:] if node.operator == "Conv" else ()


def reads_windows(node: Node) -> bool:
    """Whether a layer reads more of its input than the channels of a single place."""
    return any(size > 1 for size in kernel_of(node))


def bias_place(node: Node) -> tuple[Node, int] | None:
    """Where a number for each output channel can be added to what a layer computes: a node, and its input.

    That is the bias, whether there is one or not, or the constant that is added to a MatMul's result. There is none
    where an image is padded with zeros, since such a number can't stand for what they lack.
    """
    if node.operator in ("Conv", "Gemm"):
        is_padded = any(node.attributes.get("pads", ())) or node.attributes.get("auto_pad", "NOTSET") != "NOTSET"
        is_known = node.input(2) is None or node.constant(2) is not None
        return (node, 2) if is_known and not is_padded and node.attributes.get("beta", 1.0) else None
    return added_bias(node) if node.operator == "MatMul" else None


def add_to_bias(graph: Graph, node: Node, place: tuple[Node, int], shift: np.ndarray) -> None:
    """Add a number for each output channel to what a layer computes.

    Args:
        graph: edited in place.
        node: the layer.
        place: its `bias_place`.
        shift: the numbers to add, float `[N]`.
    """
    holder, index = place
    old = holder.input(index)
    shift = shift * node.attributes.get("alpha", 1.0) / (node.attributes.get("beta", 1.0) if holder is node else 1.0)
    weight = node.inputs[1]
    assert isinstance(weight, Constant)
    assert old is None or isinstance(old, Constant)
    shifted = (shift if old is None else old.data + shift).astype(weight.data.dtype)
    graph.set_input(holder, index, graph.add_constant(shifted, f"{weight.name}_bias" if old is None else old.name))
    if old is not None:
        drop_unused(graph, [old])


def split_node(graph: Graph, node: Node, first: np.ndarray, second: np.ndarray) -> None:
    """Put a layer of the first matrix in front of a node, and give the node the second.

    The node keeps its bias, its activation and whatever else it does to the product. The new layer is plain.

    Args:
        graph: edited in place.
        node: a linear layer that `read_matrix` reads.
        first: the first matrix, shape [inputs, rank].
        second: the second matrix, shape [rank, outputs].
    """
    x, old = node.inputs[:2]
    assert x is not None
    assert isinstance(old, Constant)
    op = Builder(graph, before=node, location=node.location)
    if node.operator == "Gemm":
        turned = node.attributes.get("transB")
        narrow = op.Gemm(x, op.constant(_as_stored(first, node, old), f"{old.name}_in"), transB=turned)
    else:
        narrow = op.MatMul(x, op.constant(flushed(first, old.data.dtype), f"{old.name}_in"))
    graph.set_input(node, 0, narrow)
    graph.set_input(node, 1, op.constant(_as_stored(second, node, old), f"{old.name}_out"))
    drop_unused(graph, [old])


def split_table(graph: Graph, node: Node, first: np.ndarray, second: np.ndarray, exact: np.ndarray) -> None:
    """Look up narrow rows and multiply them, in the place of a node that looks up wide ones.

    Where some rows stay as they are, a list says where each row is: from 1 on in the table of narrow rows, or below 0,
    counted from the back, in the table of rows that stay. Both tables have zeros at 0.

    Args:
        graph: edited in place.
        node: an embedding that `read_table` reads.
        first: the narrow rows, shape [rows, rank].
        second: the matrix that makes them wide, shape [rank, width].
        exact: the indices of the rows that stay as they are.
    """
    old = weight_of(node)
    op = Builder(graph, before=node, location=node.location)

    def table(rows: np.ndarray, name: str) -> Value:
        padded = np.pad(rows, ((1, 0), (0, 0))) if len(exact) else rows
        return op.constant(flushed(padded, old.data.dtype), f"{old.name}_{name}")

    ids = narrow_ids = node.operand(1)
    if len(exact):
        is_narrow = np.ones(len(first), bool)
        is_narrow[exact] = False
        place = np.where(is_narrow, np.cumsum(is_narrow), np.cumsum(~is_narrow) - 1 - len(exact))
        ids = op.Gather(op.constant(place, f"{old.name}_places"), ids)
        first, narrow_ids = first[is_narrow], op.Max(ids, np.int64(0))
    narrow = op.Gather(table(first, "in"), narrow_ids)
    wide = op.MatMul(narrow, op.constant(flushed(second, old.data.dtype), f"{old.name}_out"))
    if len(exact):
        wide = op.Add(wide, op.Gather(table(old.data[np.sort(exact)], "exact"), op.Min(ids, np.int64(0))))
    name = node.output.name
    graph.replace_uses(node.output, wide)
    graph.erase(node)
    graph.rename(wide, name)
    drop_unused(graph, [old])


def _as_stored(matrix: np.ndarray, node: Node, old: Constant) -> np.ndarray:
    """A matrix [inputs, outputs] in the layout that the node has its weight in."""
    turned = node.attributes.get("transB")
    return np.ascontiguousarray(flushed(matrix.T if turned else matrix, old.data.dtype))
