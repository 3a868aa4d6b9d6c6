"""Recurrent layers in training, where torch has one kernel for all steps of a sequence, and back."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_SETTINGS = ("activation_alpha", "activation_beta", "clip", "input_forget")
"""Attributes, beside the activations, that change what an LSTM computes."""
_PLAIN = ("sigmoid", "tanh", "tanh")


def fused_lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    direction: str = "forward",
    layout: int = 0,
    outputs: int = 1,
    **settings: Any,
) -> Tensor | tuple[Tensor, ...] | None:
    """An LSTM of the standard by torch's own kernel; None where that has no counterpart."""
    names = tuple(map(str.lower, settings.pop("activations", None) or _PLAIN))
    is_plain = names[:3] == names[-3:] == _PLAIN and not any(settings.get(name) for name in _SETTINGS)
    if not is_plain or sequence_lens is not None or p is not None or x.dtype not in (torch.float32, torch.float64):
        return None
    time, is_reverse = (1 if layout else 0), direction == "reverse"
    states = [_state(given, x, r, layout) for given in (initial_h, initial_c)]
    weights: list[Tensor] = []
    for index in range(len(w)):
        weights += [_turned(w[index]), _turned(r[index])]
        weights += [] if b is None else map(_turned, b[index].chunk(2))
    read = x.flip(time) if is_reverse else x
    settled = (b is not None, 1, 0.0, torch.is_grad_enabled(), direction == "bidirectional", bool(layout))
    y, *last = torch.lstm(read, states, weights, *settled)
    y = (y.flip(time) if is_reverse else y).unflatten(-1, (len(w), r.shape[2]))
    y = y if layout else y.transpose(1, 2)
    last = [state.transpose(0, 1) for state in last] if layout else last
    return y if outputs == 1 else (y, *last)[:outputs]


def _turned(weight: Tensor) -> Tensor:
    """Rows of gates in torch's order (input, forget, cell, output) from ONNX's (input, output, forget, cell)."""
    i, o, forget, cell = weight.chunk(4)
    return torch.cat((i, forget, cell, o))


def _state(given: Tensor | None, x: Tensor, r: Tensor, layout: int) -> Tensor:
    """The state to start from, `[direction, batch, hidden]`."""
    if given is None:
        return x.new_zeros((len(r), x.shape[0 if layout else 1], r.shape[2]))
    return given.transpose(0, 1).contiguous() if layout else given


def _vectorized(
    info: Any,
    axes: Any,
    x: Tensor,
    states: Sequence[Tensor],
    weights: list[Tensor],
    *settings: Any,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The rule for `torch.vmap`, which has none for LSTMs: samples become more of the batch.

    Args:
        info: holds the number of samples.
        axes: the axis along which samples lie for each of the operands; None where all share one.
        x: what is read, `[time, batch, size]`, or `[batch, time, size]` if the last of the settings is true.
        states: the states to start from.
        weights: those of all directions.
        settings: what else torch's LSTM takes.
    """
    count, batch = info.batch_size, 0 if settings[-1] else 1
    if any(axis is not None for axis in axes[2]):
        raise NotImplementedError("an LSTM with other weights for each sample")

    def joined(tensor: Tensor, axis: int | None, place: int) -> Tensor:
        if axis is None:
            return torch.cat([tensor] * count, place)
        return tensor.movedim(axis, place).flatten(place, place + 1)

    begun = [joined(state, axis, 1) for state, axis in zip(states, axes[1], strict=True)]
    y, *last = torch.lstm(joined(x, axes[0], batch), begun, weights, *settings)
    found = (y.unflatten(batch, (count, -1)), *(state.unflatten(1, (count, -1)) for state in last))
    return found, (batch, 1, 1)


torch.library.register_vmap("aten::lstm.input", _vectorized)
