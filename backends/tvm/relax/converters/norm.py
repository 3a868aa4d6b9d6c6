"""Softmax, normalization and quantization along the last axis, by kernels of our own."""

from tvm import relax

from .....ir.graph import Node, Value
from .....ir.types import DType
from .....passes.legalization.expansions.integers import ROW_QUANTIZER
from ...kernels.rows import Norm, norm_kernel, quantize_kernel, softmax_kernel
from ..emitter import Converter, Emitter, known_sizes
from ..fusion import ROUNDING, Anchor, FusedKernel, FusionGroup
from ..importer import imported


def softmax(emitter: Emitter, node: Node) -> relax.Expr:
    rows = rows_of(node, node.attributes.get("axis", -1))
    if rows is None:
        return imported(emitter, node)
    x, lead, columns = rows
    return emitter.prim_func("softmax", softmax_kernel(lead, columns, emitter.machine), [emitter.tensor(x)], x.type)


def _norm_anchor(node: Node) -> Anchor | None:
    rows = rows_of(node, node.attributes.get("axis", -1))
    fits = rows is not None and all(value is None or value.shape == (rows[2],) for value in node.inputs[1:])
    return Anchor(node, channels=1, fusable=ROUNDING) if fits else None


def _norm(emitter: Emitter, group: FusionGroup) -> relax.Expr:
    node = group.anchor
    rows = rows_of(node)
    assert rows is not None
    x, lead, columns = rows
    vectors = [value for value in node.inputs[1:] if value is not None]
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    norm = Norm(epsilon, node.operator == "LayerNormalization", len(vectors) > 1, group.epilogue.dtype)
    kernel = norm_kernel(lead, columns, norm, emitter.machine)
    arguments = [emitter.tensor(value) for value in (x, *vectors)]
    return emitter.prim_func("layer_norm" if norm.is_centered else "rms_norm", kernel, arguments, group.output.type)


def quantize(emitter: Emitter, node: Node) -> relax.Expr:
    rows = rows_of(node)
    if rows is None:
        return imported(emitter, node)
    x, lead, columns = rows
    kernel = quantize_kernel(lead, columns, node.operator == ROW_QUANTIZER, emitter.machine)
    return emitter.prim_func("quantize", kernel, [emitter.tensor(x)], *(output.type for output in node.outputs))


def rows_of(node: Node, axis: int = -1) -> tuple[Value, tuple[int | None, ...], int] | None:
    """Return what a node computes by row: the tensor, its other axes, and the rows' length; None without a kernel."""
    x = node.operand(0)
    columns = x.shape[-1] if x.type.rank else None
    if x.dtype is not DType.float32 or axis not in (-1, x.type.rank - 1) or not isinstance(columns, int):
        return None
    lead = known_sizes(x.shape[:-1])
    return None if 0 in (*lead, columns) else (x, lead, columns)


CONVERTERS: dict[str, Converter] = {
    "DynamicQuantizeLinear": quantize,
    "Softmax": softmax,
    ROW_QUANTIZER: quantize,
}
FUSED_KERNELS = dict.fromkeys(("LayerNormalization", "RMSNormalization"), FusedKernel(_norm_anchor, _norm))
