"""Attention by a kernel of our own; `legalize` spells out what that doesn't compute."""

import math
from typing import TYPE_CHECKING, Any

from ...ir.dims import Dim
from ...ir.graph import Node, Value
from .groups import ROUNDING, Anchor, Group, Template, widened_from
from .kernels.attention import Attention, attention_kernel, is_paired_attention

if TYPE_CHECKING:
    from .lowering import Lowering


def _anchor(node: Node) -> Anchor | None:
    return Anchor(node, channels=1, joins=ROUNDING)


def _attention(lowering: "Lowering", group: Group) -> Any:
    node = group.anchor
    q, k, v = (_operand(node, index) for index in range(3))
    mask, get = node.input(3), node.attributes.get
    scale = get("scale", None)
    is_flat = q.type.rank == 3
    heads, kept = (
        get(name, 1) if is_flat else value.shape[1] for name, value in (("q_num_heads", q), ("kv_num_heads", k))
    )
    assert isinstance(heads, int)
    assert isinstance(kept, int)
    size, depth = (_static(value.shape[-1]) // (kept if is_flat else 1) for value in (k, v))
    full = (q.shape[0], heads, q.shape[-2], k.shape[-2])
    shape = () if mask is None else (1,) * (4 - mask.type.rank) + mask.shape
    narrow = [value for value in map(widened_from, (q, k, v)) if value is not None]
    if len(narrow) == 3 and is_paired_attention(size, depth, lowering.machine):
        q, k, v = narrow
    kernel = Attention(
        batch=_known(q.shape[0]),
        queries=_known(q.shape[-2]),
        keys=_known(k.shape[-2]),
        heads=heads,
        sharing=heads // kept,
        size=size,
        depth=depth,
        is_flat=is_flat,
        is_causal=bool(get("is_causal", 0)),
        scale=1 / math.sqrt(size) if scale is None else float(scale),
        mask="" if mask is None else str(mask.dtype),
        spread=tuple(axis for axis, (dim, whole) in enumerate(zip(shape, full, strict=False)) if dim == 1 != whole),
        dtype=str(q.dtype),
        result=group.epilogue.dtype,
    )
    arguments = [lowering.tensor(value) for value in (q, k, v)]
    if mask is not None:
        arguments.append(lowering.shaped(mask, shape))
    return lowering.prim_func("attention", attention_kernel(kernel, lowering.machine), arguments, group.output.type)


def _operand(node: Node, index: int) -> Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _known(dim: Dim) -> int | None:
    return dim if isinstance(dim, int) else None


def _static(dim: Dim) -> int:
    assert isinstance(dim, int)
    return dim


TEMPLATES = {"Attention": Template(_anchor, _attention)}
