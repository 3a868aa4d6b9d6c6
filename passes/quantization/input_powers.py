"""How much the rows of a weight count: the mean squares of the input channels that they multiply."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.errors import ModelError
from ...ir.graph import Graph, Value
from ..base import Feeds, PassContext
from ..judge import Reference
from ..probes import PROBE_SIZES, make_probes
from .calibrate import show
from .layers import Layer, WeightKey

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

_SIZES = (((2, 32), (3, 64)), *PROBE_SIZES)
"""Sizes of random inputs, preferably as many words as a short text has: the first ones of a text are special."""


def input_powers(
    graph: Graph, weights: Mapping[WeightKey, Sequence[Layer]], batches: Sequence[Feeds], context: PassContext
) -> dict[WeightKey, np.ndarray]:
    """Return the sums of squares of the channels that each weight of MatMul and Gemm multiplies, `[K]`.

    Random inputs show as well what normalizations and biases make of channels. Sums are zero for what wasn't seen, and
    all are where the graph runs on no random input.

    Args:
        graph: the graph in float.
        weights: the layers that share each weight.
        batches: calibration data, one batch after another; random inputs stand in where there are none.
        context: the context that has the seed of random inputs, and that progress is reported to.
    """
    sums: dict[Value, np.ndarray] = {layer.x: np.zeros(1) for layers in weights.values() for layer in layers}

    def see(_batch: int, value: Value, tensor: "Tensor") -> None:
        if value in sums:
            squares = tensor.reshape(-1, tensor.shape[-1]).double().square()
            sums[value] = sums[value] + squares.sum(dim=0).numpy()

    if sums:
        inputs = batches or _random_inputs(graph, context.seed)
        show(Reference(graph), inputs, [see], context, "looking at what layers read")
    return {key: sum((sums[layer.x] for layer in layers), np.zeros(1)) for key, layers in weights.items()}


def _random_inputs(graph: Graph, seed: int) -> Sequence[Feeds]:
    try:
        return make_probes(graph, (), seed, sizes=_SIZES)
    except ModelError:  # it runs on none
        return ()
