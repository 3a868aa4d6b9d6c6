"""The steps of a recurrent layer, of which what the inputs add to the gates is known for all steps."""

import torch
from torch import Tensor

from .registry import operator
from .rnn import gru, lstm, rnn


def _types(
    gates: Tensor, r: Tensor, *inputs: Tensor | None, outputs: int = 2, **attributes: object
) -> tuple[Tensor, ...]:
    (time, batch, _), hidden = gates.shape, r.shape[0]
    return gates.new_empty((time, batch, hidden)), *[gates.new_empty((batch, hidden)) for _ in range(outputs - 1)]


@operator("planish::RecurrentSteps", types=_types)
def recurrent_steps(
    gates: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    layer: str,
    activations: tuple[str, ...],
    clip: float | None = None,
    direction: str = "forward",
    input_forget: int = 0,
    linear_before_reset: int = 0,
    outputs: int = 2,
) -> tuple[Tensor, ...]:
    """Run one direction of a layer, whose inputs are the gates themselves: its weights are the unit matrix.

    Args:
        gates: what the input and all biases but `b` add to the gates, `[time, batch, gates * hidden]`.
        r: the weights of the state, `[hidden, gates * hidden]`.
        b: the bias that a GRU adds before it resets (`linear_before_reset`), `[hidden]`.
        sequence_lens: the length of each sequence, `[batch]`.
        initial_h: the state to begin with, `[batch, hidden]`, as is `initial_c`.
        initial_c: an LSTM's cells to begin with.
        p: an LSTM's peepholes, `[3 * hidden]`.
        layer: RNN, GRU or LSTM.
        activations: the activations of the direction.
        clip: the bound of the sums that go into the gates.
        direction: `forward` or `reverse`.
        input_forget: whether an LSTM forgets what it doesn't take in.
        linear_before_reset: whether a GRU resets what its state adds instead of the state.
        outputs: the number of outputs: the state at each step, the last one, and an LSTM's last cells.
    """
    width = gates.shape[2]
    weights = torch.eye(width, dtype=gates.dtype)[None], r.T[None]
    biases = None if b is None else torch.cat([b.new_zeros(2 * width - len(b)), b])[None]
    h, c = (None if state is None else state[None] for state in (initial_h, initial_c))
    inputs = gates, *weights, biases, sequence_lens, h
    if layer == "LSTM":
        holes = None if p is None else p[None]
        y, *states = lstm(
            *inputs,
            c,
            holes,
            activations=activations,
            clip=clip,
            direction=direction,
            input_forget=input_forget,
            outputs=3,
        )
    elif layer == "GRU":
        before = linear_before_reset
        y, *states = gru(
            *inputs, activations=activations, clip=clip, direction=direction, linear_before_reset=before, outputs=2
        )
    else:
        y, *states = rnn(*inputs, activations=activations, clip=clip, direction=direction, outputs=2)
    return y[:, 0], *(state[0] for state in states)
