"""Pools over sliding windows, of any rank and padding, whose sizes may be symbolic.

TVM's own lose infinities and NaN among maxima, pad for as many results as there are inputs by rules of their own, and
count taps beyond the padding in powers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tvm import relax, te, tirx
from tvm.ir import PrimType

from .....ir.graph import Node
from ...kernels.vectors import Scalar
from ..emitter import Converter, Emitter
from ..expressions import choose, integer, only_if
from ..importer import imported
from .reduce import larger

Kernel = Callable[[te.Tensor, Sequence[Scalar], "_Window"], te.Tensor | Sequence[te.Tensor]]
"""A function from the input, the shape of the result and a window to the result."""


@dataclass(frozen=True, slots=True)
class _Window:
    """A node's window: a number for each spatial axis; the padding in front and behind as expressions."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: Sequence[tirx.Expr] = ()
    ends: Sequence[tirx.Expr] = ()

    @classmethod
    def of(cls, node: Node, begins: Sequence[tirx.Expr] = (), ends: Sequence[tirx.Expr] = ()) -> "_Window":
        kernel = node.attributes["kernel_shape"]
        ones = (1,) * len(kernel)
        strides, dilations = (node.attributes.get(name, ones) for name in ("strides", "dilations"))
        return cls(kernel, strides, dilations, begins, ends)

    @property
    def axes(self) -> range:
        return range(len(self.kernel))

    def taps(self) -> list[tirx.IterVar]:
        return [te.reduce_axis((0, size), f"tap{axis}") for axis, size in enumerate(self.kernel)]

    def source(self, axis: int, place: tirx.Expr, tap: tirx.Expr) -> tirx.Expr:
        """Return where a tap of the window for a place of the result lies along an axis of the input."""
        return place.astype("int64") * self.strides[axis] + tap * self.dilations[axis] - self.begins[axis]

    def padded(self, x: te.Tensor, counts: Sequence[Scalar], fill: tirx.Expr) -> te.Tensor:
        """Return the input with as much padding as the windows reach into."""
        sizes = [
            (count - 1) * stride + (taps - 1) * gap + 1
            for count, stride, taps, gap in zip(counts, self.strides, self.kernel, self.dilations, strict=True)
        ]

        def element(*place: tirx.Expr) -> tirx.Expr:
            at = [index.astype("int64") - begin for index, begin in zip(place[2:], self.begins, strict=True)]
            return only_if(_is_inside(at, x), x(*place[:2], *at), fill)

        return te.compute([*x.shape[:2], *sizes], element, name="padded")

    def at(self, place: Sequence[tirx.Expr], taps: Sequence[tirx.IterVar]) -> list[tirx.Expr]:
        """Return where the taps of a window lie in the padded input."""
        steps = zip(place[2:], self.strides, taps, self.dilations, strict=True)
        return [*place[:2], *(index * stride + tap * gap for index, stride, tap, gap in steps)]


def _is_inside(at: Sequence[tirx.Expr], x: te.Tensor) -> tirx.Expr:
    return tirx.all(*(tirx.all(place >= 0, place < size) for place, size in zip(at, x.shape[2:], strict=True)))


def max_pool(emitter: Emitter, node: Node) -> relax.Expr:
    """Lower MaxPool, perhaps with the positions of the maxima: the first of equal ones, and never padding."""
    if len(node.outputs) == 1:
        return _pooled(emitter, node, _maxima)
    found = emitter.block.emit(_pooled(emitter, node, partial(_positions, node=node)))
    return relax.Tuple([emitter.block.emit(relax.TupleGetItem(found, index)) for index in range(2)])


def average_pool(emitter: Emitter, node: Node) -> relax.Expr:
    if not node.attributes.get("auto_pad", "NOTSET").startswith("SAME"):
        return imported(emitter, node)
    return _pooled(emitter, node, partial(_means, counts_padding=bool(node.attributes.get("count_include_pad", 0))))


def lp_pool(emitter: Emitter, node: Node) -> relax.Expr:
    return _pooled(emitter, node, partial(_norms, power=node.attributes.get("p", 2)))


def _pooled(emitter: Emitter, node: Node, kernel: Kernel) -> relax.Expr:
    value = node.operand(0)
    begins, ends = _padding(node, [emitter.size(size) for size in value.shape[2:]])

    def pool(
        x: te.Tensor, *, shape: Sequence[Scalar], begins: Sequence[tirx.Expr], ends: Sequence[tirx.Expr]
    ) -> te.Tensor | Sequence[te.Tensor]:
        return kernel(x, shape, _Window.of(node, begins, ends))

    shape = emitter.shape(node.outputs[0].shape)
    return emitter.kernel(pool, emitter.tensor(value), shape=shape, begins=begins, ends=ends)


def _padding(node: Node, sizes: Sequence[Scalar]) -> tuple[list[tirx.Expr], list[tirx.Expr]]:
    """Return the padding in front of and behind each spatial axis, as the attributes have it."""
    window, mode = _Window.of(node), node.attributes.get("auto_pad", "NOTSET")
    if not mode.startswith("SAME"):
        rank = len(window.kernel)
        pads = node.attributes.get("pads", (0,) * 2 * rank) if mode == "NOTSET" else (0,) * 2 * rank
        return [integer(pad) for pad in pads[:rank]], [integer(pad) for pad in pads[rank:]]
    begins: list[tirx.Expr] = []
    ends: list[tirx.Expr] = []
    for size, taps, stride, gap in zip(sizes, window.kernel, window.strides, window.dilations, strict=True):
        have = integer(size) if isinstance(size, int) else size
        reach = tirx.floordiv(have - 1, integer(stride)) * stride + (taps - 1) * gap + 1
        missing = tirx.max(reach - have, integer(0))
        begins.append(tirx.floordiv(missing + (mode == "SAME_LOWER"), integer(2)))
        ends.append(missing - begins[-1])
    return begins, ends


def _maxima(x: te.Tensor, shape: Sequence[Scalar], window: _Window) -> te.Tensor:
    taps = window.taps()
    padded = window.padded(x, shape[2:], _lowest(x.dtype))
    combine = te.comm_reducer(larger, _lowest)
    return te.compute(shape, lambda *place: combine(padded(*window.at(place, taps)), axis=taps), name="max_pool")


def _lowest(dtype: str | PrimType) -> tirx.Expr:
    return tirx.const(float("-inf"), dtype) if "float" in str(dtype) else tirx.min_value(dtype)


def _positions(x: te.Tensor, shape: Sequence[Scalar], window: _Window, *, node: Node) -> Sequence[te.Tensor]:
    """Compute the maxima, and their places in the whole flat input."""
    taps = window.taps()
    order = window.axes if not node.attributes.get("storage_order", 0) else reversed(window.axes)
    axes = list(order)

    def element(*place: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        at = [window.source(axis, place[2 + axis], taps[axis].var) for axis in window.axes]
        is_inside = _is_inside(at, x)
        flat = place[0].astype("int64") * x.shape[1] + place[1]
        for axis in axes:
            flat = flat * x.shape[2 + axis] + at[axis]
        value = only_if(is_inside, x(*place[:2], *at), _lowest(x.dtype))
        return _FIRST_GREATEST((choose(is_inside, flat.astype("int64"), integer(-1)), value), axis=taps)

    positions, maxima = te.compute(shape, element, name="max_pool")
    return [maxima, positions]


def _combine(a: Sequence[tirx.Expr], b: Sequence[tirx.Expr]) -> tuple[tirx.Expr, tirx.Expr]:
    """Return the pair of position and value with the greater value, or else the first one; padding loses to all."""
    (one, left), (other, right) = a, b
    is_float = str(left.ty.dtype).startswith("float")
    is_nan, is_other_nan = (tirx.isnan(x) if is_float else tirx.const(False, "bool") for x in (left, right))
    comes_first = tirx.all(tirx.EQ(left, right), one < other)
    wins = tirx.any(is_nan, tirx.all(tirx.Not(is_other_nan), tirx.any(left > right, comes_first)))
    keeps = tirx.any(other < 0, tirx.all(one >= 0, wins))
    return choose(keeps, one, other), choose(keeps, left, right)


def _nothing(position: str, value: str) -> tuple[tirx.Expr, tirx.Expr]:
    return tirx.const(-1, position), _lowest(value)


_FIRST_GREATEST = te.comm_reducer(_combine, _nothing)


def _means(x: te.Tensor, shape: Sequence[Scalar], window: _Window, *, counts_padding: bool) -> te.Tensor:
    """Compute sums over windows, divided by how many of their taps count."""
    taps = window.taps()
    padded = window.padded(x, shape[2:], tirx.const(0, x.dtype))
    total = te.compute(shape, lambda *place: te.sum(padded(*window.at(place, taps)), axis=taps), name="total")

    def counted(axis: int) -> te.Tensor:
        tap = te.reduce_axis((0, window.kernel[axis]), "tap")
        low = -window.begins[axis] if counts_padding else integer(0)
        high = x.shape[2 + axis] + (window.ends[axis] if counts_padding else 0)

        def count(place: tirx.Expr) -> tirx.Expr:
            at = window.source(axis, place, tap.var)
            return te.sum(tirx.all(at >= low, at < high).astype(x.dtype), axis=[tap])

        return te.compute((shape[2 + axis],), count, name="count")

    counts = [counted(axis) for axis in window.axes]

    def mean(*place: tirx.Expr) -> tirx.Expr:
        share = total(*place)
        for axis in window.axes:
            share = share / counts[axis](place[2 + axis])
        return share

    return te.compute(shape, mean, name="average_pool")


def _norms(x: te.Tensor, shape: Sequence[Scalar], window: _Window, *, power: int) -> te.Tensor:
    taps = window.taps()
    padded = window.padded(x, shape[2:], tirx.const(0, x.dtype))

    exponent = tirx.const(power, x.dtype)

    def raised(*place: tirx.Expr) -> tirx.Expr:
        value = padded(*window.at(place, taps))
        return te.sum(value * value if power == 2 else tirx.power(tirx.abs(value), exponent), axis=taps)

    total = te.compute(shape, raised, name="total")
    root = tirx.const(1 / power, x.dtype)
    return te.compute(shape, lambda *place: tirx.power(total(*place), root), name="lp_pool")


def local_response_normalization(emitter: Emitter, node: Node) -> relax.Expr:
    """Lower LRN, which divides each element by the energy of its neighbours in other channels."""
    value = node.operand(0)
    size = node.attributes["size"]
    alpha, beta, bias = (node.attributes.get(name, default) for name, default in _RESPONSE)

    def normalize(x: te.Tensor) -> te.Tensor:
        near = te.reduce_axis((0, size), "near")

        def energy(*place: tirx.Expr) -> tirx.Expr:
            at = place[1].astype("int64") + near.var - (size - 1) // 2
            is_inside = tirx.all(at >= 0, at < x.shape[1])
            neighbour = only_if(is_inside, x(place[0], at, *place[2:]), tirx.const(0, x.dtype))
            return te.sum(neighbour * neighbour, axis=[near])

        total = te.compute(x.shape, energy, name="energy")
        share, exponent, offset = (tirx.const(number, x.dtype) for number in (alpha / size, beta, bias))

        def element(*place: tirx.Expr) -> tirx.Expr:
            return x(*place) / tirx.power(offset + share * total(*place), exponent)

        return te.compute(x.shape, element, name="normalize")

    return emitter.kernel(normalize, emitter.tensor(value))


_RESPONSE = (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))

CONVERTERS: dict[str, Converter] = {
    "LRN": local_response_normalization,
    "LpPool": lp_pool,
}
