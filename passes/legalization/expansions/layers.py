"""Normalizations over a batch, convolutions with padding of their own, global pools and determinants, spelled out."""

from functools import cache
from typing import TypeVar

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, RefusedError, attribute, cast, known_size

_LARGEST_MATRIX = 6
_Half = TypeVar("_Half", Value, np.ndarray)


def _batch_normalization(op: Builder, node: Node) -> tuple[Value, ...]:
    """Normalize by the mean and variance of the batch, as in training, and mix these into the running ones."""
    x, scale, bias, mean, variance = (node.operand(index) for index in range(5))
    axes = [axis for axis in range(x.type.rank) if axis != 1]
    values = cast(op, x, mean.dtype)
    seen_mean = op.ReduceMean(values, axes)
    centred = op.Sub(values, seen_mean)
    seen_variance = op.ReduceMean(op.Mul(centred, centred), axes)
    inverse = op.Reciprocal(op.Sqrt(op.Add(seen_variance, float(attribute(node, "epsilon", 1e-5)))))
    channels = [-1, *[1] * (x.type.rank - 2)]
    scaled = op.Mul(op.Mul(centred, inverse), cast(op, op.Reshape(scale, channels), mean.dtype))
    y = cast(op, op.Add(scaled, cast(op, op.Reshape(bias, channels), mean.dtype)), x.dtype)
    kept = float(attribute(node, "momentum", 0.9))
    pairs = ((mean, seen_mean), (variance, seen_variance))
    running = (op.Add(op.Mul(old, kept), op.Mul(op.Reshape(new, [-1]), 1 - kept)) for old, new in pairs)
    return y, *running


def _conv(op: Builder, node: Node) -> Value:
    """Convolve with the padding that leaves a result for every stride.

    Without strides it is the same for images of any size; otherwise an explicit Pad computes it.
    """
    x, w, rank = node.operand(0), node.operand(1), node.operand(0).type.rank - 2
    strides, gaps = (np.array(attribute(node, name, (one,) * rank)) for name, one in _DEFAULTS[:2])
    kernel = attribute(node, "kernel_shape", w.shape[2:])
    is_upper = attribute(node, "auto_pad", "") == "SAME_UPPER"
    kept = {name: value for name, value in node.attributes.items() if name not in ("auto_pad", "pads")}
    if (strides == 1).all() and all(isinstance(size, int) for size in kernel):
        missing = (np.array(kernel) - 1) * gaps
        pads = np.concatenate(_ends(missing // 2, missing - missing // 2, is_upper)).tolist()
        return op.Conv(x, w, node.input(2), pads=pads, **kept)
    taps, sizes = (op.Slice(op.Shape(value), [2], [2 + rank]) for value in (w, x))
    steps = op.Mul(op.Div(op.Sub(sizes, 1), strides), strides)
    reach = op.Add(op.Add(steps, op.Mul(op.Sub(taps, 1), gaps)), 1)
    missing = op.Max(op.Sub(reach, sizes), np.zeros(rank, np.int64))
    small = op.Div(missing, 2)
    begin, end = _ends(small, op.Sub(missing, small), is_upper)
    padded = op.Pad(x, op.Concat([0, 0], begin, [0, 0], end, axis=0))
    return op.Conv(padded, w, node.input(2), **kept)


def _ends(small: _Half, large: _Half, is_upper: bool) -> tuple[_Half, _Half]:
    """Return the padding at both ends, of which the upper or the lower one has the odd pixel."""
    return (small, large) if is_upper else (large, small)


def is_training(node: Node) -> bool:
    """Whether a BatchNormalization uses the statistics of its batch, and mixes them into the running ones."""
    return bool(node.attributes.get("training_mode", 0))


def is_padded_to_size(node: Node) -> bool:
    """Whether the padding depends on sizes that are known at run time alone."""
    x = node.operand(0)
    return attribute(node, "auto_pad", "NOTSET").startswith("SAME") and any(isinstance(n, str) for n in x.shape[2:])


def _conv_transpose(op: Builder, node: Node) -> Value:
    """Convolve without padding, then crop the result, or extend it by zeros, to the size it should have."""
    x, w, bias = node.operand(0), node.operand(1), node.input(2)
    rank = x.type.rank - 2
    begin, end = _cropping(node, x, w, rank)
    kept = {name: node.attributes[name] for name in _KEPT if name in node.attributes}
    y = op.ConvTranspose(x, w, **kept)
    if any((*begin, *end)):
        y = op.Pad(y, [0, 0, *(-pad for pad in begin), 0, 0, *(-pad for pad in end)])
    return y if bias is None else op.Add(y, op.Reshape(bias, [-1, *[1] * rank]))


_KEPT = ("dilations", "group", "kernel_shape", "output_padding", "strides")


def _cropping(node: Node, x: Value, w: Value, rank: int) -> tuple[list[int], list[int]]:
    """What is cut off at both ends of each spatial axis; negative where zeros are added."""
    mode, wanted = attribute(node, "auto_pad", "NOTSET"), attribute(node, "output_shape", None)
    if wanted is None and not mode.startswith("SAME"):
        pads = list(attribute(node, "pads", (0,) * 2 * rank)) if mode == "NOTSET" else [0] * 2 * rank
        return pads[:rank], pads[rank:]
    strides, gaps, more = (attribute(node, name, (one,) * rank) for name, one in _DEFAULTS)
    kernel = attribute(node, "kernel_shape", None) or [known_size(w, 2 + axis) for axis in range(rank)]
    totals: list[int] = []
    for axis, (stride, gap, extra) in enumerate(zip(strides, gaps, more, strict=True)):
        reach = (kernel[axis] - 1) * gap + 1 + extra
        size = x.shape[2 + axis]
        if wanted is None:  # as many elements as the input times the stride
            totals.append(reach - stride)
        elif isinstance(size, int):
            totals.append((size - 1) * stride + reach - wanted[-rank:][axis])
        else:
            raise RefusedError(f"its output's size is given, but its input's, {size}, isn't known")
    small = [total // 2 for total in totals]
    large = [total - half for total, half in zip(totals, small, strict=True)]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


_DEFAULTS = (("strides", 1), ("dilations", 1), ("output_padding", 0))


def _determinant(op: Builder, node: Node) -> Value:
    """Expand a determinant along rows; every minor is computed once."""
    x = node.operand(0)
    size = x.shape[-1]
    if not isinstance(size, int) or size > _LARGEST_MATRIX:
        raise RefusedError(f"its matrices are of {size} rows, and it is spelled out for {_LARGEST_MATRIX} at most")

    @cache
    def element(row: int, column: int) -> Value:
        line = op.Gather(x, op.constant(row), axis=x.type.rank - 2)
        return op.Gather(line, op.constant(column), axis=x.type.rank - 2)

    @cache
    def minor(row: int, columns: tuple[int, ...]) -> Value:
        """The determinant of the rows from one on, in these columns."""
        terms: list[Value] = []
        for place, column in enumerate(columns):
            rest = columns[:place] + columns[place + 1 :]
            term = op.Mul(element(row, column), minor(row + 1, rest)) if rest else element(row, column)
            terms.append(op.Neg(term) if place % 2 else term)
        return op.Sum(*terms) if len(terms) > 1 else terms[0]

    return minor(0, tuple(range(size)))


def _max_unpool(op: Builder, node: Node) -> Value:
    """Each maximum back at its position in the whole flat input of the pool, and zeros elsewhere."""
    x, indices, wanted = node.operand(0), node.operand(1), node.input(2)
    rank = x.type.rank - 2
    kernel = attribute(node, "kernel_shape", ())
    strides, pads = attribute(node, "strides", (1,) * rank), attribute(node, "pads", (0,) * 2 * rank)
    inner = op.Slice(op.Shape(x), [2], [2 + rank])
    fixed = [taps - begin - end for taps, begin, end in zip(kernel, pads[:rank], pads[rank:], strict=True)]
    sizes = op.Add(op.Mul(op.Sub(inner, 1), np.array(strides)), np.array(fixed))
    shape = op.Concat(op.Slice(op.Shape(x), [0], [2]), sizes, axis=0)
    count = op.ReduceProd(shape, keepdims=1)
    flat = op.ConstantOfShape(count, value=np.zeros(1, x.dtype.numpy))
    flat = op.ScatterElements(flat, op.Reshape(indices, [-1]), op.Reshape(x, [-1]), axis=0)
    y = op.Reshape(flat, shape)
    if wanted is None:
        return y
    return op.Pad(y, op.Concat([0] * (2 + rank), op.Sub(wanted, shape), axis=0))


def _global_max_pool(op: Builder, node: Node) -> Value:
    x = node.operand(0)
    return op.ReduceMax(x, list(range(2, x.type.rank)), noop_with_empty_axes=1)


def is_padded(node: Node) -> bool:
    """Whether a transposed convolution's result is cropped or extended."""
    pads = node.attributes.get("pads", ())
    return node.attributes.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes or any(pads)


def is_interleaved(node: Node) -> bool:
    """Whether convolutions whose results are interleaved can compute a transposed one.

    They can with constant weights, on images of known channels, with padding that is less than the kernel, and without
    groups and dilations.
    """
    x, weights, bias = node.operand(0), node.constant(1), node.input(2)
    if weights is None or (bias is not None and node.constant(2) is None) or x.dtype is not DType.float32:
        return False
    rank = x.type.rank - 2
    begins = attribute(node, "pads", (0,) * 2 * rank)[:rank]
    return (
        rank in (1, 2)
        and isinstance(x.shape[1], int)
        and 0 not in (*x.shape, *node.output.shape)
        and attribute(node, "group", 1) == 1
        and set(attribute(node, "dilations", (1,))) == {1}
        and attribute(node, "auto_pad", "NOTSET") == "NOTSET"
        and "output_shape" not in node.attributes
        and all(0 <= begin < size for begin, size in zip(begins, weights.shape[2:], strict=True))
    )


EXPANSIONS: dict[str, Expansion] = {
    "BatchNormalization": _batch_normalization,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Det": _determinant,
    "GlobalMaxPool": _global_max_pool,
    "MaxUnpool": _max_unpool,
}
