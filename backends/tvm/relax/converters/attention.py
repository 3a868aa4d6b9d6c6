"""Attention by our own kernel; `legalize` spells out what the kernel doesn't compute."""

import math

from tvm import relax

from .....ir.dims import Dim
from .....ir.graph import Node
from .....ir.types import TensorType
from ...kernels.attention import Attention, attention_kernel, is_paired_attention
from ..emitter import Emitter, known_size
from ..fusion import ROUNDING, Anchor, FusedKernel, FusionGroup, widened_from


def _anchor(node: Node) -> Anchor | None:
    return Anchor(node, channels=1, fusable=ROUNDING)


def _attention(emitter: Emitter, group: FusionGroup) -> relax.Expr:
    node = group.anchor
    q, k, v = (node.operand(index) for index in range(3))
    mask, get = node.input(3), node.attributes.get
    scale = get("scale", None)
    is_flat = q.type.rank == 3
    heads, kept = (
        get(name, 1) if is_flat else value.shape[1] for name, value in (("q_num_heads", q), ("kv_num_heads", k))
    )
    assert isinstance(heads, int)
    assert isinstance(kept, int)
    size, depth = (_static(value.shape[-1]) // (kept if is_flat else 1) for value in (k, v))
    is_causal, queries, sharing = bool(get("is_causal", 0)), q.shape[-2], heads // kept
    shape = () if mask is None else (1,) * (4 - mask.type.rank) + mask.shape
    if queries == 1 and sharing > 1 and not is_flat and not is_causal:  # heads that share keys, as queries of one head
        if shape:
            shape = (*shape[:1], *((1, 1) if shape[1:2] == (1,) else (kept, sharing)), *shape[3:])
        heads, queries, sharing = kept, sharing, 1
    full = (q.shape[0], heads, queries, k.shape[-2])
    narrow = [value for value in map(widened_from, (q, k, v)) if value is not None]
    if len(narrow) == 3 and is_paired_attention(size, depth, emitter.machine):
        q, k, v = narrow
    kernel = Attention(
        batch=known_size(q.shape[0]),
        queries=known_size(queries),
        keys=known_size(k.shape[-2]),
        heads=heads,
        sharing=sharing,
        size=size,
        depth=depth,
        is_flat=is_flat,
        is_causal=is_causal,
        scale=1 / math.sqrt(size) if scale is None else float(scale),
        mask="" if mask is None else str(mask.dtype),
        spread=tuple(axis for axis, (dim, whole) in enumerate(zip(shape, full, strict=False)) if dim == 1 != whole),
        dtype=str(q.dtype),
        result=group.epilogue.dtype,
    )
    forms = [value.shape if is_flat else (*full[:-1], width) for value, width in ((q, size), (group.output, depth))]
    arguments = [emitter.shaped(q, forms[0]), emitter.tensor(k), emitter.tensor(v)]
    if mask is not None:
        arguments.append(emitter.shaped(mask, shape))
    type = TensorType(group.output.dtype, tuple(forms[1]))
    found = emitter.prim_func("attention", attention_kernel(kernel, emitter.machine), arguments, type)
    if type == group.output.type:
        return found
    return emitter.reshaped(found, emitter.shape(group.output.shape))


def _static(dim: Dim) -> int:
    assert isinstance(dim, int)
    return dim


FUSED_KERNELS = {"Attention": FusedKernel(_anchor, _attention)}
