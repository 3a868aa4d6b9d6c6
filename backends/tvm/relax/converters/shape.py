"""Operators that shape tensors and pick parts of them: the graph knows more of sizes than TVM's importer finds out."""

from functools import partial

import numpy as np
from tvm import relax, tirx

from .....ir.graph import Constant, Node
from .....ir.types import TensorType
from .....passes.cleanup.reshapes import moves_units
from ...kernels.vectors import Scalar
from ...runtime.storage import carried, carrier
from .. import dynamic_shape
from ..broadcasting import may_stretch
from ..emitter import Blocked, Converter, Emitter, input_contents
from ..importer import imported
from ..preconditions import has_computed_bounds
from .cast import ranks
from .channelwise import join
from .gather import gather_elements_along
from .matmul_nbits import rows_of_head


def _data(emitter: Emitter, node: Node) -> relax.Expr:
    return emitter.tensor(node.operand(0))


_RESHAPES = {"Reshape": dynamic_shape.reshape, "Squeeze": dynamic_shape.squeeze, "Unsqueeze": dynamic_shape.unsqueeze}


def _reshape(emitter: Emitter, node: Node) -> relax.Expr:
    is_known = input_contents(node, 1) is not None and all(map(emitter.is_bound, node.output.shape))
    if node.operator in _RESHAPES and node.input(1) is not None and not is_known:
        return _RESHAPES[node.operator](emitter, node)
    return emitter.reshaped(_data(emitter, node), emitter.shape(node.output.shape))


def _transpose(emitter: Emitter, node: Node) -> relax.Expr:
    return _reshape(emitter, node) if moves_units(node) else imported(emitter, node)


def _expand(emitter: Emitter, node: Node) -> relax.Expr:
    x, shape = node.operand(0), node.output.shape
    if input_contents(node, 1) is None or not all(map(emitter.is_bound, shape)) or may_stretch(emitter, x, shape):
        return dynamic_shape.expand(emitter, node)
    return relax.op.broadcast_to(_data(emitter, node), emitter.shape(node.output.shape))


def _constant_of_shape(emitter: Emitter, node: Node) -> relax.Expr:
    value = node.attributes.get("value", np.zeros(1, np.float32))
    assert isinstance(value, np.ndarray)
    fill = relax.const(carried(value.reshape(())), str(carrier(node.output.dtype)))
    if input_contents(node, 0) is None:
        return dynamic_shape.constant_of_shape(emitter, node, fill)
    return relax.op.full(emitter.shape(node.output.shape), fill, str(carrier(node.output.dtype)))


def _concat(emitter: Emitter, node: Node) -> relax.Expr | Blocked:
    """Concatenate; other axes agree in size, though TVM may not see why if sizes are symbolic."""
    joined = join(emitter, node)
    if joined is not None:
        return joined
    axis = node.attributes["axis"]
    assert isinstance(axis, int)
    operands: list[relax.Expr] = []
    for value in map(node.operand, range(len(node.inputs))):
        shape = list(node.output.shape)
        shape[axis] = value.shape[axis]
        operands.append(emitter.held(emitter.tensor(value), TensorType(value.dtype, tuple(shape))))
    return relax.op.concat(operands, axis)


def _gather(emitter: Emitter, node: Node) -> relax.Expr:
    """Gather; positions beyond the end read the last element, where the importer's kernel reads out of bounds."""
    if (rows := rows_of_head(emitter, node)) is not None:
        return rows
    axis = node.attributes.get("axis", 0)
    data, indices = node.operand(0), node.operand(1)
    assert isinstance(axis, int)
    dim = data.shape[axis % data.type.rank]
    if isinstance(indices, Constant) and isinstance(dim, int):
        places = relax.const(np.where(indices.data < 0, indices.data + dim, indices.data), str(indices.dtype))
    else:
        places = emitter.tensor(indices)
        size = relax.op.astype(relax.op.shape_to_tensor(emitter.shape([dim])), str(indices.dtype))
        if not indices.type.rank:
            size = relax.op.reshape(emitter.block.emit(size), ())
        negative = relax.op.less(places, relax.const(0, str(indices.dtype)))
        places = relax.op.where(negative, relax.op.add(places, size), places)
    return relax.op.take(emitter.tensor(data), places, axis, mode="clip")


def _range(emitter: Emitter, node: Node) -> relax.Expr:
    elements = [input_contents(node, index) for index in range(3)]
    if any(element is None for element in elements):
        return dynamic_shape.range_(emitter, node)
    bounds = (relax.prim_value(emitter.size(row[0])) for row in elements if row is not None)
    return relax.op.arange(*bounds, dtype=str(node.output.dtype))


def _tile(emitter: Emitter, node: Node) -> relax.Expr:
    """Tile by reading along each axis at places that are computed once.

    LLVM 22 miscompiles the importer's kernel where AVX-512 is available: it vectorizes reads at an index modulo a power
    of two as if the modulus weren't there.
    """
    data, repeats = node.operand(0), input_contents(node, 1)
    if repeats is None:
        return dynamic_shape.tile(emitter, node)
    y, shape = emitter.tensor(data), list(data.shape)
    for axis, (dim, count) in enumerate(zip(data.shape, repeats, strict=True)):
        shape[axis] = node.output.shape[axis]
        if dim == 1:
            y = relax.op.broadcast_to(y, emitter.shape(shape))
        elif not isinstance(count, int):
            raise NotImplementedError(f"it repeats {count} times")
        elif isinstance(dim, int):
            y = relax.op.take(y, relax.const(np.tile(np.arange(dim), count), "int64"), axis, mode="clip")
        else:
            y = relax.op.concat([emitter.block.emit(y)] * count, axis)
    return y


def _slice(emitter: Emitter, node: Node) -> relax.Expr:
    """Slice; with symbolic sizes, the importer would take ONNX's open-ended bounds for exact ones."""
    data = node.operand(0)
    if has_computed_bounds(node):
        return dynamic_shape.slice_(emitter, node)
    starts, steps = input_contents(node, 1), input_contents(node, 4)
    assert starts is not None
    places = [int(axis) % data.type.rank for axis in input_contents(node, 3) or range(len(starts))]
    strides = [int(step) for step in steps] if steps else [1] * len(places)
    if data.type.is_static:
        return imported(emitter, node)
    if min(strides) < 0:
        return dynamic_shape.slice_(emitter, node)
    begins: list[Scalar] = []
    ends: list[Scalar] = []
    for axis, start, stride in zip(places, starts, strides, strict=True):
        size, count = emitter.size(data.shape[axis]), emitter.size(node.output.shape[axis])
        begin = emitter.size(start)
        begins.append(_clipped(begin + size if isinstance(begin, int) and begin < 0 else begin, size))
        ends.append(begins[-1] + (count - 1) * stride + 1)
    bounds = ([relax.prim_value(bound) for bound in row] for row in (begins, ends, strides))
    return relax.op.strided_slice(emitter.tensor(data), places, *bounds, assume_inbound=True)


def _split(emitter: Emitter, node: Node) -> relax.Expr:
    data = node.operand(0)
    if node.input(1) is not None and input_contents(node, 1) is None:
        return dynamic_shape.split(emitter, node)
    axis = node.attributes.get("axis", 0) % data.type.rank
    begin: Scalar = 0
    pieces: list[relax.Expr] = []
    for output in node.outputs:
        end = begin + emitter.size(output.shape[axis])
        bounds = ([relax.prim_value(bound)] for bound in (begin, end, 1))
        pieces.append(relax.op.strided_slice(emitter.tensor(data), [axis], *bounds, assume_inbound=True))
        begin = end
    return relax.Tuple([emitter.block.normalize(piece) for piece in pieces])


def _clipped(begin: Scalar, size: Scalar) -> Scalar:
    """Clip the begin of a slice to the range from 0 to the size."""
    if isinstance(begin, int) and isinstance(size, int):
        return min(max(begin, 0), size)
    if isinstance(begin, int) and begin in (0, 1):
        return begin  # a symbolic size is 1 at least
    return tirx.max(tirx.min(begin, size), 0)


def _topk(emitter: Emitter, node: Node) -> relax.Expr:
    """Return the greatest or least elements, the first of equal ones.

    If only data tells how many are wanted, all are sorted.
    """
    data, wanted = node.operand(0), node.operand(1)
    axis = node.attributes.get("axis", -1) % data.type.rank
    elements = input_contents(node, 1)
    count = elements[0] if elements is not None and isinstance(elements[0], int) else -1
    largest = bool(node.attributes.get("largest", 1))
    x = emitter.tensor(data)
    order = emitter.block.emit(emitter.kernel(ranks, x)) if data.dtype.is_float else x
    places = emitter.block.emit(relax.op.topk(order, count, axis, "indices", largest, "int64"))
    results = [
        emitter.block.emit(emitter.kernel(partial(gather_elements_along, axis=axis), x, places)),
        places,
    ]
    if count < 0:
        dim = node.outputs[0].shape[axis]
        results = [dynamic_shape.first(emitter, result, wanted, axis, dim) for result in results]
    return relax.Tuple(results)


CONVERTERS: dict[str, Converter] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "Identity": _data,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _reshape,
    "Tile": _tile,
    "TopK": _topk,
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
