"""Lowerings of Fourier transforms. ONNX divides by the length on the way back, and torch as it is told."""

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np

from ...ir.builder import Operand
from ...ir.dims import Dim
from ...ir.graph import Value
from .complexes import Complex, lowers_complex, view_as_complex
from .lower_complex import view_as_real
from .lower_shape import select
from .lowering import Lowering


@lowers_complex("aten._fft_r2c.default")
def transform_reals(op: Lowering, x: Value, axes: Sequence[int], norm: int, onesided: bool) -> Complex:
    *others, last = [axis % x.type.rank for axis in axes]
    spectrum = op.DFT(op.Unsqueeze(x, [-1]), None, op.constant(last), onesided=int(onesided))
    spectrum = _transformed(op, spectrum, others)
    return view_as_complex(op, _scaled(op, spectrum, [x.shape[axis] for axis in axes], -norm))


@lowers_complex("aten._fft_c2c.default")
def transform(op: Lowering, z: Complex, axes: Sequence[int], norm: int, forward: bool) -> Complex:
    rank = z.real.type.rank
    spectrum = _transformed(op, view_as_real(op, z), [axis % rank for axis in axes], inverse=not forward)
    return view_as_complex(op, _scaled(op, spectrum, [z.shape[axis] for axis in axes], (0 if forward else 2) - norm))


@lowers_complex("aten._fft_c2r.default")
def transform_to_reals(op: Lowering, z: Complex, axes: Sequence[int], norm: int, size: Dim) -> Value:
    """The half of a spectrum that is given is mirrored first, since not every runtime does without the other."""
    *others, last = [axis % z.real.type.rank for axis in axes]
    pairs = _transformed(op, view_as_real(op, z), others, inverse=True)
    half, beyond = _halves(op, size)
    first = op.Slice(pairs, [0], beyond, [last])
    mirrored = op.Mul(op.Slice(pairs, half, [0], [last], [-1]), np.asarray([1, -1], z.real.dtype.numpy))
    whole = _transformed(op, op.Concat(first, mirrored, axis=last), [last], inverse=True)
    y = select(op, whole, -1, 0)
    return _scaled(op, y, [*(z.shape[axis] for axis in others), size], 2 - norm)


def _halves(op: Lowering, size: Dim) -> tuple[Operand, Operand]:
    """The last place that occurs twice in a mirrored spectrum, and the first beyond the half that is given."""
    if isinstance(size, int):
        return [(size - 1) // 2], [size // 2 + 1]
    whole = op.size(size)
    return op.Div(op.Sub(whole, 1), 2), op.Add(op.Div(whole, 2), 1)


def _transformed(op: Lowering, pairs: Value, axes: Sequence[int], *, inverse: bool = False) -> Value:
    def along(values: Value, axis: int) -> Value:
        return op.DFT(values, None, op.constant(axis), inverse=int(inverse))

    return reduce(along, axes, pairs)


def _scaled(op: Lowering, x: Value, sizes: Sequence[Dim], halves: int) -> Value:
    """Multiply by the number of transformed elements to the power `halves / 2`."""
    if not halves:
        return x
    known = math.prod(size for size in sizes if isinstance(size, int))
    x = op.Mul(x, float(known) ** (halves / 2)) if known != 1 else x
    for size in sizes:
        if isinstance(size, str):
            x = op.Mul(x, op.Pow(op.cast(size, x.dtype), halves / 2))
    return x
