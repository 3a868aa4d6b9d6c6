"""Matrix products (GEMM) with 4-bit weights."""

import numpy as np
from tvm import relax, tirx

from .....ir.block_weight import BlockWeight
from .....ir.graph import Node
from ...kernels.epilogue import Epilogue
from ...kernels.gemm import Gemm, packed
from ...kernels.int4_gemm import int4_gemm_kernel, int4_tile, packed_int4
from ...kernels.limb_gemm import is_limb_gemm, limb_gemm_kernel, limb_tile, packed_limbs
from ...kernels.machine import Machine
from ...kernels.vector_math import ELEMENTS
from ..emitter import Emitter
from ..fusion import Anchor, FusedKernel, FusionGroup
from .linear import operands


def _anchor(node: Node) -> Anchor:
    return Anchor(node, channels=1, addend=node.input(5), fusable=ELEMENTS)


def _product(emitter: Emitter, group: FusionGroup) -> relax.Expr:
    x, weight = group.anchor.operand(0), BlockWeight.of(group.anchor)
    assert weight is not None  # legalize has spelled out the others
    lead = tuple(size if isinstance(size, int) else None for size in x.shape[:-1])
    kernel, right = kernel_for(lead, weight, emitter.machine, group.epilogue)
    arguments = [emitter.tensor(x), *map(relax.const, right), *operands(emitter, group, weight.codes.shape[1])]
    return emitter.prim_func("nibble_gemm", kernel, arguments, group.output.type)


def kernel_for(
    lead: tuple[int | None, ...], weight: BlockWeight, machine: Machine, epilogue: Epilogue
) -> tuple[tirx.PrimFunc, list[np.ndarray]]:
    """Return a kernel of `[*lead, depth]`, and the weight's packed codes, scales and zero points for it."""
    sizes, block = Gemm(lead, *weight.codes.shape), weight.scheme.block
    if is_limb_gemm(weight.codes, machine):
        tile, zero_points = limb_tile(sizes), weight.zero_points
        codes, kernel = packed_limbs(weight.codes, tile), limb_gemm_kernel(sizes, block, tile, machine, epilogue)
    else:
        tile, zero_points = int4_tile(sizes, machine), weight.zero_points.astype(np.int8) - np.int8(8)
        codes, kernel = packed_int4(weight.codes, tile), int4_gemm_kernel(sizes, block, tile, machine, epilogue)
    return kernel, [codes, packed(weight.scales, tile), packed(zero_points, tile)]


FUSED_KERNELS = {"com.microsoft::MatMulNBits": FusedKernel(_anchor, _product)}
