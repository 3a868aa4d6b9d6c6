"""Lowerings of the ATen operators that hold a network's weights: linear, convolution, and products."""

from collections.abc import Sequence
from typing import Any

from ...ir.graph import Value
from .lowering import Lowering, lowers, spread


@lowers("aten.linear.default")
def linear(op: Lowering, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if x.type.rank == 2 and x.dtype.is_float:
        return op.Gemm(x, weight, bias, transB=1)
    product = op.MatMul(x, op.Transpose(weight, perm=(1, 0)))
    return product if bias is None else op.Add(product, bias)


@lowers("aten.addmm.default")
def addmm(op: Lowering, bias: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    if not a.dtype.is_float:  # which runtimes have no kernel for
        return baddbmm(op, bias, a, b, beta=beta, alpha=alpha)
    return op.Gemm(a, b, bias, alpha=None if alpha == 1 else float(alpha), beta=None if beta == 1 else float(beta))


@lowers("aten.matmul.default", "aten.mm.default", "aten.bmm.default")
def matmul(op: Lowering, a: Value, b: Value) -> Value:
    return op.MatMul(a, b)


@lowers("aten.baddbmm.default")
def baddbmm(op: Lowering, bias: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    product = op.MatMul(a, b)
    product = product if alpha == 1 else op.Mul(product, alpha)
    return op.Add(product, bias if beta == 1 else op.Mul(bias, beta))


@lowers("aten.convolution.default")
def convolution(
    op: Lowering,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    spatial = weight.type.rank - 2
    stride, padding, dilation = (spread(value, spatial) for value in (stride, padding, dilation))
    attributes: dict[str, Any] = {
        "strides": stride,
        "pads": padding * 2,
        "dilations": dilation,
        "group": groups,
        "kernel_shape": weight.type.static_shape[2:],
    }
    if transposed:
        attributes["output_padding"] = spread(output_padding, spatial)
    operator = "ConvTranspose" if transposed else "Conv"
    return op.batched(x, spatial, lambda batch: op(operator, batch, weight, bias, **attributes))


@lowers("aten.addmv.default")
def addmv(op: Lowering, bias: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    return baddbmm(op, bias, a, b, beta=beta, alpha=alpha)


@lowers("aten.addbmm.default")
def addbmm(op: Lowering, bias: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    total = op.ReduceSum(op.MatMul(a, b), [0], keepdims=0)
    total = total if alpha == 1 else op.Mul(total, alpha)
    return op.Add(total, bias if beta == 1 else op.Mul(bias, beta))


@lowers("aten.bilinear.default")
def bilinear(op: Lowering, a: Value, b: Value, weight: Value, bias: Value | None = None) -> Value:
    """The product of both inputs with a matrix `weight[output]`, for each output."""
    outputs, left, right = weight.type.static_shape
    rows = op.Reshape(op.Transpose(weight, perm=(1, 0, 2)), [left, outputs * right])
    halfway = op.reshape(op.MatMul(a, rows), [*a.shape[:-1], outputs, right])
    y = op.Squeeze(op.MatMul(halfway, op.Unsqueeze(b, [-1])), [-1])
    return y if bias is None else op.Add(y, bias)


@lowers("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def conv(
    op: Lowering,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Value:
    return convolution(op, x, weight, bias, stride, padding, dilation, False, (0,), groups)
