"""Regions of images: RoiAlign samples between pixels, MaxRoiPool takes maxima.

TVM's own RoiAlign scales a region after moving it by half a pixel instead of before, and samples regions that are
reversed, in which there is nothing to sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from tvm import relax, te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .....ir.graph import Node
from ..emitter import Emitter, shape_of
from ..expressions import BufferProxy, choose, counted, integer, same
from .reduce import larger


def roi_align(emitter: Emitter, node: Node) -> relax.Expr:
    """Lower RoiAlign: a cell is the mean of its samples, or the greatest of the weighted pixels around them."""
    return emitter.kernel(partial(_aligned, node=node), *emitter.tensors(node))


def _aligned(x: te.Tensor, rois: te.Tensor, batch: te.Tensor, *, node: Node) -> te.Tensor:
    cells = [node.attributes.get(name, 1) for name in ("output_height", "output_width")]
    takes_maxima = node.attributes.get("mode", "avg") == "max"
    shape = [rois.shape[0], x.shape[1], *cells]

    def body(ins: Sequence[tirx.Buffer], outs: Sequence[tirx.Buffer]) -> tirx.Stmt:
        pixels, corners, images, y = (T.buffer_proxy(buffer) for buffer in (*ins, *outs))
        with IRBuilder() as builder:
            with T.parallel(0, shape[0]) as region:
                lines = [_Line.of(node, corners, region, axis, cells[axis], x.shape[2 + axis]) for axis in range(2)]
                image = counted(images[region].astype("int64"), x.shape[0])
                with T.serial(0, shape[1]) as channel, T.serial(0, cells[0]) as row, T.serial(0, cells[1]) as column:
                    cell = (region, channel, row, column)
                    _fill(y, cell, lines, lambda *at: pixels[(image, channel, *at)], takes_maxima)
            return builder.get()

    out = tirx.decl_buffer(shape, x.dtype, "cells", layout=None)
    return te.extern([shape], [x, rois, batch], body, dtype=x.dtype, out_buffers=[out], name="roi_align")


def max_roi_pool(emitter: Emitter, node: Node) -> relax.Expr:
    """Lower MaxRoiPool to TVM's operator, with the numbers of images clipped to those that there are."""
    x, rois = emitter.tensors(node)

    def known(rois: te.Tensor, *, count: tirx.Expr) -> te.Tensor:
        last = (count - 1).astype(rois.dtype)

        def element(region: tirx.Expr, place: tirx.Expr) -> tirx.Expr:
            number = rois(region, place)
            image = tirx.min(tirx.max(number, tirx.const(0, rois.dtype)), last)
            return choose(same(place, 0), image, number)

        return te.compute(rois.shape, element, name="known")

    rois = emitter.block.emit(emitter.kernel(known, rois, count=shape_of(x)[0]))
    size, scale = node.attributes["pooled_shape"], node.attributes.get("spatial_scale", 1.0)
    return relax.op.vision.roi_pool(x, rois, list(size), scale)


@dataclass(frozen=True, slots=True)
class _Line:
    """The samples of a region along an axis: where they start, how far apart they are, and how many a cell has."""

    first: tirx.Expr
    step: tirx.Expr
    count: tirx.Expr
    size: tirx.Expr

    @classmethod
    def of(cls, node: Node, corners: BufferProxy, region: tirx.Expr, axis: int, cells: int, size: tirx.Expr) -> "_Line":
        get = node.attributes.get
        low, high = (corners[region, place] for place in (1 - axis, 3 - axis))  # of x before y
        number = partial(tirx.const, dtype=low.ty.dtype)
        scale, is_half = (
            number(get("spatial_scale", 1.0)),
            get("coordinate_transformation_mode", "half_pixel") == "half_pixel",
        )
        first, last = (corner * scale - number(0.5 if is_half else 0.0) for corner in (low, high))
        extent = last - first if is_half else tirx.max(last - first, number(1.0))
        share, ratio = extent / number(float(cells)), get("sampling_ratio", 0)
        count = integer(ratio) if ratio else tirx.max(tirx.ceil(share).astype("int64"), integer(0))
        return cls(first, share / tirx.max(count, integer(1)).astype(low.ty.dtype), count, size)

    def taps(self, cell: tirx.Expr, sample: tirx.Expr) -> list[tuple[tirx.Expr, tirx.Expr]]:
        """Return the two pixels around a sample with their weights, which are 0 outside of the image."""
        dtype = self.first.ty.dtype
        number = partial(tirx.const, dtype=dtype)
        at = ((cell * self.count + sample).astype(dtype) + number(0.5)) * self.step + self.first
        last = self.size - 1
        inside = choose(tirx.all(at >= number(-1.0), at <= self.size.astype(dtype)), number(1.0), number(0.0))
        at = tirx.max(tirx.min(at, last.astype(dtype)), number(0.0))
        low = tirx.floor(at)
        share, pixel = at - low, low.astype("int64")
        return [(pixel, (number(1.0) - share) * inside), (tirx.min(pixel + 1, last), share * inside)]


def _fill(
    y: BufferProxy,
    cell: Sequence[tirx.Expr],
    lines: Sequence[_Line],
    pixel: Callable[..., tirx.Expr],
    takes_maxima: bool,
) -> None:
    """Write a cell, sample by sample."""
    dtype = y[tuple(cell)].ty.dtype
    nought, place = tirx.const(0, dtype), tuple(cell)
    with T.seq_scope():
        y[place] = tirx.const(float("-inf"), dtype) if takes_maxima else nought
        with T.serial(0, lines[0].count) as row, T.serial(0, lines[1].count) as column, T.seq_scope():
            samples = (row, column)
            taps = [
                line.taps(at.astype("int64"), sample) for line, at, sample in zip(lines, cell[2:], samples, strict=True)
            ]
            for (high, weight), (low, other) in product(*taps):
                value = pixel(high, low) * weight.astype(dtype) * other.astype(dtype)
                y[place] = larger(y[place], value) if takes_maxima else y[place] + value
        count = lines[0].count * lines[1].count
        total = y[place] if takes_maxima else y[place] / tirx.max(count, integer(1)).astype(dtype)
        y[place] = choose(count > 0, total, nought)


CONVERTERS = {"MaxRoiPool": max_roi_pool, "RoiAlign": roi_align}
