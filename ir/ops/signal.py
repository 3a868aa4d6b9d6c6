"""Spectra, and the windows and filters that go with them. Complex numbers are pairs along the last axis."""

import math

import torch
from torch import Tensor

from ..types import DType
from ..unknown import is_unknown
from .dtypes import torch_dtype
from .from_data import Axes, FromData, nothing
from .registry import Ints, operator

_COSINES = {"BlackmanWindow": (0.42, 0.5, 0.08), "HammingWindow": (25 / 46, 21 / 46), "HannWindow": (0.5, 0.5)}
"""Each window as an alternating sum of cosines: `a - b cos x + c cos 2x`."""


def _register_window(name: str, terms: tuple[float, ...]) -> None:
    def meaning(size: Ints, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
        period = size[0] if periodic else size[0] - 1
        angle = torch.arange(size[0], dtype=torch.float64) * (2 * math.pi / period)
        y = sum((-1) ** order * term * torch.cos(order * angle) for order, term in enumerate(terms))
        return torch.as_tensor(y).to(torch_dtype(DType(output_datatype)))

    operator(name, from_data={"size": FromData(lambda: [{0: 0}], 2, is_size=True)})(meaning)


for _name, _terms in _COSINES.items():
    _register_window(_name, _terms)


def _single(x: Tensor) -> Tensor:
    """The tensor in float32 or wider, since torch has no transforms of narrower types."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _complex(x: Tensor) -> Tensor:
    """A tensor of real numbers, or of complex ones, without the axis of parts."""
    return x[..., 0] if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


def _spectrum(x: Tensor, axis: Ints | None) -> Axes:
    """The axis that is transformed; if it isn't known any but the last, which holds the parts."""
    return range(x.ndim - 1) if is_unknown(axis) else [(axis[0] if axis else -2) % x.ndim]


@operator(
    "DFT",
    from_data={
        "dft_length": FromData(_spectrum, 1),
        "axis": FromData(
            lambda x, dft_length, onesided: range(x.ndim - 1) if onesided or dft_length else [],
            lambda x: [x.shape.index(max(x.shape[:-1]))],  # a transform back from one frequency has no elements
        ),
    },
)
def discrete_fourier_transform(
    x: Tensor, dft_length: Ints | None = None, axis: Ints | None = None, *, inverse: int = 0, onesided: int = 0
) -> Tensor:
    if onesided and not inverse and x.shape[-1] == 2:
        raise ValueError("half a spectrum is that of real numbers, and these are complex (onesided=1)")
    along = (axis[0] if axis else -2) % x.ndim
    length = dft_length[0] if dft_length else None
    if not all(size is None or isinstance(size, int) for size in (*x.shape, length)):  # only inference gets here
        size = x.shape[along] if length is None else length
        if onesided:
            half = size // 2 + 1
            size = half if not inverse else size if length is not None else 2 * (size - 1)
        return x.new_empty((*x.shape[:along], size, *x.shape[along + 1 : -1], 1 if inverse and onesided else 2))
    values = _complex(_single(x))
    if inverse and onesided:
        return torch.fft.irfft(values, length, along).unsqueeze(-1).to(x.dtype)
    if onesided:
        return torch.view_as_real(torch.fft.rfft(values, length, along)).to(x.dtype)
    return torch.view_as_real((torch.fft.ifft if inverse else torch.fft.fft)(values, length, along)).to(x.dtype)


def _length(signal: Tensor, window: Tensor | None) -> int:
    """The length of a frame that isn't given: the window's, or without a window the signal's."""
    return signal.shape[1] if window is None else window.shape[0]


def _transformed(window: Tensor | None) -> Axes:
    """The number of frames and their length, which is a window's if there is one."""
    return [1, 2] if window is None else []


@operator(
    "STFT",
    from_data={
        "frame_step": FromData(lambda: [1], 2),
        "frame_length": FromData(_transformed, lambda signal, window: [_length(signal, window)]),
    },
)
def short_time_fourier_transform(
    signal: Tensor,
    frame_step: Ints,
    window: Tensor | None = None,
    frame_length: Ints | None = None,
    *,
    onesided: int = 1,
) -> Tensor:
    length = frame_length[0] if frame_length else _length(signal, window)
    frames = _complex(_single(signal)).unfold(1, length, frame_step[0])
    frames = frames if window is None else frames * _single(window)
    rows = frames.reshape(-1, length)  # two axes, since torch can't infer a transform of more symbolic ones
    spectrum = torch.view_as_real(torch.fft.rfft(rows) if onesided else torch.fft.fft(rows))
    return spectrum.reshape(frames.shape[0], frames.shape[1], spectrum.shape[1], 2).to(signal.dtype)


@operator(
    "MelWeightMatrix",
    from_data={
        "num_mel_bins": FromData(lambda: [{1: 0}], 1, is_size=True),
        "dft_length": FromData(lambda: [0], 2),
        **dict.fromkeys(("sample_rate", "lower_edge_hertz", "upper_edge_hertz"), FromData(nothing, 1)),
    },
)
def mel_weight_matrix(
    num_mel_bins: Ints,
    dft_length: Ints,
    sample_rate: Ints,
    lower_edge_hertz: Ints,
    upper_edge_hertz: Ints,
    *,
    output_datatype: int = 1,
) -> Tensor:
    """Triangular filters `[spectrum, mel]`, evenly spaced on the mel scale."""
    bins, length = num_mel_bins[0], dft_length[0]
    low, high = (2595 * math.log10(1 + edge[0] / 700) for edge in (lower_edge_hertz, upper_edge_hertz))
    mel = low + torch.arange(bins + 2, dtype=torch.float64) * ((high - low) / (bins + 2))
    hertz = 700 * (10 ** (mel / 2595) - 1)
    edges = torch.floor((length + 1) * hertz / sample_rate[0])
    left, center, right = edges[:-2], edges[1:-1], edges[2:]
    place = torch.arange(length // 2 + 1, dtype=torch.float64).unsqueeze(1)
    rise = torch.where(center == left, 1, (place - left) / (center - left))
    fall = (right - place) / (right - center)
    y = torch.where((left <= place) & (place <= center), rise, 0)
    y = torch.where((center <= place) & (place < right), fall, y)
    return y.to(torch_dtype(DType(output_datatype)))
