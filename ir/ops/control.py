"""Control flow: operators that hold graphs, which reach their functions as bodies to call."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..limits import MOST_STEPS
from ..types import TensorType
from .dtypes import torch_dtype
from .registry import Body, Ints, operator, unpacked


@operator("If")
def if_(condition: Tensor, *, then_branch: Body, else_branch: Body, outputs: int = 1) -> Any:
    return unpacked((then_branch if bool(condition) else else_branch)())


@operator("Loop")
def loop(
    limit: Ints | None = None, condition: Tensor | None = None, *carried: Any, body: Body, outputs: int = 1
) -> Any:
    """Run the body on a step's number, the condition and the carried values, while the condition holds."""
    count, held = len(carried), carried
    rows: list[tuple[Tensor, ...]] = []
    going = condition is None or bool(condition)
    while going and (limit is None or len(rows) < limit[0]):
        if len(rows) == MOST_STEPS:
            raise ValueError(f"it has not come to an end after {MOST_STEPS:,} steps")
        flag, *results = body(torch.tensor(len(rows)), torch.tensor(going), *held)
        held, going = tuple(results[:count]), bool(flag)
        rows.append(tuple(results[count:]))
    return unpacked((*held, *_stacked(rows, body.types[1 + count :], [0] * (outputs - count))))


@operator("Scan")
def scan(
    *initial_state_and_scan_inputs: Tensor,
    body: Body,
    num_scan_inputs: int,
    scan_input_axes: tuple[int, ...] | None = None,
    scan_input_directions: tuple[int, ...] | None = None,
    scan_output_axes: tuple[int, ...] | None = None,
    scan_output_directions: tuple[int, ...] | None = None,
    outputs: int = 1,
) -> Any:
    """Run the body on the states and each slice of the scanned inputs in turn; a direction of 1 goes backwards."""
    count = len(initial_state_and_scan_inputs) - num_scan_inputs
    states, scanned = initial_state_and_scan_inputs[:count], initial_state_and_scan_inputs[count:]
    axes = scan_input_axes or (0,) * num_scan_inputs
    if any(x.shape[axis] > MOST_STEPS for x, axis in zip(scanned, axes, strict=True)):
        raise ValueError(f"it would take more than {MOST_STEPS:,} steps")
    slices = [list(x.unbind(axis)) for x, axis in zip(scanned, axes, strict=True)]
    for row, backwards in zip(slices, scan_input_directions or (), strict=False):
        if backwards:
            row.reverse()
    rows: list[tuple[Tensor, ...]] = []
    for step in zip(*slices, strict=True):
        results = body(*states, *step)
        states = results[:count]
        rows.append(results[count:])
    stacked = _stacked(rows, body.types[count:], scan_output_axes or [0] * (outputs - count))
    directions = scan_output_directions or (0,) * len(stacked)
    turned = [
        y.flip(axis % y.ndim) if backwards else y
        for y, axis, backwards in zip(stacked, scan_output_axes or [0] * len(stacked), directions, strict=True)
    ]
    return unpacked((*states, *turned))


def _stacked(rows: list[tuple[Tensor, ...]], types: Sequence[TensorType], axes: Sequence[int]) -> list[Tensor]:
    """Every step's results on a new axis; of no step at all, tensors without elements."""
    if rows:
        return [torch.stack(column, axis) for column, axis in zip(zip(*rows, strict=True), axes, strict=True)]
    shapes = [[dim if isinstance(dim, int) else 0 for dim in type.dims or ()] for type in types]
    return [
        torch.empty(
            [*shape[: axis % (len(shape) + 1)], 0, *shape[axis % (len(shape) + 1) :]], dtype=torch_dtype(type.dtype)
        )
        for shape, type, axis in zip(shapes, types, axes, strict=True)
    ]
