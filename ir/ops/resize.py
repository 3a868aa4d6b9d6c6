"""Resize: interpolation along one axis after the other, which is exact because every mode of ONNX's is separable.

An output place is mapped to a coordinate of the input, and its value is a weighted sum of the taps around that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from ..unknown import UNKNOWN
from .from_data import Axes, FromData, along, for_each_axis, nothing
from .registry import Ints, operator


@dataclass(frozen=True, slots=True)
class _Sampling:
    """How a place is mapped to the input and what its taps weigh; the names are the attributes'."""

    mode: str
    transformation: str
    nearest: str
    cubic_a: float
    antialias: bool
    exclude_outside: bool
    extrapolation: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis to resize: its sizes, the exact ratio between them, and the part of the input that is looked at."""

    axis: int
    size: int
    wanted: int
    scale: float
    extent: float
    start: float
    end: float


def _resized(x: Tensor, row: Ints, axes: tuple[int, ...] | None, keep_aspect_ratio_policy: str) -> Axes:
    return along(x, row if keep_aspect_ratio_policy == "stretch" else UNKNOWN, axes)


@operator(
    "Resize",
    from_data={
        "roi": FromData(nothing, lambda: None),
        "scales": FromData(along, for_each_axis(1)),
        "sizes": FromData(_resized, for_each_axis(1)),
    },
)
def resize(
    x: Tensor,
    roi: Ints | None = None,
    scales: Ints | None = None,
    sizes: Ints | None = None,
    *,
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    along = [axis % x.ndim for axis in axes] if axes else list(range(x.ndim))
    sampling = _Sampling(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(antialias),
        bool(exclude_outside),
        extrapolation_value,
    )
    have = [x.shape[axis] for axis in along]
    if sizes:
        wanted, factors = _fit(have, sizes, keep_aspect_ratio_policy)
        extents: Sequence[float] = wanted
    elif scales:
        factors = scales
        wanted = [_scaled(size, scale) for size, scale in zip(have, scales, strict=True)]
        extents = [size * scale for size, scale in zip(have, scales, strict=True)]
    else:
        raise ValueError("Resize needs scales or sizes")
    y = x if x.is_floating_point() or mode == "nearest" else x.float()
    for index, axis in enumerate(along):
        bounds = (roi[index], roi[index + len(along)]) if roi else (0.0, 1.0)
        if factors[index] != 1 or tuple(bounds) != (0, 1):
            y = _resample(y, _Axis(axis, have[index], wanted[index], factors[index], extents[index], *bounds), sampling)
    if y.dtype is x.dtype:
        return y
    limits = torch.iinfo(x.dtype)
    return y.round().clamp(limits.min, limits.max).to(x.dtype)


def _scaled(size: int, scale: float) -> int:
    if isinstance(size, int):
        return math.floor(np.float32(size) * np.float32(scale))  # as ONNX multiplies: 0.7 of 10 is 7
    ratio = Fraction(scale).limit_denominator(1024)  # keeps a symbolic size an integer expression
    return size * ratio.numerator // ratio.denominator


def _fit(have: list[int], sizes: Ints, policy: str) -> tuple[list[int], list[float]]:
    """The sizes that are made, and the scales to them."""
    scales = [size / old for size, old in zip(sizes, have, strict=True)]
    if policy == "stretch":
        return list(sizes), scales
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [math.floor(scale * old + 0.5) for old in have], [scale] * len(have)


def _resample(x: Tensor, along: _Axis, sampling: _Sampling) -> Tensor:
    at = _coordinates(along, sampling.transformation, x.device)
    if sampling.mode == "nearest":
        y = x.index_select(along.axis, _nearest(at, sampling.nearest).clamp(0, along.size - 1))
    else:
        y = _interpolate(x, at, along, sampling)
    if sampling.transformation != "tf_crop_and_resize":
        return y
    outside = (at < 0) | (at > along.size - 1)
    return torch.where(outside.reshape(-1, *(1,) * (x.ndim - 1 - along.axis)), sampling.extrapolation, y)


def _coordinates(along: _Axis, transformation: str, device: torch.device) -> Tensor:
    """Where each output place lies along the input's axis."""
    places = torch.arange(along.wanted, dtype=torch.float64, device=device)
    last = along.size - 1
    match transformation:
        case "asymmetric":
            return (places.float() / along.scale).double()  # as ONNX divides: 3 by 0.6 is 5
        case "align_corners":
            return places * (last / (along.extent - 1)) if along.extent != 1 else places * 0
        case "tf_crop_and_resize":
            reach = (along.end - along.start) * last
            inner = places * (reach / (along.extent - 1)) if along.extent != 1 else places * 0 + reach / 2
            return inner + along.start * last
        case "pytorch_half_pixel" if along.extent == 1:
            return places * 0 - 0.5
        case "half_pixel_symmetric":
            offset = along.size / 2 * (1 - along.wanted / along.extent)
            return offset + (places + 0.5) / along.scale - 0.5
        case _:
            return (places + 0.5) / along.scale - 0.5


def _nearest(at: Tensor, mode: str) -> Tensor:
    rounded = {
        "round_prefer_floor": lambda: torch.ceil(at - 0.5),
        "round_prefer_ceil": lambda: torch.floor(at + 0.5),
        "floor": lambda: torch.floor(at),
        "ceil": lambda: torch.ceil(at),
    }
    return rounded[mode]().long()


def _interpolate(x: Tensor, at: Tensor, along: _Axis, sampling: _Sampling) -> Tensor:
    """A weighted sum of the taps around each coordinate; antialiasing widens the filter where it shrinks."""
    shrink = min(along.scale, 1.0) if sampling.antialias else 1.0
    radius = 1 if sampling.mode == "linear" else 2
    first = math.floor(-radius / shrink) + 1
    left = torch.ceil(at) - 1
    offsets = torch.arange(first, 2 - first, device=x.device)
    taps = left.long().unsqueeze(1) + offsets  # [output, tap]
    distance = ((taps - at.unsqueeze(1)) * shrink).abs()
    weights = 1 - distance if sampling.mode == "linear" else _cubic(distance, sampling.cubic_a)
    weights = torch.where(distance < radius, weights, 0)
    if sampling.exclude_outside:
        weights = torch.where((taps >= 0) & (taps < along.size), weights, 0)
    weights = (weights / weights.sum(1, keepdim=True)).to(x.dtype)
    taps = taps.clamp(0, along.size - 1)
    trailing = (1,) * (x.ndim - 1 - along.axis)
    parts = [
        x.index_select(along.axis, taps[:, tap]) * weights[:, tap].reshape(-1, *trailing)
        for tap in range(2 - 2 * first)
    ]
    return torch.stack(parts).sum(0)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel (IEEE Transactions on Acoustics, Speech and Signal Processing 29, 1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return torch.where(distance <= 1, near, far)
