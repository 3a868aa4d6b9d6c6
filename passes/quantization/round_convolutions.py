"""GPTQ for int8 convolutions: what one weight loses by rounding, those that are rounded after it make up for.

Pixels beside each other are nearly alike, and channels go together, so that the errors of a kernel's weights add up; with
the second moments of what a convolution reads they are made to cancel (Frantar et al., "GPTQ: Accurate Post-Training
Quantization for Generative Pre-trained Transformers", ICLR 2023). Depthwise ones gain most: they have few weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...ir.graph import Graph, Value
from ...ir.quantization import IntegerWeight, quantize_weight
from ..base import Feeds, PassContext
from .layers import Layer, WeightKey

if TYPE_CHECKING:
    from torch import Tensor

_MOST_MOMENTS = 1 << 20
"""The most second moments that are kept of what one convolution reads."""

_DAMPING = 0.01
"""What is added to the second moments, as a share of their mean."""


@dataclass(slots=True)
class _Moments:
    """Sums over the windows that a convolution reads: of products, `[groups, K, K]`, of values, and how many there are."""

    products: "Tensor | float" = 0.0
    values: "Tensor | float" = 0.0
    count: int = 0

    def update(self, windows: "Tensor") -> None:
        """Add windows `[groups, K, count]`."""
        self.products = self.products + (windows @ windows.transpose(1, 2)).double()
        self.values = self.values + windows.sum(-1).double()
        self.count += windows.shape[-1]

    def matrix(self, *, centered: bool) -> np.ndarray:
        """The mean products, float64 `[groups, K, K]`, perhaps of what differs from the mean."""
        import torch

        products, values = torch.as_tensor(self.products) / self.count, torch.as_tensor(self.values) / self.count
        return (products - values[:, :, None] * values[:, None] if centered else products).numpy()


@dataclass(slots=True)
class _Seen:
    """What a convolution reads: in batches that its rounding is fitted to, and in those that judge it."""

    fit: _Moments = field(default_factory=_Moments)
    held_out: _Moments = field(default_factory=_Moments)


def round_convolutions(
    graph: Graph, layers: Sequence[Layer], bits: int, batches: Sequence[Feeds], judges: int, context: PassContext
) -> dict[WeightKey, IntegerWeight]:
    """Round the weights of Conv layers so that their outputs change less than by rounding each weight by itself.

    The error is that around its mean where the layer has a bias, which takes back the mean.

    Args:
        graph: in float.
        layers: of it that will compute in integers.
        bits: of a weight.
        batches: of inputs.
        judges: how many of them, at the end, are held out.
        context: to whom progress is reported.

    Returns:
        The weights that gain on what is held out.
    """
    from ...ir.interpreter import Interpreter  # brings torch, which listing the passes must not

    readers: dict[Value, list[Layer]] = {}
    seen: dict[Layer, _Seen] = {}
    for layer in layers:
        if layer.node.operator == "Conv" and not layer.shares_weight and _is_plain(layer):
            readers.setdefault(layer.x, []).append(layer)
            seen[layer] = _Seen()
    interpreter = Interpreter(graph)
    for done, batch in enumerate(batches if seen else ()):
        context.progress("observing windows", done, len(batches))
        is_held_out = done >= max(1, len(batches) - judges)

        def observe(value: Value, x: "Tensor", is_held_out: bool = is_held_out) -> None:
            for layer in readers.get(value, ()):
                moments = seen[layer].held_out if is_held_out else seen[layer].fit
                moments.update(_windows(layer, x))

        interpreter.run(batch, observe)
    found: dict[WeightKey, IntegerWeight] = {}
    for done, (layer, held) in enumerate(seen.items()):
        context.progress("rounding convolutions", done, len(seen))
        made = _rounded(layer, held, bits)
        if made is not None:
            found[layer.key] = made
    return found


def _is_plain(layer: Layer) -> bool:
    """Whether a layer is a 2-D convolution with even padding, of which few enough moments are kept."""
    attributes, weight = layer.node.attributes, layer.weight.data
    pads = attributes.get("pads", (0, 0, 0, 0))
    groups, size = attributes.get("group", 1), int(np.prod(weight.shape[1:]))
    is_even = len(pads) == 4 and pads[:2] == pads[2:] and attributes.get("auto_pad", "NOTSET") == "NOTSET"
    return weight.ndim == 4 and is_even and groups * size * size <= _MOST_MOMENTS


def _windows(layer: Layer, x: "Tensor") -> "Tensor":
    """What is multiplied by the weights, `[groups, K, windows]`."""
    from torch.nn.functional import unfold

    attributes, kernel = layer.node.attributes, layer.weight.data.shape[2:]
    dilations, pads, strides = (
        tuple(attributes.get(name, default))
        for name, default in (("dilations", (1, 1)), ("pads", (0, 0)), ("strides", (1, 1)))
    )
    windows = unfold(x, kernel, dilations, pads[:2], strides).transpose(0, 1).flatten(1)
    groups = attributes.get("group", 1)
    return windows.reshape(groups, -1, windows.shape[-1])


def _rounded(layer: Layer, seen: _Seen, bits: int) -> IntegerWeight | None:
    """The weight as GPTQ rounds it; None where that is no better."""
    centered = layer.bias is not None
    fit = seen.fit.matrix(centered=centered)
    held_out = seen.held_out.matrix(centered=centered) if seen.held_out.count else fit
    plain, weight = quantize_weight(layer.weight.data, 0, bits), layer.weight.data
    groups = len(fit)
    exact = weight.reshape(groups, len(weight) // groups, -1).astype(np.float64)
    scale = plain.scale.astype(np.float64).reshape(groups, -1, 1)
    codes = _gptq(exact / scale, fit, 2 ** (bits - 1) - 1)
    errors = [_error((made.reshape(exact.shape) * scale) - exact, held_out) for made in (plain.data, codes)]
    made = codes.reshape(weight.shape).astype(np.int8)
    return IntegerWeight(made, plain.scale, 0) if errors[1] < errors[0] else None


def _gptq(left: np.ndarray, moments: np.ndarray, top: int) -> np.ndarray:
    """Round `[groups, M, K]` to whole numbers up to `top`, with moments `[groups, K, K]`."""
    left, size = left.copy(), left.shape[-1]
    energy = np.einsum("gkk->gk", moments)
    mean = np.maximum(energy.mean(axis=1, keepdims=True), 1e-30)
    damped = moments + np.eye(size) * np.where(energy > 0, _DAMPING * mean, mean)[:, None]
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    codes = np.empty_like(left)
    for place in range(size):
        codes[..., place] = np.clip(np.rint(left[..., place]), -top, top)
        error = (left[..., place] - codes[..., place]) / upper[:, place, place, None]
        left[..., place + 1 :] -= error[..., None] * upper[:, None, place, place + 1 :]
    return codes


def _error(difference: np.ndarray, moments: np.ndarray) -> float:
    """The mean squared error of the outputs."""
    return float(np.sum((difference @ moments) * difference))
