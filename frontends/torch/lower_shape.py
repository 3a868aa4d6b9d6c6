"""Lowerings of ATen operators that move elements without looking at them: views, slices, joins, padding."""

from collections.abc import Sequence
from typing import Any

from ...ir.dims import Dim
from ...ir.graph import Value
from .lowering import END, Lowering, lowers, normal_axes


@lowers(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.reshape.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.squeeze.default",
    "aten.squeeze_copy.default",
    "aten.view_copy.default",
    "aten._reshape_copy.default",
)
def view(op: Lowering, x: Value, *_ignored: Any) -> Value:
    return op.reshape(x, op.result_shape)


@lowers("aten.permute.default", "aten.permute_copy.default")
def permute(op: Lowering, x: Value, axes: Sequence[int]) -> Value:
    axes = normal_axes(list(axes), x.type.rank)
    return x if axes == list(range(x.type.rank)) else op.Transpose(x, perm=axes)


@lowers("aten.transpose.int", "aten.transpose_copy.int")
def transpose(op: Lowering, x: Value, first: int, second: int) -> Value:
    axes = list(range(x.type.rank))
    if axes:
        axes[first], axes[second] = axes[second], axes[first]
    return permute(op, x, axes)


@lowers("aten.t.default", "aten.t_copy.default")
def matrix_transpose(op: Lowering, x: Value) -> Value:
    return op.Transpose(x, perm=(1, 0)) if x.type.rank == 2 else x


@lowers("aten.unsqueeze.default", "aten.unsqueeze_copy.default")
def unsqueeze(op: Lowering, x: Value, axis: int) -> Value:
    return op.Unsqueeze(x, [axis % (x.type.rank + 1)])


@lowers(*(f"aten.{name}.{kind}" for name in ("squeeze", "squeeze_copy") for kind in ("dim", "dims")))
def squeeze(op: Lowering, x: Value, axes: Sequence[int] | int) -> Value:
    if not x.type.rank or axes == []:
        return x
    ones = [axis for axis in normal_axes(axes, x.type.rank) if x.shape[axis] == 1]
    return op.Squeeze(x, ones) if ones else x


@lowers("aten.expand.default", "aten.expand_copy.default")
def expand(op: Lowering, x: Value, *_ignored: Any, **_keywords: Any) -> Value:
    return op.expand(x, op.result_shape)


@lowers("aten.repeat.default")
def repeat(op: Lowering, x: Value, repeats: Sequence[Dim]) -> Value:
    padded = op.reshape(x, (1,) * (len(repeats) - x.type.rank) + x.shape)
    return padded if all(count == 1 for count in repeats) else op.Tile(padded, op.row(repeats))


@lowers("aten.slice.Tensor", "aten.slice_copy.Tensor")
def slice_tensor(
    op: Lowering, x: Value, axis: int = 0, start: Dim | None = None, end: Dim | None = None, step: int = 1
) -> Value:
    begin: Dim = 0 if start is None else start
    until: Dim = END if end is None or end == x.shape[axis] else end
    if begin == 0 and step == 1 and (until == END or op.dim(op.result.shape[axis]) == x.shape[axis]):
        return x
    return op.Slice(x, op.row([begin]), op.row([until]), [axis], None if step == 1 else [step])


@lowers("aten.narrow.default", "aten.narrow_copy.default")
def narrow(op: Lowering, x: Value, axis: int, start: Dim, length: Dim) -> Value:
    if not isinstance(start, int) or start < 0:
        op.refuse("it starts at a symbolic place or counts from the end")
    until = start + length if isinstance(length, int) else None
    return op.Slice(x, [start], op.row([until]) if until is not None else op.Add(op.size(length), start), [axis])


@lowers("aten.select.int", "aten.select_copy.int")
def select(op: Lowering, x: Value, axis: int, index: Dim) -> Value:
    if isinstance(index, int):
        return op.Gather(x, op.constant(index), axis=axis)
    return op.Squeeze(op.Gather(x, op.size(index), axis=axis), [axis])


@lowers("aten.cat.default")
def concat(op: Lowering, values: Sequence[Value], axis: int = 0) -> Value:
    parts = [op.cast(value) for value in values if value.shape != (0,)]
    if not parts:
        return op.filled(0)
    return op.joined(parts, axis)


@lowers("aten.stack.default")
def stack(op: Lowering, values: Sequence[Value], axis: int = 0) -> Value:
    axis %= values[0].type.rank + 1
    return op.Concat(*(op.Unsqueeze(op.cast(value), [axis]) for value in values), axis=axis)


@lowers(
    "aten.split.Tensor",
    "aten.split_with_sizes.default",
    "aten.chunk.default",
    "aten.split_with_sizes_copy.default",
    "aten.split_copy.Tensor",
    "aten.unsafe_split.Tensor",
    "aten.unsafe_split_with_sizes.default",
)
def split(op: Lowering, x: Value, _sizes: Any, axis: int = 0) -> tuple[Value, ...]:
    sizes = [op.dim(part.shape[axis]) for part in op.node.meta["val"]]
    if len(sizes) == 1:
        return (x,)
    return op.Split(x, op.row(sizes), axis=axis, outputs=len(sizes))


@lowers("aten.unbind.int", "aten.unbind_copy.int")
def unbind(op: Lowering, x: Value, axis: int = 0) -> tuple[Value, ...]:
    return tuple(select(op, x, axis, index) for index in range(len(op.node.meta["val"])))


@lowers("aten.copy.default")
def copy(op: Lowering, x: Value, source: Value, *_ignored: Any) -> Value:
    return op.expand(op.cast(source, x.dtype), x.shape)


@lowers("aten.tril.default", "aten.triu.default")
def triangle(op: Lowering, x: Value, diagonal: int = 0) -> Value:
    offset = op.constant(diagonal) if diagonal else None
    return op.Trilu(x, offset, upper=int("triu" in str(op.node.target)))


@lowers("aten.constant_pad_nd.default", "aten.pad.default")
def pad(op: Lowering, x: Value, widths: Sequence[Dim], mode: Any = "constant", value: float | None = None) -> Value:
    if not isinstance(mode, str):
        mode, value = "constant", mode
    pairs: list[tuple[Dim, Dim]] = [(0, 0)] * (x.type.rank - len(widths) // 2)
    pairs += zip(widths[-2::-2], widths[::-2], strict=True)
    pads = [low for low, _ in pairs] + [high for _, high in pairs]
    if not any(pads):
        return x
    if mode == "constant":
        return op.Pad(x, op.row(pads), op.cast(value or 0.0, x.dtype))
    if mode == "circular":  # what is cropped comes round no more
        x, pads = _cropped(op, x, pairs)
    return op.Pad(x, op.row(pads), mode={"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode])


def _cropped(op: Lowering, x: Value, pairs: Sequence[tuple[Dim, Dim]]) -> tuple[Value, list[Dim]]:
    """A value without what negative padding takes away, and the padding that is left, in front and behind."""
    cuts = [tuple(-size if isinstance(size, int) and size < 0 else 0 for size in pair) for pair in pairs]
    axes = [axis for axis, pair in enumerate(cuts) if any(pair)]
    if axes:
        ends = [-cuts[axis][1] or END for axis in axes]
        x = op.Slice(x, [cuts[axis][0] for axis in axes], ends, axes)
    sides = zip(*pairs, strict=True)
    return x, [max(size, 0) if isinstance(size, int) else size for side in sides for size in side]


@lowers("aten.flip.default")
def flip(op: Lowering, x: Value, axes: Sequence[int]) -> Value:
    if not axes or not x.type.rank:
        return x
    return op.Slice(x, [-1] * len(axes), [-END] * len(axes), list(axes), [-1] * len(axes))


@lowers("aten.roll.default")
def roll(op: Lowering, x: Value, shifts: Sequence[int], axes: Sequence[int] = ()) -> Value:
    if not axes:
        return op.reshape(roll(op, op.flat(x), shifts, (0,)), x.shape) if x.type.rank else x
    for shift, axis in zip(shifts, axes, strict=True):
        size = x.shape[axis]
        cut = -shift % size if isinstance(size, int) and size else -shift
        if cut:
            x = op.Concat(op.Slice(x, [cut], [END], [axis]), op.Slice(x, [0], [cut], [axis]), axis=axis)
    return x


@lowers("aten.pixel_shuffle.default")
def pixel_shuffle(op: Lowering, x: Value, factor: int) -> Value:
    *batch, channels, height, width = x.shape
    if len(batch) == 1 and x.dtype.is_float:
        return op.DepthToSpace(x, blocksize=factor, mode="CRD")
    assert isinstance(channels, int)  # channels come from weights
    first = len(batch)
    parts = op.reshape(x, [*batch, channels // factor**2, factor, factor, height, width])
    order = [*range(first + 1), first + 3, first + 1, first + 4, first + 2]
    return op.reshape(op.Transpose(parts, perm=order), op.result_shape)


@lowers("aten.channel_shuffle.default")
def channel_shuffle(op: Lowering, x: Value, groups: int) -> Value:
    batch, channels, *spatial = x.shape
    assert isinstance(channels, int)  # channels come from weights
    parts = op.reshape(x, [batch, groups, channels // groups, *spatial])
    return op.reshape(op.Transpose(parts, perm=(0, 2, 1, *range(3, parts.type.rank))), x.shape)
