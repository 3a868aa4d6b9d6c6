"""Matrix products."""

import torch
from torch import Tensor

from ..traits import Trait
from .registry import operator
from .unsigned import has_data, widened


@operator("MatMul", traits=Trait.CONTRACTING)
@widened
def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm", traits=Trait.CONTRACTING)
@widened
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    if (a.ndim, b.ndim) != (2, 2):
        raise ValueError(f"it multiplies matrices, not tensors of {a.ndim} and {b.ndim} axes")
    y = (a.T if transA else a) @ (b.T if transB else b)
    if alpha != 1:
        y = (y * alpha).to(a.dtype)
    if c is None:
        return y
    return y + (c if beta == 1 else (c * beta).to(a.dtype))


@operator("Einsum")
def einsum(*inputs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *inputs)


@operator("Det")
def det(x: Tensor) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.ndim == 2 or not x.numel() or not has_data(x):
        return torch.linalg.det(wide).to(x.dtype)
    # torch factorizes the matrices of a batch on several threads at once, by which MKL never ends from 200 rows or so
    each = [torch.linalg.det(matrix) for matrix in wide.flatten(0, -3)]
    return torch.stack(each).reshape(x.shape[:-2]).to(x.dtype)
