"""Matrix products (GEMM) with weights of few bits, and rows of tables that such a product multiplies by, too.

A language model's table of embeddings is often its head's weight. It is stored once, as the head's kernel reads it.
"""

from dataclasses import dataclass

import numpy as np
from tvm import relax, te, tirx

from .....ir.block_weight import BlockWeight
from .....ir.graph import Constant, Node
from .....ir.types import DType, TensorType
from .....passes.legalization.expansions.integers import MATMUL_NBITS
from ...kernels.epilogue import Epilogue
from ...kernels.few_bits_gemm import FewBitsOperands
from ...kernels.gemm import Gemm, gemm_kernel
from ...kernels.machine import Machine
from ...kernels.tiles import Tile
from ...kernels.vector_math import ELEMENTS
from ..emitter import Emitter, known_sizes
from ..expressions import counted
from ..fusion import Anchor, FusedKernel, FusionGroup
from .linear import operands

_CODES, _SCALES, _ZERO_POINTS = 1, 2, 3
"""The inputs of MatMulNBits that hold its weight."""
_WHOLE = 8
"""Bits of codes that fill a byte; a word holds them in the order of their rows."""


def _anchor(node: Node) -> Anchor:
    return Anchor(node, channels=1, addend=node.input(5), fusable=ELEMENTS)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the kernel of a product takes its weight.

    Attributes:
        sizes: the sizes of the product.
        right: the right operand's instruction and blocks.
        tile: the tile, whose columns are those of a panel of the weight.
    """

    sizes: Gemm
    right: FewBitsOperands
    tile: Tile

    @staticmethod
    def of(lead: tuple[int | None, ...], weight: BlockWeight, machine: Machine) -> "Layout":
        """Return the layout for a left operand `[*lead, K]`."""
        sizes = Gemm(lead, *weight.codes.shape)
        right = FewBitsOperands.of(weight.codes, weight.scheme.bits, weight.scheme.block, machine)
        return Layout(sizes, right, right.tile(sizes, machine))

    def packed(self, weight: BlockWeight) -> list[np.ndarray]:
        """Return the weight's codes, scales and zero points as the kernel reads them."""
        return self.right.packed(weight.codes, weight.scales, weight.zero_points, self.tile)

    def kernel(self, machine: Machine, epilogue: Epilogue) -> tirx.PrimFunc:
        return gemm_kernel(self.sizes, self.tile, machine, epilogue, self.right)


def _product(emitter: Emitter, group: FusionGroup) -> relax.Expr:
    layout, weight = _packed(emitter, group.anchor)
    kernel = layout.kernel(emitter.machine, group.epilogue)
    arguments = [emitter.tensor(group.anchor.operand(0)), *weight, *operands(emitter, group, layout.sizes.n)]
    return emitter.prim_func("few_bits_gemm", kernel, arguments, group.output.type)


def _packed(emitter: Emitter, node: Node) -> tuple[Layout, list[relax.Expr]]:
    weight = BlockWeight.of(node)
    assert weight is not None  # legalize has spelled out the others
    layout = Layout.of(known_sizes(node.operand(0).shape[:-1]), weight, emitter.machine)
    key = node.inputs[_CODES : _ZERO_POINTS + 1], layout.tile
    if key not in emitter.packed:
        emitter.packed[key] = [relax.const(part) for part in layout.packed(weight)]
    return layout, emitter.packed[key]


def rows_of_head(emitter: Emitter, node: Node) -> relax.Expr | None:
    """Write a Gather of rows of codes, scales or zero points that a head multiplies by; None for any other one."""
    table, indices = node.operand(0), node.operand(1)
    heads = [use for use in table.uses if use.node.operator == MATMUL_NBITS and use.node.owner is node.owner]
    if node.attributes.get("axis", 0) or not isinstance(table, Constant) or not heads:
        return None
    head, part = heads[0]
    depth, columns, block = (int(head.attributes[name]) for name in ("K", "N", "block_size"))
    parts = {
        _CODES: TensorType(DType.uint8, (columns, depth // block, block)),
        _SCALES: TensorType(DType.float32, (columns, depth // block)),
        _ZERO_POINTS: TensorType(DType.uint8, (columns, depth // block)),
    }
    if int(head.attributes.get("bits", 4)) != _WHOLE or depth % block or table.type != parts.get(part):
        return None
    layout, weight = _packed(emitter, head)
    instruction, width = layout.right.instruction, layout.tile.columns

    def rows_of_head(packed: te.Tensor, indices: te.Tensor) -> te.Tensor:
        def element(*place: tirx.Expr) -> tirx.Expr:
            at, rest = place[: len(indices.shape)], place[len(indices.shape) :]
            row = counted(indices(*at).astype("int64"), columns)
            panel = row // width
            column = row - tirx.min(panel * width, columns - width)  # the last panel overlaps the one before it
            if part != _CODES:
                found = packed(panel, *rest, column)
                return found if part == _SCALES else (found.astype("int32") + instruction.zero).astype("uint8")
            k = rest[0] * block + rest[1]
            word, shift = packed(panel, k // instruction.word, column), k % instruction.word * _WHOLE
            return ((word >> shift.astype("int32")) & 255 ^ instruction.zero).astype("uint8")

        return te.compute([*indices.shape, *table.data.shape[1:]], element, name="rows_of_head")

    return emitter.kernel(rows_of_head, weight[part - _CODES], emitter.tensor(indices))


FUSED_KERNELS = {MATMUL_NBITS: FusedKernel(_anchor, _product)}
