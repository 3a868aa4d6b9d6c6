"""Matrix products (GEMM) with weights of few bits."""

import numpy as np
from tvm import relax, tirx

from .....ir.block_weight import BlockWeight
from .....ir.graph import Node
from ...kernels.epilogue import Epilogue
from ...kernels.few_bits_gemm import FewBitsOperands
from ...kernels.gemm import Gemm, gemm_kernel
from ...kernels.machine import Machine
from ...kernels.vector_math import ELEMENTS
from ..emitter import Emitter, known_sizes
from ..fusion import Anchor, FusedKernel, FusionGroup
from .linear import operands


def _anchor(node: Node) -> Anchor:
    return Anchor(node, channels=1, addend=node.input(5), fusable=ELEMENTS)


def _product(emitter: Emitter, group: FusionGroup) -> relax.Expr:
    x, weight = group.anchor.operand(0), BlockWeight.of(group.anchor)
    assert weight is not None  # legalize has spelled out the others
    kernel, right = kernel_for(known_sizes(x.shape[:-1]), weight, emitter.machine, group.epilogue)
    arguments = [emitter.tensor(x), *map(relax.const, right), *operands(emitter, group, weight.codes.shape[1])]
    return emitter.prim_func("few_bits_gemm", kernel, arguments, group.output.type)


def kernel_for(
    lead: tuple[int | None, ...], weight: BlockWeight, machine: Machine, epilogue: Epilogue
) -> tuple[tirx.PrimFunc, list[np.ndarray]]:
    """Return a kernel of `[*lead, K]`, and the weight's packed codes, scales and zero points for it."""
    sizes = Gemm(lead, *weight.codes.shape)
    right = FewBitsOperands.of(weight.codes, weight.scheme.bits, weight.scheme.block, machine)
    tile = right.tile(sizes, machine)
    packed = right.packed(weight.codes, weight.scales, weight.zero_points, tile)
    return gemm_kernel(sizes, tile, machine, epilogue, right), packed


FUSED_KERNELS = {"com.microsoft::MatMulNBits": FusedKernel(_anchor, _product)}
