"""Spectra, and the windows and filters that go with them, spelled out. Complex numbers are pairs along the last axis.

A Fourier transform is a product with a matrix: sizes may be symbolic, and a matrix whose size is known is a constant.
"""

import math

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, RefusedError, attribute, cast, known_size, size_of

_COSINES = {"BlackmanWindow": (0.42, 0.5, 0.08), "HammingWindow": (25 / 46, 21 / 46), "HannWindow": (0.5, 0.5)}
"""Each window as an alternating sum of cosines: `a - b cos x + c cos 2x`."""


def _window(op: Builder, node: Node) -> Value:
    size = _number(op, node.operand(0))
    period = size if attribute(node, "periodic", 1) else op.Sub(size, 1)
    step = op.Div(np.float64(2 * math.pi), op.Cast(period, to=DType.float64))
    angle = op.Mul(op.Cast(op.Range(0, size, 1), to=DType.float64), step)
    first, *rest = _COSINES[node.operator]
    y = op.Add(op.Mul(angle, 0.0), first)
    for order, term in enumerate(rest, 1):
        y = op.Add(y, op.Mul(op.Cos(op.Mul(angle, float(order))), (-1) ** order * term))
    return op.Cast(y, to=attribute(node, "output_datatype", 1))


def _fourier(op: Builder, node: Node) -> Value:
    rank, axis = node.operand(0).type.rank, node.input(2)
    if axis is None or node.constant(2) is not None:
        return _fourier_along(op, node, (-2 if axis is None else int(_scalar(node, 2))) % rank)
    if attribute(node, "onesided", 0) or node.input(1) is not None:
        raise RefusedError("only data tells along which axis its size changes")
    y, *others = (_fourier_along(op, node, other) for other in range(rank - 1))
    number = _number(op, axis)
    for other, along in enumerate(others, 1):
        y = op.Where(op.Or(op.Equal(number, other), op.Equal(number, other - rank)), along, y)
    return y


def _fourier_along(op: Builder, node: Node, axis: int) -> Value:
    x, rank = node.operand(0), node.operand(0).type.rank
    inverse, onesided = attribute(node, "inverse", 0), attribute(node, "onesided", 0)
    have, given = size_of(op, x, axis), node.input(1)
    halved = op.Mul(op.Sub(have, 1), 2) if inverse and onesided else have
    length = halved if given is None else _number(op, given)
    order = [other for other in range(rank - 1) if other != axis]
    parts = [op.Transpose(part, perm=(*order, axis)) for part in _parts(op, x)]
    if inverse and onesided:
        results = [_real_inverse(op, parts, have, length)]
    else:
        count = op.Add(op.Div(length, 2), 1) if onesided else length
        results = _transformed(op, parts, have, count, length, bool(inverse))
    back = tuple(np.argsort([*order, axis]).tolist())
    stacked = [op.Unsqueeze(op.Transpose(part, perm=back), [-1]) for part in results]
    return op.Concat(*stacked, axis=-1) if len(stacked) > 1 else stacked[0]


def _short_time_fourier(op: Builder, node: Node) -> Value:
    signal, window = node.operand(0), node.input(2)
    step = _number(op, node.operand(1))
    whole = size_of(op, signal, 1)
    if node.input(3) is not None:
        length = _number(op, node.operand(3))
    else:
        length = whole if window is None else size_of(op, window, 0)
    count = op.Add(op.Div(op.Sub(whole, length), step), 1)
    starts = op.Unsqueeze(op.Mul(op.Range(0, count, 1), step), [1])
    places = op.Add(starts, op.Range(0, length, 1))  # [frame, place]
    frames = [op.Gather(part, places, axis=1) for part in _parts(op, signal)]
    if window is not None:
        frames = [op.Mul(part, window) for part in frames]
    kept = op.Add(op.Div(length, 2), 1) if attribute(node, "onesided", 1) else length
    results = _transformed(op, frames, length, kept, length, inverse=False)
    return op.Concat(*(op.Unsqueeze(part, [-1]) for part in results), axis=-1)


def _parts(op: Builder, x: Value) -> list[Value]:
    """The real part of complex numbers, and the imaginary one where it isn't zero throughout."""
    if x.shape[-1] not in (1, 2):
        raise RefusedError(f"whether {x.type} is complex isn't known")
    return [op.Gather(x, op.constant(index), axis=x.type.rank - 1) for index in range(known_size(x, -1))]


def _transformed(
    op: Builder, parts: list[Value], have: Value, count: Value, length: Value, inverse: bool
) -> list[Value]:
    """The spectrum along the last axis of which `count` places are wanted; input beyond the length is cut off."""
    cosines, sines = _waves(op, have, count, length, parts[0].dtype)
    if inverse:
        sines = op.Neg(sines)
    real, imaginary = op.MatMul(parts[0], cosines), op.Neg(op.MatMul(parts[0], sines))
    if len(parts) > 1:
        real = op.Add(real, op.MatMul(parts[1], sines))
        imaginary = op.Add(imaginary, op.MatMul(parts[1], cosines))
    if not inverse:
        return [real, imaginary]
    divisor = op.Cast(length, to=real.dtype)
    return [op.Div(real, divisor), op.Div(imaginary, divisor)]


def _real_inverse(op: Builder, parts: list[Value], have: Value, length: Value) -> Value:
    """The signal of which half a spectrum is given: but for the first and the middle place, each stands for two."""
    cosines, sines = _waves(op, have, length, length, parts[0].dtype, bound=op.Add(op.Div(length, 2), 1))
    place = op.Range(0, have, 1)
    is_single = op.Or(op.Equal(place, 0), op.Equal(op.Mul(place, 2), length))
    one, two = (op.constant(np.asarray(weight, parts[0].dtype.numpy)) for weight in (1, 2))
    weighted = [op.Mul(part, op.Where(is_single, one, two)) for part in parts]
    y = op.MatMul(weighted[0], cosines)
    if len(parts) > 1:
        y = op.Sub(y, op.MatMul(weighted[1], sines))
    return op.Div(y, op.Cast(length, to=y.dtype))


def _waves(
    op: Builder, have: Value, count: Value, length: Value, dtype: DType, bound: Value | None = None
) -> tuple[Value, Value]:
    """Cosines and sines `[have, count]` of the products of places over the length; zero for places from a bound on."""
    rows, columns = op.Unsqueeze(op.Range(0, have, 1), [1]), op.Range(0, count, 1)
    turn = op.Div(np.float64(2 * math.pi), op.Cast(length, to=DType.float64))
    angle = op.Mul(op.Cast(op.Mod(op.Mul(rows, columns), length), to=DType.float64), turn)
    kept = op.Cast(op.Less(rows, length if bound is None else bound), to=dtype)
    return op.Mul(op.Cast(op.Cos(angle), to=dtype), kept), op.Mul(op.Cast(op.Sin(angle), to=dtype), kept)


def _mel_weights(op: Builder, node: Node) -> Value:
    """Triangular filters `[spectrum, mel]`, evenly spaced on the mel scale."""
    bins, length = (_number(op, node.operand(index)) for index in (0, 1))
    rate, *edges = (op.Cast(_number(op, node.operand(index)), to=DType.float64) for index in (2, 3, 4))
    low, high = (op.Mul(op.Log(op.Add(op.Div(edge, 700.0), 1.0)), 2595 / math.log(10)) for edge in edges)
    count = op.Add(bins, 2)
    step = op.Div(op.Sub(high, low), op.Cast(count, to=DType.float64))
    mel = op.Add(op.Mul(op.Cast(op.Range(0, count, 1), to=DType.float64), step), low)
    hertz = op.Mul(op.Sub(op.Exp(op.Mul(mel, math.log(10) / 2595)), 1.0), 700.0)
    places = op.Floor(op.Div(op.Mul(hertz, op.Cast(op.Add(length, 1), to=DType.float64)), rate))
    left, center, right = (op.Gather(places, op.Range(start, op.Add(bins, start), 1)) for start in range(3))
    rows = op.Range(0, op.Add(op.Div(length, 2), 1), 1)
    place = op.Unsqueeze(op.Cast(rows, to=DType.float64), [1])
    nought = op.constant(np.zeros(()))
    rise = op.Div(op.Sub(place, left), op.Sub(center, left))
    rise = op.Where(op.Equal(center, left), op.constant(np.ones(())), rise)
    fall = op.Div(op.Sub(right, place), op.Sub(right, center))
    y = op.Where(op.And(op.LessOrEqual(left, place), op.LessOrEqual(place, center)), rise, nought)
    y = op.Where(op.And(op.LessOrEqual(center, place), op.Less(place, right)), fall, y)
    return op.Cast(y, to=attribute(node, "output_datatype", 1))


def _number(op: Builder, value: Value) -> Value:
    """A tensor of one number as a scalar, of int64 where it is whole."""
    scalar = op.Reshape(value, np.zeros(0, np.int64)) if value.type.rank else value
    return scalar if scalar.dtype.is_float else cast(op, scalar, DType.int64)


def _scalar(node: Node, index: int) -> float:
    array = node.constant(index)
    assert array is not None
    return array.reshape(-1)[0]


EXPANSIONS: dict[str, Expansion] = {
    **dict.fromkeys(_COSINES, _window),
    "DFT": _fourier,
    "MelWeightMatrix": _mel_weights,
    "STFT": _short_time_fourier,
}
