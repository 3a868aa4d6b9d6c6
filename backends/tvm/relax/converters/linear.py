"""Matrix products (GEMM), by our own kernels where there is a template for them."""

from collections.abc import Sequence

import numpy as np
from tvm import relax

from .....ir.dims import Dim
from .....ir.graph import Constant, Node, Value
from .....ir.types import DType
from ...kernels.epilogue import Broadcast
from ...kernels.gemm import Gemm, Matrix, gemm_kernel, packed, tiles
from ...kernels.instructions.base import FMA, Instruction
from ...kernels.instructions.bf16_dot import BF16_DOT, Bf16Dot
from ...kernels.instructions.int8_dot import Int8Dot
from ...kernels.sparse_gemm import SparseMatrix, SparseSizes, SparseTile, compressed, mean_held_blocks, sparse_tiles
from ...kernels.tiles import Tile
from ...kernels.vector_math import ELEMENTS
from ..broadcasting import bind_result, may_stretch, operand
from ..configs import TuningTask
from ..emitter import Emitter, known_size, known_sizes
from ..fusion import Anchor, FusedKernel, FusionGroup, widened_from
from ..importer import imported
from .quant import constant_weights, quantized


def _matmul_anchor(node: Node) -> Anchor | None:
    return Anchor(node, channels=1, fusable=ELEMENTS) if _has_template(node) or _is_batched(node) else None


def _gemm_anchor(node: Node) -> Anchor | None:
    get = node.attributes.get
    if not _has_template(node) or get("transA", 0) or get("beta", 1.0) != 1:
        return None
    return Anchor(node, channels=1, addend=node.input(2), fusable=ELEMENTS)


def _integer_anchor(node: Node) -> Anchor | None:
    return Anchor(node, channels=1, fusable=ELEMENTS)


def _has_template(node: Node) -> bool:
    """Whether a node multiplies float32 with constant weights, and nothing is certain to be empty."""
    x, weights = node.operand(0), _weights(node)
    return x.dtype is DType.float32 and weights is not None and 0 not in (*x.shape, *weights.shape)


def _weights(node: Node) -> np.ndarray | None:
    """Return the right operand if it is a constant matrix, or made from one at compile time.

    It may be transposed, like the weights of a head that shares the embeddings' table; dequantized; or widened, and is
    then returned in bfloat16.
    """
    value = node.operand(1)
    return _matrix(value) if value.type.rank == 2 else None


def _matrix(value: Value) -> np.ndarray | None:
    if isinstance(value, Constant):
        return value.data
    node = value.producer
    if node is not None and node.operator == "Transpose":
        table = _matrix(node.operand(0))
        return None if table is None else table.transpose(node.attributes.get("perm", (1, 0)))
    narrow = widened_from(value)
    return constant_weights(value) if narrow is None else _matrix(narrow)


def _is_batched(node: Node) -> bool:
    """Whether a node multiplies float32 tensors, item by item, or all items of one with a matrix."""
    x, right = node.operand(0), node.operand(1)
    return (
        x.dtype is DType.float32
        and x.type.rank >= 2
        and right.type.rank >= 2
        and isinstance(right.shape[-1], int)
        and x.shape[-1] == right.shape[-2]
        and (2 in (x.type.rank, right.type.rank) or x.shape[:-2] == right.shape[:-2])
        and 0 not in (*x.shape, *right.shape)
    )


def _matmul(emitter: Emitter, node: Node) -> relax.Expr:
    """Multiply items, which are spread first where only data tells whether one operand has one for all of the other."""
    factors = [node.operand(index) for index in range(2)]
    pairs = [(factor, (*node.output.shape[:-2], *factor.shape[-2:])) for factor in factors]
    if min(factor.type.rank for factor in factors) < 3 or not any(may_stretch(emitter, *pair) for pair in pairs):
        return imported(emitter, node)
    bind_result(emitter, node, inner=2)
    return relax.op.matmul(*(operand(emitter, *pair) for pair in pairs))


def _product(emitter: Emitter, group: FusionGroup) -> relax.Expr:
    integers = quantized(group.anchor)
    if integers is not None and Int8Dot.fits(integers.weights, emitter.machine):
        bias = Int8Dot.of(emitter.machine, integers.weights.T).zero_point_bias
        beside = [relax.const(integers.offsets(bias)), relax.const(integers.scales)]
        matrix = Matrix(has_offsets=True, is_scaled=True)
        return _integer_product(emitter, group, (integers.x, integers.weights), beside, matrix)
    node, weights = group.anchor, _weights(group.anchor)
    if weights is None:
        return _batched(emitter, group)
    x, get = node.operand(0), node.attributes.get
    weights = weights.T if get("transB", 0) else weights
    if get("alpha", 1.0) != 1:
        weights = weights.astype(np.float32) * np.float32(get("alpha", 1.0))
    narrow = widened_from(x) if Bf16Dot.fits(weights, emitter.machine) else None
    instruction = FMA if narrow is None else BF16_DOT
    return _constant_product(emitter, group, (x if narrow is None else narrow, weights), instruction)


def _batched(emitter: Emitter, group: FusionGroup) -> relax.Expr:
    """Call a kernel that multiplies two tensors of which the right one is no matrix of weights."""
    x, right = group.anchor.operand(0), group.anchor.operand(1)
    columns, items = right.shape[-1], right.type.rank - 2
    assert isinstance(columns, int)
    rows, is_shared = known_sizes(group.anchor.output.shape[:-1]), x.type.rank == 2 and items > 0
    sizes = Gemm(rows, known_size(x.shape[-1]), columns, items, is_packed=False, shares_left=is_shared)
    arguments = [emitter.tensor(x), emitter.tensor(right), *operands(emitter, group, columns)]

    def call(tile: Tile) -> relax.Call:
        kernel = gemm_kernel(sizes, tile, emitter.machine, group.epilogue)
        return emitter.prim_func("gemm", kernel, arguments, group.output.type)

    ways = tiles(sizes, emitter.machine)
    return emitter.choices.made(TuningTask("gemm", str(group.anchor.location), sizes, ways, call))


def _sums(emitter: Emitter, group: FusionGroup) -> relax.Expr:
    """Lower a MatMulInteger that legalize has left in the graph."""
    x, weights, zero_point = group.anchor.operand(0), group.anchor.constant(1), group.anchor.input(2)
    assert weights is not None
    offsets = -weights.sum(0, dtype=np.int32)
    if zero_point is None:
        start = offsets * np.int32(-Int8Dot.of(emitter.machine, weights.T).zero_point_bias)
        return _integer_product(emitter, group, (x, weights), [relax.const(start)], Matrix(has_offsets=True))
    shape = zero_point.shape or (1, 1)
    beside = [relax.const(offsets), emitter.shaped(zero_point, shape)]
    matrix = Matrix(has_offsets=True, zero_points=1 if shape == (1, 1) else 2)
    return _integer_product(emitter, group, (x, weights), beside, matrix)


def _integer_product(
    emitter: Emitter,
    group: FusionGroup,
    factors: tuple[Value, np.ndarray],
    beside: Sequence[relax.Expr],
    matrix: Matrix,
) -> relax.Expr:
    """Call a kernel of integers, with the further arguments that undo their quantization."""
    return _constant_product(emitter, group, factors, Int8Dot.of(emitter.machine, factors[1].T), beside, matrix)


def _constant_product(
    emitter: Emitter,
    group: FusionGroup,
    factors: tuple[Value, np.ndarray],
    instruction: Instruction,
    beside: Sequence[relax.Expr] = (),
    matrix: Matrix = Matrix(),
) -> relax.Expr:
    """Call a kernel of a value and constant weights `[K, N]`, without the blocks that are zero where that is faster."""
    (x, weights), machine = factors, emitter.machine
    sizes = Gemm(known_sizes(x.shape[:-1]), *weights.shape, instruction=instruction)
    left, beside = emitter.tensor(x), [*beside, *operands(emitter, group, sizes.n)]
    name, layer = "gemm" if matrix == Matrix() else "integer_gemm", str(group.anchor.location)

    def call(tile: Tile) -> relax.Call:
        if isinstance(tile, SparseTile):
            held = mean_held_blocks(weights, tile, instruction)
            right, arrays = SparseMatrix.of(matrix, held), compressed(weights, tile, instruction)
        else:
            right, arrays = matrix, [packed(weights, tile, instruction)]
        kernel = gemm_kernel(sizes, tile, machine, group.epilogue, right)
        label = f"sparse_{name}" if isinstance(tile, SparseTile) else name
        return emitter.prim_func(label, kernel, [left, *map(relax.const, arrays), *beside], group.output.type)

    dense, sparse = tiles(sizes, machine), sparse_tiles(sizes, weights, machine)
    if not sparse:
        return emitter.choices.made(TuningTask(name, layer, sizes, dense, call))
    kind = SparseSizes(sizes, mean_held_blocks(weights, sparse[0], instruction))
    return emitter.choices.made(TuningTask(f"sparse_{name}", layer, kind, [*sparse, *dense], call))


def operands(emitter: Emitter, group: FusionGroup, channels: Dim) -> list[relax.Expr]:
    """Return the operands of a group's epilogue: a number for each channel, or tensors of the result's shape."""
    shape = group.output.shape
    shapes: dict[Broadcast, Sequence[Dim]] = {
        Broadcast.CHANNELS: (channels,),
        Broadcast.ELEMENTS: shape,
        Broadcast.ROWS: (*shape[:-1], 1),
    }
    pairs = zip(group.operands, group.epilogue.operands, strict=True)
    return [emitter.shaped(value, shapes[operand.reach]) for value, operand in pairs]


CONVERTERS = {"MatMul": _matmul}
FUSED_KERNELS = {
    "Gemm": FusedKernel(_gemm_anchor, _product),
    "MatMul": FusedKernel(_matmul_anchor, _product),
    "MatMulInteger": FusedKernel(_integer_anchor, _sums),
}
