"""Operators whose results have sizes that are computed while the model runs.

Each has one kernel for a row of sizes, which give the result's dimensions their values, and one for the result. Behind
the sizes stand faults, such as a shape with another number of elements: they must all be 0.
"""

from collections.abc import Sequence

from tvm import relax, te, tirx

from ....ir.dims import Dim
from ....ir.graph import Node, Value
from ..kernels.vectors import Scalar
from .broadcasting import spread
from .emitter import Emitter, shape_of, type_of
from .expressions import choose, counted, elements, integer, product, row, same, total


def reshape(emitter: Emitter, node: Node) -> relax.Expr:
    x, wanted = emitter.tensors(node)
    keeps = not node.attributes.get("allowzero", 0)

    def shape(x: te.Tensor, wanted: te.Tensor) -> te.Tensor:
        sizes = elements(wanted)
        if keeps:
            old = [*x.shape, *[integer(0)] * len(sizes)]
            sizes = [choose(same(size, 0), old[axis], size) for axis, size in enumerate(sizes)]
        known = product(choose(size < 0, integer(1), size) for size in sizes)
        sizes = [choose(size < 0, tirx.floordiv(product(x.shape), tirx.max(known, integer(1))), size) for size in sizes]
        return row([*sizes, product(sizes) - product(x.shape)])

    return emitter.reshaped(x, emitter.computed(emitter.kernel(shape, x, wanted), node.output.shape))


def expand(emitter: Emitter, node: Node) -> relax.Expr:
    x, wanted = emitter.tensors(node)

    def shape(x: te.Tensor, wanted: te.Tensor) -> te.Tensor:
        asked = elements(wanted)
        rank = max(len(asked), len(x.shape))
        have = [integer(1)] * (rank - len(x.shape)) + list(x.shape)
        want = [integer(1)] * (rank - len(asked)) + asked
        pairs = list(zip(have, want, strict=True))
        fits = [tirx.any(same(old, new), same(old, 1), same(new, 1)) for old, new in pairs]
        faults = total(choose(fit, integer(0), integer(1)) for fit in fits)
        return row([*(choose(same(new, 1), old, new) for old, new in pairs), faults])

    dims = emitter.computed(emitter.kernel(shape, x, wanted), node.output.shape)
    return emitter.kernel(spread, x, shape=dims)


def constant_of_shape(emitter: Emitter, node: Node, value: relax.Expr) -> relax.Expr:
    (wanted,) = emitter.tensors(node)
    shape = emitter.computed(emitter.kernel(lambda wanted: row(elements(wanted)), wanted), node.output.shape)
    return relax.op.full(shape, value, type_of(value).dtype)


def unsqueeze(emitter: Emitter, node: Node) -> relax.Expr:
    x, axes = emitter.tensors(node)
    rank = node.output.type.rank

    def shape(x: te.Tensor, axes: te.Tensor) -> te.Tensor:
        sizes: list[tirx.Expr] = []
        passed = integer(0)
        for axis in range(rank):
            is_new = _contains(axes, axis, rank)
            sizes.append(choose(is_new, integer(1), _size_at(x, axis - passed)))
            passed = passed + choose(is_new, integer(1), integer(0))
        return row(sizes)

    return emitter.reshaped(x, emitter.computed(emitter.kernel(shape, x, axes), node.output.shape))


def squeeze(emitter: Emitter, node: Node) -> relax.Expr:
    x, axes = emitter.tensors(node)
    return squeezed(emitter, x, axes, node.output.shape)


def squeezed(emitter: Emitter, x: relax.Expr, axes: relax.Expr, dims: Sequence[Dim]) -> relax.Expr:
    """Squeeze axes that only data tells; `dims` are the dimensions that are left."""
    rank, left = len(shape_of(x)), len(dims)

    def shape(x: te.Tensor, axes: te.Tensor) -> te.Tensor:
        gone = elements(row([choose(_contains(axes, axis, rank), integer(1), integer(0)) for axis in range(rank)]))
        sizes: list[tirx.Expr] = []
        for place in range(left):
            size, before = integer(1), integer(0)
            for axis in range(rank):
                is_here = tirx.all(same(gone[axis], 0), same(before, place))
                size = choose(is_here, x.shape[axis], size)
                before = before + 1 - gone[axis]
            sizes.append(size)
        return row([*sizes, product(sizes) - product(x.shape)])

    return emitter.reshaped(x, emitter.computed(emitter.kernel(shape, x, axes), dims))


def _contains(axes: te.Tensor, axis: int, rank: int) -> tirx.Expr:
    found = elements(axes)
    return tirx.any(tirx.const(False, "bool"), *(same(counted(other, integer(rank)), integer(axis)) for other in found))


def _size_at(x: te.Tensor, axis: Scalar) -> tirx.Expr:
    size = integer(1)
    for index, other in enumerate(x.shape):
        size = choose(same(axis, index), other, size)
    return size


def slice_(emitter: Emitter, node: Node) -> relax.Expr:
    """Slice by a begin, a count and a step for each axis, from whichever entry of the rows names the axis."""
    x = emitter.tensor(node.operand(0))
    rows = [None if value is None else emitter.tensor(value) for value in node.inputs[1:]]
    given = [row for row in rows if row is not None]
    presence = [row is not None for row in (*rows, *[None] * (4 - len(rows)))]

    def bounds(x: te.Tensor, *given: te.Tensor) -> te.Tensor:
        rest = iter(given)
        starts, ends, axes, steps = (elements(next(rest)) if present else None for present in presence)
        assert starts is not None
        assert ends is not None
        rank = len(x.shape)
        axes = axes or [integer(axis) for axis in range(len(starts))]
        steps = steps or [integer(1)] * len(starts)
        found: list[tuple[tirx.Expr, tirx.Expr, tirx.Expr]] = []
        for axis, size in enumerate(x.shape):
            begin, count, stride = integer(0), size, integer(1)
            for start, end, named, step in zip(starts, ends, axes, steps, strict=True):
                is_meant = same(counted(named, integer(rank)), integer(axis))
                other = _bound(start, end, step, size)
                pairs = zip(other, (begin, count, stride), strict=True)
                begin, count, stride = (choose(is_meant, new, old) for new, old in pairs)
            found.append((begin, count, stride))
        return row([*(count for _, count, _ in found), *(part for begin, _, step in found for part in (begin, step))])

    rank = len(shape_of(x))
    found = emitter.block.emit(emitter.kernel(bounds, x, *given))
    sizes = relax.op.strided_slice(found, [0], [0], [rank])
    shape = emitter.computed(sizes, node.output.shape)

    def cut(x: te.Tensor, found: te.Tensor, *, shape: Sequence[Scalar]) -> te.Tensor:
        def element(*place: tirx.Expr) -> tirx.Expr:
            return x(*(found[rank + 2 * axis] + index * found[rank + 2 * axis + 1] for axis, index in enumerate(place)))

        return te.compute(shape, element, name="cut")

    return emitter.kernel(cut, x, found, shape=shape)


def _bound(
    start: tirx.Expr, end: tirx.Expr, step: tirx.Expr, size: tirx.Expr
) -> tuple[tirx.Expr, tirx.Expr, tirx.Expr]:
    """Return begin, count and step of a slice as ONNX has it: bounds may count from the end, and are clipped."""
    start, end = (choose(bound < 0, bound + size, bound) for bound in (start, end))
    is_forward, last = step > 0, size - 1
    begin = choose(is_forward, _between(start, integer(0), size), _between(start, integer(0), last))
    stop = choose(is_forward, _between(end, integer(0), size), _between(end, integer(-1), last))
    span = choose(is_forward, stop - begin, begin - stop)
    stride = tirx.max(choose(is_forward, step, -step), integer(1))
    return begin, tirx.max(tirx.floordiv(span + stride - 1, stride), integer(0)), step


def _between(value: tirx.Expr, low: tirx.Expr, high: tirx.Expr) -> tirx.Expr:
    return tirx.max(tirx.min(value, high), low)


_SANE = 1 << 40
"""The most elements that may be counted: the bytes of many more overflow, so that too few would be allocated."""


def range_(emitter: Emitter, node: Node) -> relax.Expr:
    bounds = emitter.tensors(node)
    dtype = node.output.dtype
    wide = "float64" if dtype.is_float else "int64"

    def length(start: te.Tensor, limit: te.Tensor, delta: te.Tensor) -> te.Tensor:
        first, beyond, step = (bound(*[0] * len(bound.shape)).astype(wide) for bound in (start, limit, delta))
        if dtype.is_float:
            steps = tirx.ceil((beyond - first) / step)
            count, is_wrong = steps.astype("int64"), tirx.Not(tirx.isfinite(steps))
        else:
            (_, count, _), is_wrong = _stepped(first, beyond, step), same(step, 0)
        count = tirx.max(choose(is_wrong, integer(0), count), integer(0))
        return row([count, choose(tirx.any(is_wrong, count > _SANE), integer(1), integer(0))])

    shape = emitter.computed(emitter.kernel(length, *bounds), node.output.shape)

    def count(start: te.Tensor, delta: te.Tensor, *, shape: Sequence[Scalar]) -> te.Tensor:
        first, step = (bound(*[0] * len(bound.shape)).astype(wide) for bound in (start, delta))
        return te.compute(shape, lambda index: (first + index.astype(wide) * step).astype(str(dtype)), name="range")

    return emitter.kernel(count, bounds[0], bounds[2], shape=shape)


def _stepped(first: tirx.Expr, beyond: tirx.Expr, step: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr, tirx.Expr]:
    is_forward = step > 0
    span = choose(is_forward, beyond - first, first - beyond)
    stride = tirx.max(choose(is_forward, step, -step), integer(1))
    return first, tirx.floordiv(span + stride - 1, stride), step


def tile(emitter: Emitter, node: Node) -> relax.Expr:
    """Tile each axis at places that are computed separately; `_tile` in converters/shape.py says why."""
    x, repeats = emitter.tensors(node)

    def shape(x: te.Tensor, repeats: te.Tensor) -> te.Tensor:
        return row([size * count for size, count in zip(x.shape, elements(repeats), strict=True)])

    dims = emitter.computed(emitter.kernel(shape, x, repeats), node.output.shape)
    for axis, (wanted, size) in enumerate(zip(dims.values, shape_of(x).values, strict=True)):
        places = relax.op.arange(0, relax.prim_value(wanted), 1, "int64")
        x = relax.op.take(x, emitter.kernel(_modulo, places, size=size), axis, mode="clip")
        x = emitter.block.emit(x)
    return x


def _modulo(places: te.Tensor, *, size: Scalar) -> te.Tensor:
    return te.compute(
        places.shape, lambda index: tirx.floormod(places(index), tirx.max(size, integer(1))), name="modulo"
    )


def split(emitter: Emitter, node: Node) -> relax.Expr:
    x, sizes = emitter.tensors(node)
    axis = node.attributes.get("axis", 0) % len(shape_of(x))

    def bounds(x: te.Tensor, sizes: te.Tensor) -> te.Tensor:
        found = elements(sizes)
        return row([*found, total(found) - x.shape[axis]])

    dims = [output.shape[axis] for output in node.outputs]
    shape = emitter.computed(emitter.kernel(bounds, x, sizes), dims)

    def piece(x: te.Tensor, sizes: te.Tensor, *, number: int, size: Scalar) -> te.Tensor:
        begin = total(elements(sizes)[:number])
        wanted = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
        return te.compute(
            wanted, lambda *place: x(*place[:axis], begin + place[axis], *place[axis + 1 :]), name="piece"
        )

    pieces = enumerate(shape.values)
    return relax.Tuple([emitter.kernel(piece, x, sizes, number=number, size=size) for number, size in pieces])


def first(emitter: Emitter, x: relax.Expr, count: Value, axis: int, dim: Dim) -> relax.Expr:
    """Return as many elements along an axis as a tensor says."""

    def size(x: te.Tensor, count: te.Tensor) -> te.Tensor:
        wanted = elements(count)[0]
        return row([wanted, tirx.max(wanted - x.shape[axis], integer(0))])

    (wanted,) = emitter.computed(emitter.kernel(size, x, emitter.tensor(count)), [dim]).values
    shape = list(shape_of(x).values)
    shape[axis] = wanted
    return emitter.kernel(cut_to, x, shape=shape)


def cut_to(x: te.Tensor, *, shape: Sequence[Scalar]) -> te.Tensor:
    """Compute the first elements along each axis."""
    return te.compute(shape, x, name="cut_to")
