"""Sliding windows that are summed back into images (Col2Im), or whose taps lie at computed offsets (DeformConv)."""

import operator
from collections.abc import Sequence
from functools import partial, reduce
from math import prod

from tvm import relax, te, tirx

from .....ir.graph import Node
from ...kernels.vectors import Scalar
from ..emitter import Converter, Emitter, input_contents, shape_of
from ..expressions import elements, integer, only_if, product, row, unraveled


def _counts(pixels: Sequence[Scalar], taps: Sequence[Scalar], node: Node) -> list[tirx.Expr]:
    """Return how many windows there are along each axis."""
    rank = len(pixels)
    strides, dilations, pads = (node.attributes.get(*pair) for pair in _attributes(rank))
    reaches = [size + pads[axis] + pads[rank + axis] for axis, size in enumerate(pixels)]
    spans = [(count - 1) * gap + 1 for count, gap in zip(taps, dilations, strict=True)]
    return [
        tirx.floordiv(reach - span, integer(stride)) + 1
        for reach, span, stride in zip(reaches, spans, strides, strict=True)
    ]


def _attributes(rank: int) -> list[tuple[str, tuple[int, ...]]]:
    return [("strides", (1,) * rank), ("dilations", (1,) * rank), ("pads", (0,) * 2 * rank)]


def columns_to_image(emitter: Emitter, node: Node) -> relax.Expr:
    """Lower Col2Im: each pixel is the sum of its taps; the sizes of image and window may be computed."""
    x, image, block = emitter.tensors(node)
    rank = node.output.type.rank - 2
    strides, dilations, pads = (node.attributes.get(*pair) for pair in _attributes(rank))

    def sizes(x: te.Tensor, image: te.Tensor, block: te.Tensor) -> te.Tensor:
        taps, pixels = elements(block), elements(image)
        fault = product(_counts(pixels, taps, node)) - x.shape[2]
        return row([tirx.floordiv(x.shape[1], product(taps)), *pixels, *taps, fault])

    taps = input_contents(node, 2) or [emitter.symbol("taps") for _ in range(rank)]
    found = emitter.computed(emitter.kernel(sizes, x, image, block), [*node.output.shape[1:], *taps]).values

    def fold(x: te.Tensor, *, shape: Sequence[Scalar], kernel: Sequence[Scalar]) -> te.Tensor:
        each = [te.reduce_axis((0, size), f"tap{axis}") for axis, size in enumerate(kernel)]
        counts = _counts(shape[2:], kernel, node)

        def element(*place: tirx.Expr) -> tirx.Expr:
            tap = place[1].astype("int64")
            window = integer(0)
            fits: list[tirx.Expr] = []
            for axis in range(rank):
                reach = place[2 + axis].astype("int64") + pads[axis] - each[axis].var * dilations[axis]
                start = tirx.floordiv(reach, integer(strides[axis]))
                fits += [
                    tirx.EQ(tirx.floormod(reach, integer(strides[axis])), integer(0)),
                    start >= 0,
                    start < counts[axis],
                ]
                tap, window = tap * kernel[axis] + each[axis].var, window * counts[axis] + start
            return te.sum(only_if(tirx.all(*fits), x(place[0], tap, window), tirx.const(0, x.dtype)), axis=each)

        return te.compute(shape, element, name="fold")

    return emitter.kernel(fold, x, shape=[shape_of(x).values[0], *found[: 1 + rank]], kernel=list(found[1 + rank :]))


def deformable_conv(emitter: Emitter, node: Node) -> relax.Expr:
    """Lower DeformConv: taps are sampled at offsets, weighted by a mask, and multiplied with the weights."""
    weight = node.operand(1)
    x, w = emitter.tensor(node.operand(0)), emitter.tensor(weight)
    offset, b, mask = (
        None if value is None else emitter.tensor(value) for value in (node.input(index) for index in range(2, 5))
    )
    taps = [int(size) for size in node.attributes.get("kernel_shape", weight.shape[2:])]
    if len(taps) != 2:
        raise NotImplementedError(f"it has {len(taps)} spatial axes, and there is a kernel for 2")
    given = [tensor for tensor in (offset, mask) if tensor is not None]
    samples = emitter.block.emit(emitter.kernel(partial(_sampled, node=node, taps=taps), x, *given))
    y = emitter.kernel(partial(_grouped_product, group=node.attributes.get("group", 1)), samples, w)
    if b is None:
        return y
    return relax.op.add(emitter.block.emit(y), emitter.block.emit(relax.op.reshape(b, (-1, 1, 1))))


def _sampled(x: te.Tensor, offset: te.Tensor, *masks: te.Tensor, node: Node, taps: Sequence[int]) -> te.Tensor:
    """Sample the taps as `[batch, channel, tap, row, column]`: bilinear, and zero outside of the image."""
    get = node.attributes.get
    groups, (strides, dilations) = get("offset_group", 1), (get(name, (1, 1)) for name in ("strides", "dilations"))
    pads = get("pads", (0, 0, 0, 0))
    batch, channels, *sizes = x.shape
    share = tirx.floordiv(channels, integer(groups))

    def element(image: tirx.Expr, channel: tirx.Expr, tap: tirx.Expr, *place: tirx.Expr) -> tirx.Expr:
        cell = unraveled(tap, taps)
        group = tirx.floordiv(channel.astype("int64"), share)
        first = (group * prod(taps) + tap) * 2
        at = [
            offset(image, first + axis, *place)
            + (place[axis] * strides[axis] + cell[axis] * dilations[axis] - pads[axis]).astype(x.dtype)
            for axis in range(2)
        ]
        corners = (_corner(x, (image, channel), at, sizes, corner) for corner in ((0, 0), (0, 1), (1, 0), (1, 1)))
        y = reduce(operator.add, corners)
        return y * masks[0](image, group * prod(taps) + tap, *place) if masks else y

    return te.compute([batch, channels, prod(taps), *offset.shape[2:]], element, name="sample")


def _corner(
    x: te.Tensor, lead: Sequence[tirx.Expr], at: Sequence[tirx.Expr], sizes: Sequence[Scalar], corner: Sequence[int]
) -> tirx.Expr:
    """Return what one of the four pixels around a place adds to its sample."""
    one = tirx.const(1, x.dtype)
    low = [tirx.floor(place) for place in at]
    share = [place - floor for place, floor in zip(at, low, strict=True)]
    weight = one
    for axis, is_upper in enumerate(corner):
        weight = weight * (share[axis] if is_upper else one - share[axis])
    pixel = [floor.astype("int64") + step for floor, step in zip(low, corner, strict=True)]
    is_inside = tirx.all(*(tirx.all(place >= 0, place < size) for place, size in zip(pixel, sizes, strict=True)))
    return only_if(is_inside, x(*lead, *pixel) * weight, tirx.const(0, x.dtype))


def _grouped_product(samples: te.Tensor, w: te.Tensor, *, group: int) -> te.Tensor:
    batch, _, taps, height, width = samples.shape
    filters, depth, *kernel = w.shape
    channel, tap = te.reduce_axis((0, depth), "channel"), te.reduce_axis((0, taps), "tap")
    share = tirx.floordiv(filters, integer(group))

    def element(image: tirx.Expr, number: tirx.Expr, *place: tirx.Expr) -> tirx.Expr:
        first = tirx.floordiv(number.astype("int64"), share) * depth
        weight = w(number, channel, *unraveled(tap.var, kernel))
        return te.sum(samples(image, first + channel, tap, *place) * weight, axis=[channel, tap])

    return te.compute([batch, filters, height, width], element, name="product")


CONVERTERS: dict[str, Converter] = {
    "Col2Im": columns_to_image,
    "DeformConv": deformable_conv,
}
