"""Fused operators of ONNX Runtime's own domain, as its `ContribOperators.md` defines them."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..traits import Trait
from .norm import layer_normalization
from .quant import dynamic_quantize_linear, matmul_integer, requantize
from .registry import operator


@operator("com.microsoft::FusedMatMul", traits=Trait.CONTRACTING)
def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    left, right = _transposed(a, transA, transBatchA), _transposed(b, transB, transBatchB)
    y = left @ right
    return y if alpha == 1 else y * alpha


def _transposed(x: Tensor, matrix: int, batch: int) -> Tensor:
    """A factor ready for the product: its rows, held by the first axis, put behind the batch, and then transposed."""
    x = x.movedim(0, -2) if batch else x
    return x.mT if matrix else x


@operator("com.microsoft::Gelu", traits=Trait.ELEMENTWISE)
def gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


@operator("com.microsoft::BiasGelu", traits=Trait.ELEMENTWISE)
def bias_gelu(a: Tensor, b: Tensor) -> Tensor:
    return F.gelu(a + b)


@operator("com.microsoft::FastGelu", traits=Trait.ELEMENTWISE)
def fast_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("com.microsoft::QuickGelu", traits=Trait.ELEMENTWISE)
def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return x * torch.sigmoid(alpha * x)


@operator("com.microsoft::SkipLayerNormalization")
def skip_layer_normalization(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    total = x + skip if bias is None else x + skip + bias
    normalized = layer_normalization(total, gamma, beta, epsilon=epsilon, outputs=3)
    return normalized[0] if outputs == 1 else (*normalized, total)[:outputs]


@operator("com.microsoft::MatMulIntegerToFloat", traits=Trait.WITHOUT_GRADIENT)
def matmul_integer_to_float(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero_point: Tensor | None = None,
    b_zero_point: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    y = matmul_integer(a, b, a_zero_point, b_zero_point) * (a_scale * b_scale)
    return y if bias is None else y + bias


@operator("com.microsoft::DynamicQuantizeMatMul", traits=Trait.WITHOUT_GRADIENT)
def dynamic_quantize_matmul(
    a: Tensor, b: Tensor, b_scale: Tensor, b_zero_point: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    quantized, scale, zero_point = dynamic_quantize_linear(a)
    return matmul_integer_to_float(quantized, b, scale, b_scale, zero_point, b_zero_point, bias)


@operator("com.microsoft::QGemm", traits=Trait.WITHOUT_GRADIENT)
def quantized_gemm(
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    c: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero_point: Tensor | None = None,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """`c` is a bias in int32 at the products' scale; floats come out where no scale of the output is given."""
    total = matmul_integer(a.T if transA else a, b.T if transB else b, a_zero_point, b_zero_point)
    total = total if c is None else total + c
    factor = a_scale * b_scale * alpha
    if y_scale is None or y_zero_point is None:
        return total * factor
    return requantize(total, factor / y_scale, y_zero_point)


def _recomputed(*inputs: Tensor | None, **attributes: int) -> Tensor:
    """Make the floats of the weights once more on the way back, so that training needn't hold them all at once."""
    return checkpoint(partial(matmul_of_few_bits, **attributes), *inputs, use_reentrant=False)


@operator("com.microsoft::MatMulNBits", trainable=_recomputed)
def matmul_of_few_bits(
    a: Tensor,
    b: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    g_idx: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    K: int,
    N: int,
    block_size: int,
    bits: int = 4,
    accuracy_level: int = 0,
) -> Tensor:
    """Multiply by weights `[N, K]` whose codes lie in bytes, lower bits first.

    Each block along a row has a scale and a zero point. Zero points are packed as the weights are, or floats. Whatever
    accuracy is asked for, only sums are rounded, and weights that meet activations of a smaller type.
    """
    if g_idx is not None:
        raise ValueError("it says by g_idx which block a column belongs to, which ONNX Runtime has deprecated")
    shape = (N, -(-K // block_size))
    codes = _unpacked(b.reshape(N, -1), bits).reshape(*shape, block_size)
    zeros: Tensor | int = 2 ** (bits - 1)
    if zero_points is not None:
        rows = zero_points.reshape(N, -1)
        unpacked = rows if rows.is_floating_point() else _unpacked(rows, bits)[:, : shape[1]]
        zeros = unpacked.to(scales.dtype).unsqueeze(-1)
    weights = (codes.to(scales.dtype) - zeros) * scales.reshape(*shape, 1)
    return F.linear(a, weights.flatten(1)[:, :K].to(a.dtype), None if bias is None else bias.to(a.dtype))


def _unpacked(rows: Tensor, bits: int) -> Tensor:
    """The codes in rows of bytes, lower bits first."""
    if bits == 8:
        return rows
    return torch.stack([(rows >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], -1).flatten(-2)
