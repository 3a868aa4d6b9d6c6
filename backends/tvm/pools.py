# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none, reportOperatorIssue=none
"""Pools over sliding windows, of any rank and padding, whose sizes may be symbolic."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tvm import relax, te, tirx

from ...ir.graph import Node
from .expressions import choose, integer, only_if

if TYPE_CHECKING:
    from .lowering import Lowering


@dataclass(frozen=True, slots=True)
class _Window:
    """A node's window: a number for each spatial axis; the padding in front and behind as expressions."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    gaps: tuple[int, ...]
    begins: Sequence[Any] = ()
    ends: Sequence[Any] = ()

    @classmethod
    def of(cls, node: Node, begins: Sequence[Any] = (), ends: Sequence[Any] = ()) -> "_Window":
        kernel = node.attributes["kernel_shape"]
        ones = (1,) * len(kernel)
        strides, gaps = (node.attributes.get(name, ones) for name in ("strides", "dilations"))
        return cls(kernel, strides, gaps, begins, ends)

    def taps(self) -> list[Any]:
        return [te.reduce_axis((0, size), f"tap{axis}") for axis, size in enumerate(self.kernel)]

    def start(self, axis: int, place: Any) -> Any:
        """Where the window of a place of the result starts in the input."""
        return place.astype("int64") * self.strides[axis] - self.begins[axis]

    def padded(self, x: te.Tensor, counts: Sequence[Any], fill: Any) -> te.Tensor:
        """The input with as much padding as the windows reach into."""
        rank = len(self.kernel)
        sizes = [
            (counts[axis] - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.gaps[axis] + 1
            for axis in range(rank)
        ]

        def element(*place: Any) -> Any:
            at = [index.astype("int64") - begin for index, begin in zip(place[2:], self.begins, strict=True)]
            is_inside = tirx.all(*(tirx.all(a >= 0, a < size) for a, size in zip(at, x.shape[2:], strict=True)))
            return only_if(is_inside, x(*place[:2], *at), fill)

        return te.compute([*x.shape[:2], *sizes], element, name="padded")

    def at(self, place: Sequence[Any], taps: Sequence[Any]) -> list[Any]:
        """Where the taps of a window lie in the padded input."""
        steps = zip(place[2:], self.strides, taps, self.gaps, strict=True)
        return [*place[:2], *(index * stride + tap * gap for index, stride, tap, gap in steps)]


def max_pool(lowering: "Lowering", node: Node) -> Any:
    """Perhaps with the positions of the maxima, the first of equal ones; padding is never one."""
    if len(node.outputs) == 1:
        return _pooled(lowering, node, _maxima)
    found = lowering.block.emit(_pooled(lowering, node, partial(_positions, node=node)))
    return relax.Tuple([lowering.block.emit(relax.TupleGetItem(found, index)) for index in range(2)])


def average_pool(lowering: "Lowering", node: Node) -> Any:
    return _pooled(lowering, node, partial(_means, counts_padding=bool(node.attributes.get("count_include_pad", 0))))


def lp_pool(lowering: "Lowering", node: Node) -> Any:
    return _pooled(lowering, node, partial(_norms, power=node.attributes.get("p", 2)))


def _pooled(lowering: "Lowering", node: Node, kernel: Callable[..., Any]) -> Any:
    value = node.inputs[0]
    assert value is not None
    begins, ends = _padding(lowering, node, value.shape[2:])

    def pool(x: te.Tensor, *, shape: Sequence[Any], begins: Sequence[Any], ends: Sequence[Any]) -> Any:
        return kernel(x, shape, _Window.of(node, begins, ends))

    shape = lowering.shape(node.outputs[0].shape)
    return lowering.kernel(pool, lowering.tensor(value), shape=shape, begins=begins, ends=ends)


def _maxima(x: te.Tensor, shape: Sequence[Any], window: _Window) -> Any:
    taps = window.taps()
    padded = window.padded(x, shape[2:], _lowest(x.dtype))
    larger = te.comm_reducer(tirx.max, _lowest)
    return te.compute(shape, lambda *place: larger(padded(*window.at(place, taps)), axis=taps), name="max_pool")


def _lowest(dtype: Any) -> Any:
    return tirx.const(float("-inf"), dtype) if "float" in str(dtype) else tirx.min_value(dtype)


def _positions(x: te.Tensor, shape: Sequence[Any], window: _Window, *, node: Node) -> Any:
    """The maxima, and their places in the whole flat input."""
    taps, rank = window.taps(), len(window.kernel)
    order = list(range(rank))[:: -1 if node.attributes.get("storage_order", 0) else 1]

    def element(*place: Any) -> Any:
        at = [window.start(axis, place[2 + axis]) + taps[axis].var * window.gaps[axis] for axis in range(rank)]
        is_inside = tirx.all(*(tirx.all(a >= 0, a < size) for a, size in zip(at, x.shape[2:], strict=True)))
        flat = place[0].astype("int64") * x.shape[1] + place[1]
        for axis in order:
            flat = flat * x.shape[2 + axis] + at[axis]
        value = only_if(is_inside, x(*place[:2], *at), _lowest(x.dtype))
        return _FIRST_GREATEST((choose(is_inside, flat.astype("int64"), integer(-1)), value), axis=taps)

    positions, maxima = te.compute(shape, element, name="max_pool")
    return [maxima, positions]


def _combine(a: Any, b: Any) -> tuple[Any, Any]:
    """Of two pairs of position and value the greater one, or the one that comes first; padding comes last."""
    (one, left), (other, right) = a, b
    is_float = str(left.ty.dtype).startswith("float")
    is_nan, is_other_nan = (tirx.isnan(x) if is_float else tirx.const(False, "bool") for x in (left, right))
    comes_first = tirx.all(tirx.EQ(left, right), one < other)
    wins = tirx.any(is_nan, tirx.all(tirx.Not(is_other_nan), tirx.any(left > right, comes_first)))
    keeps = tirx.any(other < 0, tirx.all(one >= 0, wins))
    return choose(keeps, one, other), choose(keeps, left, right)


def _nothing(position: str, value: str) -> tuple[Any, Any]:
    return tirx.const(-1, position), _lowest(value)


_FIRST_GREATEST = te.comm_reducer(_combine, _nothing)


def _means(x: te.Tensor, shape: Sequence[Any], window: _Window, *, counts_padding: bool) -> Any:
    """Sums over windows, divided by how many of their taps count."""
    taps, rank = window.taps(), len(window.kernel)
    padded = window.padded(x, shape[2:], tirx.const(0, x.dtype))
    total = te.compute(shape, lambda *place: te.sum(padded(*window.at(place, taps)), axis=taps), name="total")

    def counted(axis: int) -> te.Tensor:
        tap = te.reduce_axis((0, window.kernel[axis]), "tap")
        low = -window.begins[axis] if counts_padding else integer(0)
        high = x.shape[2 + axis] + (window.ends[axis] if counts_padding else 0)

        def count(place: Any) -> Any:
            at = window.start(axis, place) + tap.var * window.gaps[axis]
            return te.sum(tirx.all(at >= low, at < high).astype(x.dtype), axis=[tap])

        return te.compute((shape[2 + axis],), count, name="count")

    counts = [counted(axis) for axis in range(rank)]

    def mean(*place: Any) -> Any:
        share = total(*place)
        for axis in range(rank):
            share = share / counts[axis](place[2 + axis])
        return share

    return te.compute(shape, mean, name="average_pool")


def _norms(x: te.Tensor, shape: Sequence[Any], window: _Window, *, power: int) -> Any:
    taps = window.taps()
    padded = window.padded(x, shape[2:], tirx.const(0, x.dtype))

    def raised(value: Any) -> Any:
        size = tirx.abs(value)
        return {1: size, 2: size * size}.get(power) or tirx.power(size, tirx.const(power, x.dtype))

    total = te.compute(shape, lambda *place: te.sum(raised(padded(*window.at(place, taps))), axis=taps), name="total")
    root = tirx.const(1 / power, x.dtype)
    return te.compute(shape, lambda *place: tirx.power(total(*place), root), name="lp_pool")


def _padding(lowering: "Lowering", node: Node, sizes: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The padding in front of and behind each spatial axis, as the attributes have it."""
    window, mode = _Window.of(node), node.attributes.get("auto_pad", "NOTSET")
    rank = len(window.kernel)
    if not mode.startswith("SAME"):
        pads = node.attributes.get("pads", (0,) * 2 * rank) if mode == "NOTSET" else (0,) * 2 * rank
        return [integer(pad) for pad in pads[:rank]], [integer(pad) for pad in pads[rank:]]
    begins: list[Any] = []
    ends: list[Any] = []
    for size, taps, stride, gap in zip(sizes, window.kernel, window.strides, window.gaps, strict=True):
        have = lowering.size(size)
        have = integer(have) if isinstance(have, int) else have
        reach = tirx.floordiv(have - 1, integer(stride)) * stride + (taps - 1) * gap + 1
        missing = tirx.max(reach - have, integer(0))
        begins.append(tirx.floordiv(missing + (mode == "SAME_LOWER"), integer(2)))
        ends.append(missing - begins[-1])
    return begins, ends


def local_response_normalization(lowering: "Lowering", node: Node) -> Any:
    """Each element by the energy of its neighbours in other channels."""
    value = node.inputs[0]
    assert value is not None
    size = node.attributes["size"]
    alpha, beta, bias = (node.attributes.get(name, default) for name, default in _RESPONSE)

    def normalize(x: te.Tensor) -> Any:
        near = te.reduce_axis((0, size), "near")

        def energy(*place: Any) -> Any:
            at = place[1].astype("int64") + near.var - (size - 1) // 2
            neighbour = only_if(tirx.all(at >= 0, at < x.shape[1]), x(place[0], at, *place[2:]), tirx.const(0, x.dtype))
            return te.sum(neighbour * neighbour, axis=[near])

        total = te.compute(x.shape, energy, name="energy")
        share, exponent, offset = (tirx.const(number, x.dtype) for number in (alpha / size, beta, bias))
        return te.compute(
            x.shape, lambda *place: x(*place) / tirx.power(offset + share * total(*place), exponent), name="lrn"
        )

    return lowering.kernel(normalize, lowering.tensor(value))


_RESPONSE = (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))

CONVERTERS: dict[str, Callable[["Lowering", Node], Any]] = {
    "AveragePool": average_pool,
    "LRN": local_response_normalization,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
}
