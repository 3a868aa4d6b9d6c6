"""Weights of few bits in training: unpacked into integers that are dequantized by block, and packed again after it."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np

from ...ir.block_weight import BlockWeight
from ...ir.builder import Builder
from ...ir.graph import Constant, Graph, Node
from ...ir.types import DType
from ..legalization.expansions.integers import MATMUL_NBITS


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The weight of a MatMulNBits, unpacked into constants of its own.

    Attributes:
        weight: the weight as it was.
        parts: the constants that MatMulNBits had, as they were: codes, scales and perhaps zero points.
        codes: the constant with a code for each weight, `[K, N]`.
        scales: the constant with a scale for each block, `[blocks, N]`.
    """

    weight: BlockWeight
    parts: tuple[Constant, ...]
    codes: Constant
    scales: Constant

    def packed(self, codes: np.ndarray) -> Mapping[str, np.ndarray]:
        """The new data of MatMulNBits' constants, by name.

        Args:
            codes: the new code of each weight, `[K, N]`.
        """
        weight, scheme = replace(self.weight, codes=codes, scales=self.scales.data), self.weight.scheme
        arrays = zip(self.parts, weight.stored_in(scheme.bits, scheme.block), strict=True)
        return {part.name: array.reshape(part.data.shape) for part, array in arrays}


def unpack_blocks(graph: Graph, frozen: AbstractSet[str]) -> list[Unpacked]:
    """Rewrite each MatMulNBits as a MatMul by integers that are dequantized, in place.

    A node stays where its zero points are floats, or its codes are read by other operators or returned.

    Args:
        graph: the graph to train.
        frozen: names of constants that stay.
    """
    found: dict[Constant, Unpacked] = {}
    for node in graph.nodes:
        weight = BlockWeight.of(node) if node.operator == MATMUL_NBITS else None
        if weight is None or weight.zero_points.dtype != np.uint8 or not _is_free(graph, node, frozen):
            continue
        parts = tuple(part for part in node.inputs[1:4] if isinstance(part, Constant))
        op = Builder(graph, node, node.location)
        if parts[0] not in found:
            arrays = {"codes": weight.codes, "scales": weight.scales}
            codes, scales = (op.constant(np.ascontiguousarray(it), f"{parts[0].name}_{k}") for k, it in arrays.items())
            assert isinstance(codes, Constant)
            assert isinstance(scales, Constant)
            found[parts[0]] = Unpacked(weight, parts, codes, scales)
        _multiply(op, node, found[parts[0]])
        graph.erase(node)
    for part in {part for one in found.values() for part in one.parts if not part.uses}:
        graph.erase_constant(part)
    return list(found.values())


def _is_free(graph: Graph, node: Node, frozen: AbstractSet[str]) -> bool:
    """Whether the codes and scales of a MatMulNBits may change, and belong to nothing but that weight."""
    parts = (node.operand(1), node.operand(2))
    uses = [use for part in parts for use in part.uses]
    is_own = all(use.node.operator == MATMUL_NBITS and tuple(use.node.inputs[1:3]) == parts for use in uses)
    return is_own and not any(part.name in frozen or graph.is_output(part) for part in parts)


def _multiply(op: Builder, node: Node, unpacked: Unpacked) -> None:
    """Write a MatMulNBits in operators that pass gradients to its weight."""
    block, zero_points = unpacked.weight.scheme.block, np.ascontiguousarray(unpacked.weight.zero_points)
    w = op.DequantizeLinear(unpacked.codes, unpacked.scales, zero_points, axis=0, block_size=block)
    x, bias = node.operand(0), node.input(5)
    y = op.MatMul(x, w if x.dtype is DType.float32 else op.Cast(w, to=x.dtype))
    op.graph.replace_uses(node.output, y if bias is None else op.Add(y, bias))
