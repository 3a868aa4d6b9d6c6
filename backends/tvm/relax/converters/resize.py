"""Resize, along one axis after the other, as the operator's meaning has it (`ir/ops/resize.py`).

Tables are computed first: where each place of the result lies in the input, and the weights of the taps around it.
Sizes may be symbolic, and scales, sizes and the region of interest may be computed while the model runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from tvm import relax, te, tirx

from .....ir.contents import contents
from .....ir.graph import Attribute, Constant, Node, Value
from ...kernels.vectors import Scalar, known
from ..emitter import Blocked, Emitter, type_of
from ..expressions import choose, integer, row, within
from ..layouts import images_of


@dataclass(frozen=True, slots=True)
class _Sampling:
    """How places are mapped to the input, and how their taps are weighted; fields are named like the attributes."""

    mode: str
    transformation: str
    nearest: str
    cubic_a: float
    antialias: bool
    exclude_outside: bool
    extrapolation: float
    policy: str

    @classmethod
    def of(cls, node: Node) -> "_Sampling":
        def get(name: str, default: Attribute) -> Attribute:
            return node.attributes.get(name, default)

        return cls(
            mode=get("mode", "nearest"),
            transformation=get("coordinate_transformation_mode", "half_pixel"),
            nearest=get("nearest_mode", "round_prefer_floor"),
            cubic_a=get("cubic_coeff_a", -0.75),
            antialias=bool(get("antialias", 0)),
            exclude_outside=bool(get("exclude_outside", 0)),
            extrapolation=get("extrapolation_value", 0.0),
            policy=get("keep_aspect_ratio_policy", "stretch"),
        )

    @property
    def radius(self) -> int:
        """The filter's reach on either side, in elements of the input."""
        return 1 if self.mode == "linear" else 2

    @property
    def crops(self) -> bool:
        return self.transformation == "tf_crop_and_resize"

    def taps(self, scale: tirx.Expr) -> Scalar:
        """Return how many elements of the input an element of the result is made of."""
        if not self.antialias:
            return 2 * self.radius
        return 2 * tirx.ceil(_double(self.radius) / tirx.min(scale, _double(1))).astype("int64")


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis to resize: its size, the ratio of sizes, and the region of interest.

    All but the size are in float64.
    """

    size: Scalar
    scale: tirx.Expr
    extent: tirx.Expr
    start: tirx.Expr
    end: tirx.Expr


def resize(emitter: Emitter, node: Node) -> relax.Expr | Blocked:
    """Resize; images in blocks of channels, whose rows and columns are the same axes, stay in blocks."""
    x = node.operand(0)
    sampling = _Sampling.of(node)
    along = [axis % x.type.rank for axis in node.attributes.get("axes") or range(x.type.rank)]
    plan = _Plan(emitter, node, along, sampling)
    is_blocked = x.type.rank == 4 and sampling.mode == "nearest" and _fills_blocks(emitter, x) and plan.keeps_channels
    y = emitter.blocked[x] if is_blocked else emitter.tensor(x)
    is_exact = x.dtype.is_float or sampling.mode == "nearest"
    if not is_exact:
        y = relax.op.astype(y, "float32")
    for index, axis in enumerate(along):
        if not plan.keeps(index):
            y = _along(emitter, y, plan, index, axis, sampling)
    if is_exact:
        return Blocked(y) if is_blocked else y
    limits = np.iinfo(x.dtype.numpy)
    return relax.op.astype(relax.op.clip(relax.op.round(y), float(limits.min), float(limits.max)), str(x.dtype))


def _fills_blocks(emitter: Emitter, x: Value) -> bool:
    """Whether images lie in blocks of channels, of which most lanes hold some."""
    if x not in emitter.blocked:
        return False
    images, lanes = images_of(x.type), emitter.machine.lanes
    return 4 * images.channels >= 3 * lanes * images.blocks(lanes)


def _along(emitter: Emitter, x: relax.Expr, plan: "_Plan", index: int, axis: int, sampling: _Sampling) -> relax.Expr:
    """Resize a tensor along one axis."""
    numbers, wanted, taps = plan.numbers(index)
    placing = {"sampling": sampling, "index": index}
    at = emitter.block.emit(emitter.kernel(partial(_places, **placing), *plan.given, numbers=numbers, wanted=wanted))
    if sampling.mode == "nearest":
        y = emitter.kernel(partial(_nearest, axis=axis, mode=sampling.nearest), x, at)
    else:
        kernel = partial(_taps, **placing, dtype=str(type_of(x).dtype))
        tables = emitter.block.emit(emitter.kernel(kernel, at, *plan.given, numbers=numbers, taps=taps))
        sources, shares = (relax.TupleGetItem(tables, number) for number in range(2))
        y = emitter.kernel(partial(_weighted, axis=axis), x, sources, shares)
    y = emitter.block.emit(y)
    if not sampling.crops:
        return y
    return emitter.block.emit(emitter.kernel(partial(_cropped, axis=axis, fill=sampling.extrapolation), x, y, at))


class _Plan:
    """What a node does to each axis: known at compile time, or computed into a row that kernels are given.

    Attributes:
        given: the row, where there is one.
    """

    def __init__(self, emitter: Emitter, node: Node, along: Sequence[int], sampling: _Sampling) -> None:
        self._sampling = sampling
        self._along = along
        x, roi, scales, sizes = node.operand(0), *(node.input(index) for index in range(1, 4))
        self._have = [emitter.size(x.shape[axis]) for axis in along]
        self._by_size = sizes is not None and sizes.shape != (0,)
        self._factors = sizes if self._by_size else scales
        self._roi = roi if sampling.crops else None
        self._dims = [node.output.shape[axis] for axis in along]
        self._is_same = [x.shape[axis] == node.output.shape[axis] for axis in along]
        self.given: list[relax.Expr] = []
        self._row = [self._known(emitter, value) for value in (self._factors, self._roi)]
        if any(row is None for row in self._row):
            self._prepare(emitter, x)
        else:
            self._wanted = [emitter.size(dim) for dim in self._dims]

    def _known(self, emitter: Emitter, value: Value | None) -> list[Scalar] | None:
        """Return an input's elements where they are known, in float64 or, as sizes, in int64."""
        if value is None:
            return [_double(bound) for bound in (0, 1) for _ in self._along]
        if isinstance(value, Constant) and value.dtype.is_float:
            return [_double(float(number)) for number in value.data]
        elements = contents(value)
        return None if elements is None else [emitter.size(element) for element in elements]

    def _prepare(self, emitter: Emitter, x: Value) -> None:
        """Compute the scales and the numbers that follow from them when the model runs."""
        values = [value for value in (self._factors, self._roi) if value is not None]
        tensors = [emitter.tensor(x), *map(emitter.tensor, values)]
        count = len(self._along)

        def factors(x: te.Tensor, *rows: te.Tensor) -> te.Tensor:
            axes = self._axes(
                [list(map(row, range(known(row.shape[0])))) for row in rows], [x.shape[a] for a in self._along]
            )
            numbers = [number for axis in axes for number in (axis.scale, axis.extent, axis.start, axis.end)]
            return row([number.astype("float64") for number in numbers])

        self.given = [emitter.block.emit(emitter.kernel(factors, *tensors))]

        def counts(x: te.Tensor, factors: te.Tensor) -> te.Tensor:
            sizes = [x.shape[axis] for axis in self._along]
            scales = [factors(4 * index) for index in range(count)]
            extents = [factors(4 * index + 1) for index in range(count)]
            wanted = [self._scaled(*numbers) for numbers in zip(sizes, scales, extents, strict=True)]
            taps = [self._sampling.taps(scale) for scale in scales]
            return row([*wanted, *(integer(tap) if isinstance(tap, int) else tap for tap in taps)])

        found = emitter.kernel(counts, emitter.tensor(x), *self.given)
        taps = [emitter.symbol("taps") for _ in self._along]
        self._wanted = emitter.computed(found, [*self._dims, *taps]).values

    def _axes(self, rows: Sequence[Sequence[Scalar]], sizes: Sequence[Scalar]) -> list[_Axis]:
        """Return the axes, from the elements of scales or sizes and of the region of interest."""
        count = len(self._along)
        have = [_as_double(size) for size in sizes]
        factors = [_as_double(factor) for factor in rows[0]]
        roi = rows[1] if len(rows) > 1 else [_double(0)] * count + [_double(1)] * count
        extents = [factor * size for factor, size in zip(factors, have, strict=True)]
        if self._by_size:
            factors, extents = self._fitted(factors, have)
        bounds = [(_as_double(roi[index]), _as_double(roi[count + index])) for index in range(count)]
        return [
            _Axis(size, scale, extent, *ends)
            for size, scale, extent, ends in zip(sizes, factors, extents, bounds, strict=True)
        ]

    def _fitted(self, wanted: list[tirx.Expr], have: list[tirx.Expr]) -> tuple[list[tirx.Expr], list[tirx.Expr]]:
        """Return the scales to wanted sizes and the actual sizes, perhaps with one scale for all axes."""
        scales = [size / old for size, old in zip(wanted, have, strict=True)]
        if self._sampling.policy == "stretch":
            return scales, wanted
        pick = tirx.min if self._sampling.policy == "not_larger" else tirx.max
        scale = scales[0]
        for other in scales[1:]:
            scale = pick(scale, other)
        return [scale] * len(scales), [tirx.floor(scale * old + _double(0.5)) for old in have]

    def _scaled(self, size: tirx.Expr, scale: tirx.Expr, extent: tirx.Expr) -> tirx.Expr:
        """Return how many elements an axis gets, in ONNX's arithmetic: 0.7 of 10 is 7."""
        if self._by_size:
            return extent.astype("int64")
        return tirx.floor(size.astype("float32") * scale.astype("float32")).astype("int64")

    def keeps(self, index: int) -> bool:
        """Whether an axis certainly stays as it is."""
        factors, _ = self._row
        if not self._is_same[index] or factors is None or self._roi is not None:
            return False
        factor = factors[index]
        return self._by_size or (isinstance(factor, tirx.FloatImm) and factor.value == 1)

    @property
    def keeps_channels(self) -> bool:
        """Whether all axes but rows and columns certainly stay as they are, and the others are known."""
        return not self.given and all(self.keeps(index) for index, axis in enumerate(self._along) if axis < 2)

    def numbers(self, index: int) -> tuple[Sequence[Scalar], Scalar, Scalar]:
        """Return an axis for kernels: numbers, how many elements it gets, and the number of taps of each.

        The numbers are those of `_Axis`, or the size alone where the others are in the row.
        """
        if self.given:
            taps = self._wanted[len(self._along) + index] if self._sampling.antialias else 2 * self._sampling.radius
            return [self._have[index]], self._wanted[index], taps
        along = self._axes([row for row in self._row if row is not None], self._have)[index]
        numbers = [along.size, along.scale, along.extent, along.start, along.end]
        return numbers, self._wanted[index], self._sampling.taps(along.scale)


def _axis(numbers: Sequence[Scalar], given: Sequence[te.Tensor], index: int) -> _Axis:
    """Return an axis inside a kernel."""
    size, *rest = numbers
    size = integer(size) if isinstance(size, int) else size
    return _Axis(size, *(map(_as_double, rest) if rest else [given[0](4 * index + place) for place in range(4)]))


def _double(value: float) -> tirx.Expr:
    return tirx.const(value, "float64")


def _as_double(value: Scalar) -> tirx.Expr:
    return _double(value) if isinstance(value, int) else value.astype("float64")


def _places(*given: te.Tensor, sampling: _Sampling, index: int, numbers: Sequence[Scalar], wanted: Scalar) -> te.Tensor:
    """Compute where each place of the result lies along the input's axis."""
    along = _axis(numbers, given, index)
    return te.compute((wanted,), lambda place: _coordinate(along, place, wanted, sampling.transformation), name="at")


def _nearest(x: te.Tensor, at: te.Tensor, *, axis: int, mode: str) -> te.Tensor:
    wanted = at.shape[0]
    nearest = te.compute((wanted,), lambda place: within(_rounded(at(place), mode), x.shape[axis]), name="nearest")
    shape = [*x.shape[:axis], wanted, *x.shape[axis + 1 :]]
    return te.compute(shape, lambda *place: x(*place[:axis], nearest(place[axis]), *place[axis + 1 :]), name="resize")


def _cropped(x: te.Tensor, y: te.Tensor, at: te.Tensor, *, axis: int, fill: float) -> te.Tensor:
    """Replace results by a fill value where their place lies outside of the input."""
    last = _as_double(x.shape[axis] - 1)

    def element(*place: tirx.Expr) -> tirx.Expr:
        where = at(place[axis])
        return choose(tirx.any(where < _double(0), where > last), tirx.const(fill, x.dtype), y(*place))

    return te.compute(y.shape, element, name="crop")


def _coordinate(along: _Axis, place: tirx.Expr, wanted: Scalar, transformation: str) -> tirx.Expr:
    """Return where an output place lies along the input's axis."""
    position, last, one = place.astype("float64"), _as_double(along.size - 1), _double(1)
    half, nought = _double(0.5), _double(0)
    is_single = tirx.EQ(along.extent, one)
    steps = choose(is_single, one, along.extent - one)
    match transformation:
        case "asymmetric":
            return (place.astype("float32") / along.scale.astype("float32")).astype("float64")
        case "align_corners":
            return choose(is_single, nought, position * (last / steps))
        case "tf_crop_and_resize":
            reach = (along.end - along.start) * last
            return choose(is_single, reach / _double(2), position * (reach / steps)) + along.start * last
        case "pytorch_half_pixel":
            return choose(is_single, -half, (position + half) / along.scale - half)
        case "half_pixel_symmetric":
            offset = _as_double(along.size) / _double(2) * (one - _as_double(wanted) / along.extent)
            return offset + (position + half) / along.scale - half
        case _:
            return (position + half) / along.scale - half


def _rounded(at: tirx.Expr, mode: str) -> tirx.Expr:
    half = _double(0.5)
    rounded = {
        "round_prefer_floor": lambda: tirx.ceil(at - half),
        "round_prefer_ceil": lambda: tirx.floor(at + half),
        "floor": lambda: tirx.floor(at),
        "ceil": lambda: tirx.ceil(at),
    }
    return rounded[mode]().astype("int64")


def _taps(
    at: te.Tensor,
    *given: te.Tensor,
    sampling: _Sampling,
    index: int,
    dtype: str,
    numbers: Sequence[Scalar],
    taps: Scalar,
) -> Sequence[te.Tensor]:
    """Compute tables `[place, tap]` of the elements around each coordinate, and of their weights."""
    along, wanted = _axis(numbers, given, index), at.shape[0]
    shrink = tirx.min(along.scale, _double(1)) if sampling.antialias else _double(1)
    half = tirx.floordiv(integer(taps) if isinstance(taps, int) else taps, integer(2))

    def source(place: tirx.Expr, tap: tirx.Expr) -> tirx.Expr:
        return tirx.ceil(at(place)).astype("int64") - half + tap.astype("int64")

    def raw(place: tirx.Expr, tap: tirx.Expr) -> tirx.Expr:
        distance = tirx.abs((source(place, tap).astype("float64") - at(place)) * shrink)
        weight = _double(1) - distance if sampling.mode == "linear" else _cubic(distance, sampling.cubic_a)
        weight = choose(distance < _double(sampling.radius), weight, _double(0))
        if not sampling.exclude_outside:
            return weight
        is_outside = tirx.any(source(place, tap) < 0, source(place, tap) >= along.size)
        return choose(is_outside, _double(0), weight)

    weights = te.compute((wanted, taps), raw, name="raw")
    every = te.reduce_axis((0, taps), "every")
    whole = te.compute((wanted,), lambda place: te.sum(weights(place, every), axis=[every]), name="whole")
    shares = te.compute(
        (wanted, taps), lambda place, tap: (weights(place, tap) / whole(place)).astype(dtype), name="shares"
    )
    sources = te.compute((wanted, taps), lambda place, tap: within(source(place, tap), along.size), name="sources")
    return [sources, shares]


def _weighted(x: te.Tensor, sources: te.Tensor, shares: te.Tensor, *, axis: int) -> te.Tensor:
    """Compute a weighted sum of the taps around each coordinate."""
    wanted, taps = sources.shape
    each = te.reduce_axis((0, taps), "each")

    def element(*place: tirx.Expr) -> tirx.Expr:
        where = place[axis]
        return te.sum(x(*place[:axis], sources(where, each), *place[axis + 1 :]) * shares(where, each), axis=[each])

    return te.compute([*x.shape[:axis], wanted, *x.shape[axis + 1 :]], element, name="resize")


def _cubic(distance: tirx.Expr, a: float) -> tirx.Expr:
    """Return Keys' cubic convolution kernel (IEEE Transactions on Acoustics, Speech and Signal Processing 29, 1981)."""
    near = ((_double(a + 2)) * distance - _double(a + 3)) * distance * distance + _double(1)
    far = ((distance - _double(5)) * distance + _double(8)) * distance * _double(a) - _double(4 * a)
    return choose(distance <= _double(1), near, far)


CONVERTERS = {"Resize": resize}
