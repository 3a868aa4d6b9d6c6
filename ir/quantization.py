"""The integers that stand for floats: `real = scale * (integer - zero_point)`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from .block_weight import BlockScheme, BlockWeight
from .graph import Node
from .types import DType

LARGEST_BIAS = 2**30
"""The largest bias, in steps of its grid, whose sum with the products stays within int32."""

_TINY = float(np.finfo(np.float32).tiny)
_HUGE = 1e36
"""The largest scale, as `_TINY` is the smallest, for which both its reciprocal and the grid's ends are finite."""

_LEAST_SHARE = 1e-20
"""The least scale of a channel, as a share of the largest: gradients of still smaller ones would be no numbers."""


@dataclass(frozen=True, slots=True)
class QuantParams:
    """An affine map from 8-bit integers to floats, for a whole tensor.

    Attributes:
        scale: the distance between neighbours.
        zero_point: the integer that stands for 0, which is always exact.
        dtype: the type of the integers: `uint8` or `int8`.
    """

    scale: float
    zero_point: int
    dtype: DType

    @classmethod
    def over(cls, low: float, high: float, dtype: DType) -> Self:
        """The finest grid over a range, widened to hold 0."""
        limits = np.iinfo(dtype.numpy)
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / (limits.max - limits.min), _TINY) if high > low else 1.0
        return cls(scale, int(limits.min + round(-low / scale)), dtype)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point as QuantizeLinear takes them."""
        return np.asarray(self.scale, np.float32), np.asarray(self.zero_point, self.dtype.numpy)


def quant_params_of(node: Node) -> QuantParams | None:
    """The grid of a QuantizeLinear or DequantizeLinear between float32 and 8-bit integers; None unless it has one."""
    scale, zero_point, x = node.constant(1), node.constant(2), node.inputs[0]
    assert x is not None
    floats, integers = (x, node.output) if node.operator == "QuantizeLinear" else (node.output, x)
    if (
        integers.dtype not in (DType.uint8, DType.int8)
        or floats.dtype is not DType.float32
        or node.attributes.get("precision", 0) not in (0, DType.float32.value)
        or scale is None
        or scale.dtype != np.float32
        or scale.size != 1
        or not _TINY <= scale.item() <= _HUGE
        or (node.input(2) is not None and (zero_point is None or zero_point.size != 1))
    ):
        return None
    return QuantParams(scale.item(), 0 if zero_point is None else int(zero_point.item()), integers.dtype)


@dataclass(frozen=True, slots=True)
class IntegerWeight:
    """A weight in 8-bit integers around 0.

    Attributes:
        data: the integers, int8, in the shape of the weight.
        scale: the scale, float32: one for all, or one for each channel along `axis`.
        axis: the axis of the channels that have a scale of their own; None where one scale holds for all.
    """

    data: np.ndarray
    scale: np.ndarray
    axis: int | None

    @classmethod
    def of(cls, columns: BlockWeight, shape: Sequence[int], axis: int) -> Self:
        """Return a weight of some shape from its channels as the columns of a matrix, each one symmetric block.

        Channels of zeros have a scale of one, by which whatever is added to them can be divided.
        """
        others = [size for index, size in enumerate(shape) if index != axis % len(shape)]
        is_zero = columns.scales[0] < _TINY
        data = (columns.codes.astype(np.int16) - columns.scheme.codes // 2).astype(np.int8) * ~is_zero
        scale = np.where(is_zero, np.float32(1), columns.scales[0])
        return cls(np.moveaxis(data.reshape(*others, -1), -1, axis), scale, axis)


def quantize_weight(
    weight: np.ndarray, axis: int | None, bits: int = 8, least: np.ndarray | float = 0.0
) -> IntegerWeight:
    """Round a weight to integers of `bits` bits, symmetric around 0.

    With less than 7 bits, the scales of channels have the least squared error. With more, clipping gains nothing.

    Args:
        weight: the weight, in floats.
        axis: the axis of the channels that get a scale of their own; None for one scale.
        bits: the number of bits that the integers may take up.
        least: lower bounds of the scales, by channel.
    """
    top = 2 ** (bits - 1) - 1
    others = tuple(index for index in range(weight.ndim) if index != axis)
    largest = np.abs(weight).max(axis=others, initial=0.0)
    scale = np.maximum(largest / top, least)
    scale = np.where(scale < _TINY, 1.0, np.maximum(scale, _LEAST_SHARE * largest.max(initial=0.0) / top))
    scale = scale.astype(np.float32)
    whole = IntegerWeight(
        np.clip(np.rint(weight / np.expand_dims(scale, others)), -top, top).astype(np.int8), scale, axis
    )
    if axis is None or bits >= 7:
        return whole
    columns = np.moveaxis(weight, axis, -1).reshape(-1, weight.shape[axis])
    clipped = IntegerWeight.of(
        BlockWeight.over(columns, BlockScheme(bits, block=0, symmetric=True)), weight.shape, axis
    )
    is_held = clipped.scale >= least
    data = np.where(np.expand_dims(is_held, others), clipped.data, whole.data)
    return IntegerWeight(data, np.where(is_held, clipped.scale, scale), axis)


def least_scales(bias: np.ndarray, step: np.ndarray | float) -> np.ndarray:
    """The least scales of a layer's weight by which its bias can be divided, and then fits int32 with the products.

    Args:
        bias: the bias, in floats.
        step: the scale of what the layer reads.
    """
    return np.maximum(np.abs(bias) / LARGEST_BIAS, _TINY) / step
