"""Convolutions by our own kernels, on images of known channels in blocks of these (NCHWc)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil

import numpy as np
from tvm import relax, tirx

from .....ir.dims import Dim
from .....ir.graph import Constant, Node, Value
from .....ir.quantization import quant_params_of
from .....ir.types import DType, TensorType
from .....passes.legalization.expansions.layers import is_interleaved
from ...kernels.channelwise import DEPTHWISE, LANES, QUADS, Channelwise, Quads, channelwise_kernel
from ...kernels.convolution import (
    Convolution,
    SparseTile,
    Tile,
    convolution_kernel,
    held_blocks,
    merged,
    offsets_form,
    prepared,
    sparse_tiles,
    start_offsets,
    tiles,
)
from ...kernels.epilogue import Broadcast, Epilogue, Operand, PostOp
from ...kernels.instructions.base import FMA
from ...kernels.instructions.bf16_dot import BF16_DOT
from ...kernels.instructions.int8_dot import K_PER_DOT, Int8Dot
from ...kernels.machine import Machine
from ...kernels.nchwc import Images, interleave_kernel, quads_kernel, two_axes
from ...kernels.sparse_gemm import SparseSizes
from ...kernels.vector_math import ELEMENTS
from ...kernels.vectors import BFLOAT16, ceil_div
from ...kernels.windows import Window
from ...kernels.winograd import Plan, form, ways, winograd_kernel
from ..configs import TuningTask, Way
from ..emitter import Blocked, Emitter, known_sizes
from ..fusion import Anchor, FusedKernel, FusionGroup, step_attributes, widened_from
from ..images import as_image, constant_row, image_call, is_known, is_worth_blocks, operands, unwidened, window_of
from ..layouts import blocked, blocked_type, images_of, in_blocks
from .quant import Quantized, constant_weights, quantized


def _anchor(node: Node) -> Anchor | None:
    """Return an anchor for a convolution with constant weights on images that have a form in blocks."""
    x = node.operand(0)
    is_constant = all(value is None or constant_weights(value) is not None for value in node.inputs[1:])
    return Anchor(node, channels=x.type.rank - 1, fusable=ELEMENTS) if is_constant and is_known(x, node) else None


def _conv(emitter: Emitter, group: FusionGroup) -> Blocked:
    """Lower a convolution.

    A network's first layers, whose channels are too few for a block, read images as they are.
    """
    integers = quantized(group.anchor)
    if integers is not None and emitter.machine.has_integers:
        made = _integer_conv(emitter, group, integers)
        if made is not None:
            return made
    node, lanes = group.anchor, emitter.machine.lanes
    x, weights = node.operand(0), node.operand(1)
    data = constant_weights(weights)
    assert data is not None
    images, window = images_of(x.type), window_of(node, data.shape[2:])
    filters, depth, *_ = data.shape
    groups = node.attributes.get("group", 1)
    data, bias = data.reshape(filters, depth, *window.kernel), _bias(node, filters)
    if groups == images.channels == filters > 1:
        return _depthwise(emitter, group, data[:, 0], bias, window, (unwidened(x), 0))
    is_blocked = is_worth_blocks(emitter, x) or groups > 1
    groups, wide, data = merged(groups, data, images.channels, lanes)
    sizes = Convolution(
        batch=images.batch,
        channels=images.channels,
        filters=filters,
        groups=groups,
        depth=data.shape[1],
        window=window,
        block=lanes if is_blocked else 0,
        wide=wide,
        dtype=str((unwidened(x) if is_blocked else x).dtype),
    )
    is_even = data.shape[1] % BF16_DOT.k_per_instruction == 0  # beside an odd channel lies anything
    if sizes.dtype == BFLOAT16 and widened_from(weights) is not None and is_even and emitter.machine.has_bfloat16:
        sizes = replace(sizes, instruction=BF16_DOT)
    return Blocked(_convolved(emitter, group, sizes, two_axes(node.output.shape[2:]), data, bias))


def _convolved(
    emitter: Emitter,
    group: FusionGroup,
    sizes: Convolution,
    spatial: tuple[Dim, Dim],
    weights: np.ndarray,
    bias: np.ndarray,
) -> relax.Expr:
    """Call a kernel for a convolution of what a group's anchor reads, with the group's epilogue.

    The spatial sizes are those of the result.
    """
    x, machine = group.anchor.operand(0), emitter.machine
    x = x if sizes.dtype == "float32" else unwidened(x)
    tensor = in_blocks(emitter, x) if sizes.block else as_image(emitter, x)
    beside = [constant_row(bias, machine.lanes), *operands(emitter, group)]
    blocks = ceil_div(sizes.filters, machine.lanes)
    type = TensorType(DType[group.epilogue.dtype], (x.shape[0], blocks, *spatial, machine.lanes))

    def call(way: Plan | Tile) -> relax.Call:
        if isinstance(way, Plan):
            kernel = winograd_kernel(sizes, way, machine, group.epilogue)
            filters = emitter.packed_constant(weights, form(way, machine))
            return emitter.prim_func("winograd", kernel, [tensor, filters, *beside], type)
        kernel, arrays = _kernel(sizes, weights, way, machine, group.epilogue)
        return emitter.prim_func(_label("conv", way), kernel, [tensor, *map(relax.const, arrays), *beside], type)

    dense = ways(sizes, machine, sizes.instruction.speed)
    return emitter.choices.made(_task(str(group.anchor.location), sizes, weights, dense, machine, call))


def _kernel(
    sizes: Convolution, weights: np.ndarray, tile: Tile, machine: Machine, epilogue: Epilogue
) -> tuple[tirx.PrimFunc, list[np.ndarray]]:
    """Return a kernel, and its arguments that hold the weights."""
    return convolution_kernel(sizes, tile, machine, epilogue), prepared(weights, sizes, tile, machine)


def _label(name: str, tile: Tile) -> str:
    return f"sparse_{name}" if isinstance(tile, SparseTile) else name


def _task(
    layer: str,
    sizes: Convolution,
    weights: np.ndarray,
    dense: Sequence[Way],
    machine: Machine,
    call: Callable[[Way | SparseTile], relax.Call],
) -> TuningTask[Way | SparseTile]:
    """Return the task of a kernel, which may leave out blocks of weights that are zero."""
    sparse = sparse_tiles(sizes, weights, machine)
    if not sparse:
        return TuningTask("conv", layer, sizes, dense, call)
    kind = SparseSizes(sizes, ceil(100 * held_blocks(weights, sizes, sparse[0], machine).mean()))
    return TuningTask("sparse_conv", layer, kind, [*sparse, *dense], call)


def _transposed_anchor(node: Node) -> Anchor | None:
    return _anchor(node) if is_interleaved(node) else None


def _transposed(emitter: Emitter, group: FusionGroup) -> Blocked:
    """Lower a transposed convolution as one convolution for each phase of the strides.

    The taps of each are those of the transposed convolution that fall on its phase, in reverse; the results are
    interleaved.
    """
    node, lanes = group.anchor, emitter.machine.lanes
    x, weights = node.operand(0), node.input(1)
    assert isinstance(weights, Constant)
    images, window = images_of(x.type), window_of(node, weights.type.static_shape[2:])
    channels, filters, *_ = weights.type.static_shape
    (down, across), taps = window.strides, [ceil_div(*pair) for pair in zip(window.kernel, window.strides, strict=True)]
    blocks = ceil_div(filters, lanes)
    data = weights.data.reshape(channels, filters, *window.kernel)
    parts = np.zeros((down, across, blocks * lanes, channels, *taps), np.float32)
    for row, column in np.ndindex(down, across):
        part = data[:, :, row::down, column::across].transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]
        parts[row, column, :filters, :, taps[0] - part.shape[2] :, taps[1] - part.shape[3] :] = part
    outer = two_axes(node.attributes.get("output_padding", (0,) * (x.type.rank - 2)))
    axes = [_part(window, axis, taps[axis], outer[axis]) for axis in range(2)]
    inner = Window(*zip(*axes, strict=True))
    is_whole = (down, across) == (1, 1)
    block = lanes if is_worth_blocks(emitter, x) else 0
    sizes = Convolution(images.batch, channels, down * across * blocks * lanes, 1, channels, inner, block)
    bias = np.tile(np.pad(_bias(node, filters), (0, blocks * lanes - filters)), down * across)
    front = group if is_whole else FusionGroup(node, (), Epilogue(), ())
    rows, columns = two_axes(node.output.shape[2:])
    spatial = _phase(rows, window, 0), _phase(columns, window, 1)
    y = _convolved(emitter, front, sizes, spatial, parts.reshape(-1, channels, *taps), bias)
    if is_whole:
        return Blocked(y)
    phases = Images(images.batch, sizes.filters, known_sizes(spatial))
    kernel = interleave_kernel(phases, window, emitter.machine, group.epilogue)
    return image_call(emitter, group.output, "interleave", kernel, [y, *operands(emitter, group)])


def _part(window: Window, axis: int, taps: int, outer: int) -> tuple[int, ...]:
    """Return an axis of the windows whose results are interleaved, as `Window` has it, given the output's padding."""
    stride, begin, result = window.strides[axis], window.begins[axis], window.result[axis]
    front = taps - 1 - begin // stride
    beyond = ceil_div(window.kernel[axis] - stride - begin - window.ends[axis] + outer + begin % stride, stride)
    phase = result and ceil_div(result + begin % stride, stride)
    return window.image[axis], phase, taps, 1, 1, front, max(beyond + taps - 1 - front, 0)


def _phase(size: Dim, window: Window, axis: int) -> Dim:
    """Return the size along an axis of results that are interleaved."""
    stride, begin = window.strides[axis], window.begins[axis] % window.strides[axis]
    return ceil_div(size + begin, stride) if isinstance(size, int) else f"({size} + {begin + stride - 1})//{stride}"


def _bias(node: Node, filters: int) -> np.ndarray:
    bias = node.input(2)
    return np.zeros(filters, np.float32) if not isinstance(bias, Constant) else bias.data


def _integer_conv(emitter: Emitter, group: FusionGroup, found: Quantized) -> Blocked | None:
    """Lower a convolution of integers; return None where Winograd's algorithm takes less time with floats."""
    node, machine = group.anchor, emitter.machine
    images, window = images_of(found.x.type), window_of(node, found.weights.shape[2:])
    filters, depth, *_ = found.weights.shape
    weights, bias = found.weights.reshape(filters, depth, *window.kernel), _bias(node, filters)
    groups = node.attributes.get("group", 1)
    if groups == images.channels == filters > 1:
        made = _integer_depthwise(emitter, group, found, weights, bias, window)
        if made is not None:
            return made
    groups, wide, weights = merged(groups, weights, images.channels, machine.lanes)
    is_narrow = images.channels <= K_PER_DOT and groups == 1 and found.x not in emitter.blocked
    instruction = Int8Dot.of(machine, np.moveaxis(weights, 1, -1))
    beside = _beside(emitter, found, weights, bias, window, instruction.zero_point_bias)
    sizes = Convolution(
        batch=images.batch,
        channels=images.channels,
        filters=filters,
        groups=groups,
        depth=weights.shape[1],
        window=window,
        block=K_PER_DOT if is_narrow else machine.lanes,
        instruction=instruction,
        has_offsets=len(beside) > 2,
        wide=wide,
        dtype=str(found.x.dtype),
    )
    floats = replace(sizes, instruction=FMA, has_offsets=False, dtype="float32")
    if not is_narrow and isinstance(ways(floats, machine, instruction.speed)[0], Plan):
        return None
    tensor = _quads(emitter, found) if is_narrow else in_blocks(emitter, found.x)
    beside += operands(emitter, group)
    type = blocked_type(emitter, group.output.type)

    def call(tile: Tile) -> relax.Call:
        kernel, arrays = _kernel(sizes, weights, tile, machine, group.epilogue)
        arguments = [tensor, *map(relax.const, arrays), *beside]
        return emitter.prim_func(_label("integer_conv", tile), kernel, arguments, type)

    dense = tiles(sizes, machine)
    return Blocked(emitter.choices.made(_task(str(node.location), sizes, weights, dense, machine, call)))


def _integer_depthwise(
    emitter: Emitter, group: FusionGroup, found: Quantized, weights: np.ndarray, bias: np.ndarray, window: Window
) -> Blocked | None:
    """Lower a depthwise convolution of integers; return None where its windows suit no kernel of dot products."""
    machine, images = emitter.machine, images_of(found.x.type)
    if not machine.has_wide_dots:
        scaled = weights[:, 0] * found.scales[:, None, None]
        return _depthwise(emitter, group, scaled, bias, window, (found.x, found.zero_point))
    if not Quads(window).is_possible:
        return None
    sizes = Channelwise(images.batch, images.blocks(LANES), window, QUADS, images.dtype, found.zero_point)
    constants = [emitter.packed_constant(weights[:, 0], Quads(window).form)]
    constants += _beside(emitter, found, weights, bias, window, 0)
    kernel = channelwise_kernel(sizes, machine, group.epilogue)
    arguments = [in_blocks(emitter, found.x), *constants, *operands(emitter, group)]
    return image_call(emitter, group.output, "integer_depthwise", kernel, arguments)


def _quads(emitter: Emitter, found: Quantized) -> relax.Expr:
    """Call a kernel for blocks of four bytes; if these were quantized from floats, it reads those."""
    x, node = found.x, found.x.producer
    epilogue = Epilogue((Operand(Broadcast.ELEMENTS, str(x.dtype)),), (), str(x.dtype))
    if node is not None and node.operator == "QuantizeLinear" and quant_params_of(node) is not None:
        x = node.operand(0)
        step = PostOp(node.operator, step_attributes(node), (1,))
        epilogue = Epilogue((Operand(Broadcast.ELEMENTS, str(x.dtype)),), (step,), str(found.x.dtype))
    kernel = quads_kernel(images_of(x.type), emitter.machine, epilogue)
    type = blocked_type(emitter, found.x.type, K_PER_DOT)
    return emitter.block.emit(emitter.prim_func("quads", kernel, [as_image(emitter, x)], type))


def _beside(
    emitter: Emitter,
    found: Quantized,
    weights: np.ndarray,
    bias: np.ndarray,
    window: Window,
    shift: int,
) -> list[relax.Expr]:
    """Return bias, scales and, if sums don't start from 0, offsets for bytes from which a `shift` is subtracted."""
    lanes = emitter.machine.lanes
    rows: list[relax.Expr] = [constant_row(row, lanes) for row in (bias, found.scales)]
    zero_point = found.zero_point - shift
    if zero_point and weights.shape[1] == 1:  # they take more than the weights that they are made from
        rows.append(emitter.packed_constant(weights[:, 0], offsets_form(zero_point, window, lanes)))
    elif zero_point:
        rows.append(relax.const(start_offsets(weights, zero_point, window, lanes)))
    return rows


def _depthwise(
    emitter: Emitter,
    group: FusionGroup,
    weights: np.ndarray,
    bias: np.ndarray,
    window: Window,
    images: tuple[Value, int],
) -> Blocked:
    """Lower a depthwise convolution of floats, or of integers with their zero point."""
    (x, zero_point), lanes = images, emitter.machine.lanes
    held = images_of(x.type)
    sizes = Channelwise(held.batch, held.blocks(lanes), window, DEPTHWISE, held.dtype, zero_point)
    kernel = channelwise_kernel(sizes, emitter.machine, group.epilogue)
    constants = [relax.const(blocked(weights[None], lanes)[0], "float32"), constant_row(bias, lanes)]
    arguments = [in_blocks(emitter, x), *constants, *operands(emitter, group)]
    return image_call(emitter, group.output, "depthwise", kernel, arguments)


def _normalize(emitter: Emitter, group: FusionGroup) -> Blocked:
    """Lower a normalization by constants as a depthwise convolution of one tap."""
    node, x = group.anchor, group.anchor.operand(0)
    scale, bias, mean, variance = (value.data for value in node.inputs[1:] if isinstance(value, Constant))
    factor = scale / np.sqrt(variance + np.float32(node.attributes.get("epsilon", 1e-5)))
    rows, columns = two_axes(size or 0 for size in images_of(group.output.type).spatial)
    window = Window.points((rows, columns))
    return _depthwise(emitter, group, factor.reshape(-1, 1, 1), bias - mean * factor, window, (unwidened(x), 0))


def _normalization_anchor(node: Node) -> Anchor | None:
    return None if node.attributes.get("training_mode", 0) or len(node.outputs) > 1 else _anchor(node)


FUSED_KERNELS = {
    "BatchNormalization": FusedKernel(_normalization_anchor, _normalize),
    "Conv": FusedKernel(_anchor, _conv),
    "ConvTranspose": FusedKernel(_transposed_anchor, _transposed),
}
