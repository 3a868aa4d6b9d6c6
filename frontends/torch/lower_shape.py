"""Lowerings of ATen operators that move elements: views, slices, concatenation, indexing, creation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.builder import Operand
from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.ops.dtypes import dtype_of
from ...ir.types import DType
from .lowering import Lowering, lowers, normal_axes

_END = np.iinfo(np.int64).max


@lowers(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.reshape.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.squeeze.default",
)
def view(op: Lowering, x: Value, *_ignored: Any) -> Value:
    return op.reshape(x, op.result_shape)


@lowers("aten.permute.default")
def permute(op: Lowering, x: Value, axes: Sequence[int]) -> Value:
    axes = normal_axes(list(axes), x.type.rank)
    return x if axes == list(range(x.type.rank)) else op.Transpose(x, perm=axes)


@lowers("aten.transpose.int")
def transpose(op: Lowering, x: Value, first: int, second: int) -> Value:
    axes = list(range(x.type.rank))
    axes[first], axes[second] = axes[second], axes[first]
    return permute(op, x, axes)


@lowers("aten.t.default")
def matrix_transpose(op: Lowering, x: Value) -> Value:
    return op.Transpose(x, perm=(1, 0)) if x.type.rank == 2 else x


@lowers("aten.unsqueeze.default")
def unsqueeze(op: Lowering, x: Value, axis: int) -> Value:
    return op.Unsqueeze(x, [axis % (x.type.rank + 1)])


@lowers("aten.squeeze.dim", "aten.squeeze.dims")
def squeeze(op: Lowering, x: Value, axes: Sequence[int] | int) -> Value:
    ones = [axis for axis in normal_axes(axes, x.type.rank) if x.shape[axis] == 1]
    return op.Squeeze(x, ones) if ones else x


@lowers("aten.expand.default")
def expand(op: Lowering, x: Value, *_ignored: Any, **_keywords: Any) -> Value:
    return op.expand(x, op.result_shape)


@lowers("aten.repeat.default")
def repeat(op: Lowering, x: Value, repeats: Sequence[Dim]) -> Value:
    padded = op.reshape(x, (1,) * (len(repeats) - x.type.rank) + x.shape)
    return padded if all(count == 1 for count in repeats) else op.Tile(padded, op.row(repeats))


@lowers("aten.slice.Tensor")
def slice_tensor(
    op: Lowering, x: Value, axis: int = 0, start: Dim | None = None, end: Dim | None = None, step: int = 1
) -> Value:
    begin: Dim = 0 if start is None else start
    until: Dim = _END if end is None or end == x.shape[axis] else end
    if begin == 0 and step == 1 and (until == _END or op.dim(op.result.shape[axis]) == x.shape[axis]):
        return x
    return op.Slice(x, op.row([begin]), op.row([until]), [axis], None if step == 1 else [step])


@lowers("aten.select.int")
def select(op: Lowering, x: Value, axis: int, index: Dim) -> Value:
    if isinstance(index, int):
        return op.Gather(x, op.constant(np.asarray(index, dtype=np.int64)), axis=axis)
    return op.Squeeze(op.Gather(x, op.size(index), axis=axis), [axis])


@lowers("aten.cat.default")
def concat(op: Lowering, values: Sequence[Value], axis: int = 0) -> Value:
    parts = [op.cast(value, op.result_type) for value in values if value.shape != (0,)]
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=axis)


@lowers("aten.stack.default")
def stack(op: Lowering, values: Sequence[Value], axis: int = 0) -> Value:
    axis %= values[0].type.rank + 1
    return op.Concat(*(op.Unsqueeze(op.cast(value, op.result_type), [axis]) for value in values), axis=axis)


@lowers(
    "aten.split.Tensor",
    "aten.split_with_sizes.default",
    "aten.chunk.default",
    "aten.split_with_sizes_copy.default",
    "aten.split_copy.Tensor",
)
def split(op: Lowering, x: Value, _sizes: Any, axis: int = 0) -> tuple[Value, ...]:
    sizes = [op.dim(part.shape[axis]) for part in op.node.meta["val"]]
    if len(sizes) == 1:
        return (x,)
    return op.Split(x, op.row(sizes), axis=axis, outputs=len(sizes))


@lowers("aten.unbind.int")
def unbind(op: Lowering, x: Value, axis: int = 0) -> tuple[Value, ...]:
    count = len(op.node.meta["val"])
    return tuple(op.Gather(x, op.constant(np.asarray(index, dtype=np.int64)), axis=axis) for index in range(count))


@lowers("aten.gather.default")
def gather(op: Lowering, x: Value, axis: int, index: Value, **_keywords: Any) -> Value:
    return op.GatherElements(x, index, axis=axis)


@lowers("aten.index_select.default")
def index_select(op: Lowering, x: Value, axis: int, index: Value) -> Value:
    return op.Gather(x, index, axis=axis)


@lowers("aten.scatter.src", "aten.scatter.value")
def scatter(op: Lowering, x: Value, axis: int, index: Value, source: Operand) -> Value:
    updates = source if isinstance(source, Value) else op.expand(op.cast(source, x.dtype), index.shape)
    return op.ScatterElements(x, index, updates, axis=axis)


@lowers("aten.scatter_add.default")
def scatter_add(op: Lowering, x: Value, axis: int, index: Value, source: Value) -> Value:
    return op.ScatterElements(x, index, source, axis=axis, reduction="add")


@lowers("aten.slice_scatter.default")
def slice_scatter(
    op: Lowering,
    x: Value,
    source: Value,
    axis: int = 0,
    start: Dim | None = None,
    end: Dim | None = None,
    step: int = 1,
) -> Value:
    """The tensor with a slice of it replaced: what is left on both sides, joined to the source."""
    if source.shape == x.shape:
        return source
    size = x.shape[axis]
    if step != 1 or isinstance(size, str) or isinstance(start, str) or isinstance(end, str):
        raise ModelError(f"{op.location}: writing into a slice with a step or of a symbolic size has no counterpart")
    first, beyond, _ = slice(start, end).indices(size)
    parts = [source]
    if first > 0:
        parts.insert(0, op.Slice(x, [0], [first], [axis]))
    if beyond < size:
        parts.append(op.Slice(x, [beyond], [_END], [axis]))
    return source if len(parts) == 1 else op.Concat(*parts, axis=axis)


@lowers("aten.index_put.default")
def index_put(
    op: Lowering, x: Value, indices: Sequence[Value | None], source: Value, accumulate: bool = False
) -> Value:
    """Writing one number where a mask of the whole tensor is set."""
    mask = indices[0]
    if len(indices) != 1 or mask is None or mask.dtype is not DType.bool or source.type.rank or accumulate:
        raise ModelError(f"{op.location}: writing to places given by {len(indices)} tensors has no counterpart")
    trailing = x.type.rank - mask.type.rank
    mask = op.Unsqueeze(mask, list(range(mask.type.rank, x.type.rank))) if trailing else mask
    return op.Where(mask, op.cast(source, x.dtype), x)


@lowers("aten.index.Tensor")
def index_tensor(op: Lowering, x: Value, indices: Sequence[Value | None]) -> Value:
    """Advanced indexing by integer tensors; what they select comes first unless their axes are neighbours."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    chosen = [index for index in indices if index is not None]
    if any(index.dtype is DType.bool for index in chosen):
        raise ModelError(f"{op.location}: indexing by a boolean mask has a size that depends on data")
    if len(axes) == 1:
        return op.Gather(x, chosen[0], axis=axes[0])
    rank = x.type.rank
    front = [*axes, *(axis for axis in range(rank) if axis not in axes)]
    before = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    common = op.result_shape[before : before + op.result.ndim - (rank - len(axes))]
    columns = [op.Unsqueeze(op.expand(op.cast(index, DType.int64), common), [-1]) for index in chosen]
    gathered = op.GatherND(permute(op, x, front), op.Concat(*columns, axis=-1))
    count = len(common)
    order = [*range(count, count + before), *range(count), *range(count + before, gathered.type.rank)]
    return permute(op, gathered, order)


@lowers("aten.arange.start_step", "aten.arange.start", "aten.arange.default")
def arange(op: Lowering, *bounds: Any, **_keywords: Any) -> Value:
    start, end, step = {1: (0, *bounds, 1), 2: (*bounds, 1), 3: bounds}[len(bounds)]
    dtype = op.result_type
    if not any(isinstance(bound, str) for bound in (start, end, step)):
        return op.constant(np.arange(start, end, step, dtype=dtype.numpy))
    scalars = [op.cast(bound, DType.int64) for bound in (start, end, step)]
    return op.cast(op.Range(*scalars), dtype)


@lowers(
    "aten.full.default",
    "aten.full_like.default",
    "aten.zeros.default",
    "aten.zeros_like.default",
    "aten.ones.default",
    "aten.ones_like.default",
    "aten.new_zeros.default",
    "aten.new_ones.default",
    "aten.new_full.default",
    "aten.empty.memory_format",
    "aten.empty_like.default",
)
def full(op: Lowering, *arguments: Any, **_keywords: Any) -> Value:
    name = str(op.node.target)
    fill = arguments[-1] if "full" in name else int("ones" in name)
    return op.expand(op.cast(fill, op.result_type), op.result_shape)


@lowers("aten.fill.Scalar", "aten.fill.Tensor")
def fill(op: Lowering, x: Value, value: Operand) -> Value:
    return op.expand(op.cast(value, x.dtype), x.shape)


@lowers("aten.copy.default")
def copy(op: Lowering, x: Value, source: Value, *_ignored: Any) -> Value:
    return op.expand(op.cast(source, x.dtype), x.shape)


@lowers("aten.tril.default", "aten.triu.default")
def triangle(op: Lowering, x: Value, diagonal: int = 0) -> Value:
    offset = op.constant(np.asarray(diagonal, dtype=np.int64)) if diagonal else None
    return op.Trilu(x, offset, upper=int("triu" in str(op.node.target)))


@lowers("aten.constant_pad_nd.default", "aten.pad.default")
def pad(op: Lowering, x: Value, widths: Sequence[Dim], mode: Any = "constant", value: float | None = None) -> Value:
    if not isinstance(mode, str):
        mode, value = "constant", mode
    pairs: list[tuple[Dim, Dim]] = [(0, 0)] * (x.type.rank - len(widths) // 2)
    pairs += zip(widths[-2::-2], widths[::-2], strict=True)
    pads = [low for low, _ in pairs] + [high for _, high in pairs]
    onnx_mode = {"constant": None, "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    return op.Pad(x, op.row(pads), op.cast(value or 0.0, x.dtype) if onnx_mode is None else None, mode=onnx_mode)


@lowers("aten.flip.default")
def flip(op: Lowering, x: Value, axes: Sequence[int]) -> Value:
    return op.Slice(x, [-1] * len(axes), [-_END] * len(axes), list(axes), [-1] * len(axes))


@lowers("aten.roll.default")
def roll(op: Lowering, x: Value, shifts: Sequence[int], axes: Sequence[int] = ()) -> Value:
    if not axes:
        return op.reshape(roll(op, op.Reshape(x, [-1]), shifts, (0,)), x.shape)
    for shift, axis in zip(shifts, axes, strict=True):
        size = x.shape[axis]
        cut = -shift % size if isinstance(size, int) and size else -shift
        if cut:
            x = op.Concat(op.Slice(x, [cut], [_END], [axis]), op.Slice(x, [0], [cut], [axis]), axis=axis)
    return x


@lowers("aten.pixel_shuffle.default")
def pixel_shuffle(op: Lowering, x: Value, factor: int) -> Value:
    return op.DepthToSpace(x, blocksize=factor, mode="CRD")


@lowers("aten.channel_shuffle.default")
def channel_shuffle(op: Lowering, x: Value, groups: int) -> Value:
    batch, channels, *spatial = x.shape
    assert isinstance(channels, int)  # channels come from weights
    parts = op.reshape(x, [batch, groups, channels // groups, *spatial])
    return op.reshape(op.Transpose(parts, perm=(0, 2, 1, *range(3, parts.type.rank))), x.shape)


@lowers("aten.one_hot.default")
def one_hot(op: Lowering, x: Value, classes: int) -> Value:
    depth = op.constant(np.asarray(classes, dtype=np.int64))
    return op.OneHot(x, depth, op.constant(np.asarray([0, 1], dtype=dtype_of(op.result.dtype).numpy)))
