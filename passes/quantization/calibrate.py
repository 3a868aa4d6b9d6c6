"""Calibration: runs real inputs through the float graph and watches the values that will be quantized."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...ir.errors import UsageError
from ...ir.graph import Graph, Value
from ..base import Feeds, PassContext
from .clipping import Bounds
from .observers import Observer

if TYPE_CHECKING:
    from torch import Tensor


def calibrate(
    graph: Graph,
    values: Mapping[Value, Bounds],
    observer: type[Observer],
    batches: Sequence[Feeds],
    context: PassContext,
) -> dict[Value, tuple[float, float]]:
    """The range of each value over the calibration data.

    Args:
        graph: still in float.
        values: of the graph, with the bounds beyond which nobody sees a difference.
        observer: how a range is chosen.
        batches: of inputs.
        context: to whom progress is reported.
    """
    from ...ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    observers = {value: observer() for value in values}

    def observe(value: Value, tensor: "Tensor") -> None:
        if value in observers:
            observers[value].update(tensor.numpy().clip(*values[value]))

    interpreter = Interpreter(graph)
    for done, batch in enumerate(batches):
        context.progress("calibrating", done, len(batches))
        interpreter.run(batch, observe)
    context.progress("calibrating", len(batches), len(batches))
    return {value: held.range() for value, held in observers.items()}


def first_batches(context: PassContext, samples: int) -> list[Feeds]:
    """The calibration batches that hold the first samples; the first axis counts them.

    Raises:
        UsageError: there is no calibration data.
    """
    if not context.calibration:
        raise UsageError(
            "static int8 quantization needs calibration data: give it with --data, as `calibration` under `data` "
            "in the recipe, or as data= from Python; or use quantize{scheme=int8-dynamic}, which needs none"
        )
    return first_batches_of(context.calibration, samples)


def first_batches_of(batches: Sequence[Feeds], samples: int) -> list[Feeds]:
    """The batches that hold the first samples."""
    kept: list[Feeds] = []
    for batch in batches:
        if samples <= 0:
            break
        kept.append(batch)
        samples -= max((array.shape[0] for array in batch.values() if array.ndim), default=1)
    return kept
