"""Elementwise operators that stand alone, on images in blocks and operands that are broadcast to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .bfloat16 import BFLOAT16, stored_as
from .blocked_epilogue import BlockedEpilogue, each_pixel
from .epilogue import Epilogue, viewed
from .machine import Machine
from .prim_func import kernel
from .vector_math import ELEMENTS, Attributes
from .vectors import Scalar, cast, ramp, spread

Shape = tuple[int | None, ...]
"""The sizes of a tensor: None for a batch that isn't known; scalars have no sizes."""
Form = tuple[str, Shape]
"""An element type and sizes."""


@dataclass(frozen=True, slots=True)
class BlockedElementwise:
    """An operator and the shapes that it is applied to.

    Attributes:
        operator: one of `ELEMENTS`.
        attributes: by name.
        operands: tensors, in blocks or with one number for all lanes, or numbers; None for what is left out.
        result: images in blocks.
    """

    operator: str
    attributes: Attributes
    operands: tuple[Form | None, ...]
    result: Form


@lru_cache
@kernel
def blocked_elementwise_kernel(sizes: BlockedElementwise, machine: Machine) -> None:
    """Emit a kernel of the operands that aren't left out to the result."""
    batch = tirx.Var("batch", "int64")
    buffers = [
        None if form is None else T.arg(f"operand{index}", T.buffer(_sizes(form[1], batch), form[0]))
        for index, form in enumerate(sizes.operands)
    ]
    dtype, shape = sizes.result[0], _sizes(sizes.result[1], batch)
    y = viewed(T.arg("y", T.buffer(shape, dtype)), shape)
    buffers = [None if buffer is None else viewed(buffer, buffer.shape) for buffer in buffers]
    lanes = sizes.result[1][-1]
    assert lanes is not None
    with each_pixel(shape, machine, imports=dtype == BFLOAT16) as place:
        vectors = [
            None if form is None or buffer is None else _vector(buffer, form[1], place, lanes)
            for buffer, form in zip(buffers, sizes.operands, strict=True)
        ]
        result = ELEMENTS[sizes.operator](dict(sizes.attributes).get, *vectors)
        T.buffer_store(y, cast(result, stored_as(dtype)), [*place, ramp(0, lanes)])


@lru_cache
@kernel
def pixels_kernel(shape: Shape, machine: Machine, epilogue: Epilogue) -> None:
    """Emit a kernel of an epilogue's operands to its result, images in blocks."""
    sizes = _sizes(shape, tirx.Var("batch", "int64"))
    finish = BlockedEpilogue.of(epilogue, sizes).viewed(sizes)
    with each_pixel(sizes, machine, imports=epilogue.is_coarse) as place:
        finish.store_one(None, place)


def _sizes(shape: Shape, batch: Scalar) -> tuple[Scalar, ...]:
    return tuple(batch if size is None else size for size in shape)


def _vector(buffer: tirx.Buffer, shape: Shape, place: Sequence[Scalar], lanes: int) -> tirx.Expr:
    """Return an operand's vector for a place of the result; axes of one element are broadcast."""
    if not shape:
        return spread(buffer[()], lanes)
    at = [0 if size == 1 else index for size, index in zip(shape[:-1], place, strict=True)]
    return spread(buffer[(*at, 0)], lanes) if shape[-1] == 1 else buffer[(*at, ramp(0, lanes))]
