"""Recurrent layers, step by step: any activations, directions, peepholes and lengths of the standard's.

Inside, a sequence is `[time, batch, size]`. A sequence that is shorter than the others keeps its state once it has
ended, and its outputs are zero from there on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..traits import Trait
from .quant import dynamic_quantize_linear
from .registry import operator
from .trained_rnn import fused_lstm

Activation = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""A function of what the input adds to the gates and of the state, which returns the next state, the output first."""
Floats = tuple[float, ...] | None

_ACTIVATIONS: dict[str, tuple[Callable[..., Tensor], tuple[float | None, float | None]]] = {
    "affine": (lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "elu": (F.elu, (1.0, None)),
    "hardsigmoid": (lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1), (0.2, 0.5)),
    "leakyrelu": (F.leaky_relu, (0.01, None)),
    "relu": (torch.relu, (None, None)),
    "scaledtanh": (lambda x, alpha, beta: alpha * torch.tanh(beta * x), (1.0, 1.0)),
    "sigmoid": (torch.sigmoid, (None, None)),
    "softplus": (F.softplus, (None, None)),
    "softsign": (F.softsign, (None, None)),
    "tanh": (torch.tanh, (None, None)),
    "thresholdedrelu": (lambda x, alpha: torch.where(x >= alpha, x, 0), (1.0, None)),
}
"""The activation functions by lower-case name, each with the defaults of alpha and beta, None where it has none."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """What the three operators share.

    Attributes:
        x: the input, `[time, batch, size]`.
        lengths: the length of each sequence; None where all are full.
        directions: whether each direction runs backwards.
        activations: the activations of each direction.
        batch_first: whether states and outputs have the batch as their first axis.
    """

    x: Tensor
    lengths: Tensor | None
    directions: tuple[bool, ...]
    activations: list[list[Activation]]
    batch_first: bool

    def state(self, given: Tensor | None, r: Tensor) -> Tensor:
        """The state to start from, `[direction, batch, hidden]`.

        Raises:
            ValueError: the one that is given is for another batch.
        """
        if given is None:
            return self.x.new_zeros((len(self.directions), self.x.shape[1], r.shape[2]))
        state = given.transpose(0, 1) if self.batch_first else given
        if state.shape[1] != self.x.shape[1]:
            raise ValueError(
                f"it begins with states for a batch of {state.shape[1]}, and reads one of {self.x.shape[1]}"
            )
        return state

    def results(self, runs: Sequence[tuple[Tensor, tuple[Tensor, ...]]], outputs: int) -> Tensor | tuple[Tensor, ...]:
        """The operator's outputs from each direction's outputs and last state."""
        y = torch.stack([run for run, _ in runs], 1)  # [time, direction, batch, hidden]
        last = [torch.stack(row) for row in zip(*(state for _, state in runs), strict=True)]
        if self.batch_first:
            y, last = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in last]
        return y if outputs == 1 else (y, *last)[:outputs]

    def run(
        self, index: int, gates: Tensor, state: tuple[Tensor, ...], step: Step
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One direction over all steps, from what the inputs add to the gates, `[time, batch, gates]`."""
        order = self._order() if self.directions[index] else None
        if order is not None:
            gates = gates.gather(0, order.expand(gates.shape))
        rows: list[Tensor] = []
        for time, row in enumerate(gates.unbind(0)):
            new = step(row, state)
            if self.lengths is None:
                state = new
                rows.append(new[0])
                continue
            alive = (time < self.lengths).unsqueeze(1)
            state = tuple(torch.where(alive, after, before) for after, before in zip(new, state, strict=True))
            rows.append(torch.where(alive, new[0], 0))
        y = torch.stack(rows) if rows else state[0].new_zeros((0, *state[0].shape))
        return (y if order is None else y.gather(0, order.expand(y.shape))), state

    def _order(self) -> Tensor:
        """The step that takes each step's place in a sequence read backwards, `[time, batch, 1]`; its own inverse."""
        steps = torch.arange(self.x.shape[0], device=self.x.device).unsqueeze(1)
        lengths = steps.new_full((1,), self.x.shape[0]) if self.lengths is None else self.lengths.long()
        places = torch.where(steps < lengths, lengths - 1 - steps, steps)
        return places.expand(self.x.shape[0], self.x.shape[1]).unsqueeze(2)


def _directions(direction: str, w: Tensor) -> tuple[bool, ...]:
    """Whether each direction that weights are for runs backwards.

    Raises:
        ValueError: the layer runs in more directions, or in fewer.
    """
    found = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    if w.shape[0] != len(found):
        raise ValueError(f"it runs in {len(found)} of the {w.shape[0]} directions that its weights are for")
    return found


def _layer(
    x: Tensor,
    w: Tensor,
    lengths: Tensor | None,
    direction: str,
    activations: Sequence[str],
    alphas: Floats,
    betas: Floats,
    clip: float | None,
    layout: int,
    of_sums: int = 3,
) -> _Layer:
    """The layer of an operator, the first of whose activations take sums that are clipped."""
    directions = _directions(direction, w)
    functions = _functions(activations, list(alphas or ()), list(betas or ()))
    each = len(functions) // len(directions)
    rows = [functions[index * each : (index + 1) * each] for index in range(len(directions))]
    if clip is not None:
        rows = [[_clipped(function, clip) for function in row[:of_sums]] + row[of_sums:] for row in rows]
    return _Layer(x.transpose(0, 1) if layout else x, lengths, directions, rows, bool(layout))


def _functions(names: Sequence[str], alphas: list[float], betas: list[float]) -> list[Activation]:
    """The activations; those that take an alpha or beta use up the given ones in turn."""
    made: list[Activation] = []
    for name in names:
        function, defaults = _ACTIVATIONS[name.lower()]
        given = [
            values.pop(0) if values else default
            for values, default in zip((alphas, betas), defaults, strict=True)
            if default is not None
        ]
        made.append(_filled(function, given))
    return made


def _filled(function: Callable[..., Tensor], arguments: list[float]) -> Activation:
    return lambda x: function(x, *arguments)


def _clipped(function: Activation, limit: float) -> Activation:
    return lambda x: function(x.clamp(-limit, limit))


def _gates(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """What the input adds to the gates of a direction."""
    return x @ w.T if b is None else x @ w.T + b.chunk(2)[0]


def _recurrent_bias(b: Tensor | None, r: Tensor) -> Tensor:
    return r.new_zeros(r.shape[0]) if b is None else b.chunk(2)[1]


def _types(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    *inputs: Tensor | None,
    direction: str = "forward",
    layout: int = 0,
    outputs: int = 1,
    **attributes: object,
) -> Tensor | tuple[Tensor, ...]:
    directions = len(_directions(direction, w))
    time, batch, hidden = *(x.shape[1], x.shape[0])[:: 1 if layout else -1], r.shape[2]
    y = x.new_empty((batch, time, directions, hidden) if layout else (time, directions, batch, hidden))
    state = x.new_empty((batch, directions, hidden) if layout else (directions, batch, hidden))
    return y if outputs == 1 else (y, state, state)[:outputs]


@operator("RNN", types=_types, traits=Trait.RECURRENT)
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Floats = None,
    activation_beta: Floats = None,
    activations: tuple[str, ...] = ("Tanh", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    names = activations[: 1 + (direction == "bidirectional")]
    layer = _layer(x, w, sequence_lens, direction, names, activation_alpha, activation_beta, clip, layout)
    start = layer.state(initial_h, r)

    def run(index: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        bias = None if b is None else b[index]
        (f,), recurrent = layer.activations[index], _recurrent_bias(bias, r[index])

        def step(gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (f(gates + state[0] @ r[index].T + recurrent),)

        return layer.run(index, _gates(layer.x, w[index], bias), (start[index],), step)

    return layer.results([run(index) for index in range(len(layer.directions))], outputs)


@operator("GRU", types=_types, traits=Trait.RECURRENT)
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Floats = None,
    activation_beta: Floats = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Gates are in the order update, reset, hidden."""
    names = activations or ("Sigmoid", "Tanh") * 2
    names = names[: 2 + 2 * (direction == "bidirectional")]
    layer = _layer(x, w, sequence_lens, direction, names, activation_alpha, activation_beta, clip, layout)
    start = layer.state(initial_h, r)

    def run(index: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        bias = None if b is None else b[index]
        (f, g), weights = layer.activations[index], r[index].chunk(3)
        recurrent = _recurrent_bias(bias, r[index]).chunk(3)

        def step(gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (h,), (z, reset, hidden) = state, gates.chunk(3, -1)
            z = f(z + h @ weights[0].T + recurrent[0])
            reset = f(reset + h @ weights[1].T + recurrent[1])
            if linear_before_reset:
                new = g(hidden + reset * (h @ weights[2].T + recurrent[2]))
            else:
                new = g(hidden + (reset * h) @ weights[2].T + recurrent[2])
            return ((1 - z) * new + z * h,)

        return layer.run(index, _gates(layer.x, w[index], bias), (start[index],), step)

    return layer.results([run(index) for index in range(len(layer.directions))], outputs)


def _trained_lstm(
    x: Tensor, w: Tensor, r: Tensor, *others: Tensor | None, **attributes: Any
) -> Tensor | tuple[Tensor, ...]:
    fused = fused_lstm(x, w, r, *others, **attributes)
    return lstm(x, w, r, *others, **attributes) if fused is None else fused


@operator("LSTM", types=_types, trainable=_trained_lstm, traits=Trait.RECURRENT)
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    activation_alpha: Floats = None,
    activation_beta: Floats = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Gates are in the order input, output, forget, cell; peepholes in the order input, output, forget.

    What is clipped is the sums that go into the gates; the cell itself is not, as ONNX Runtime has it too.
    """
    names = _names_of_lstm(activations, direction)
    layer = _layer(x, w, sequence_lens, direction, names, activation_alpha, activation_beta, clip, layout, of_sums=2)
    return _cells(layer, (w, r), b, (initial_h, initial_c), p, input_forget=input_forget, outputs=outputs)


def _names_of_lstm(activations: tuple[str, ...] | None, direction: str) -> tuple[str, ...]:
    names = activations or ("Sigmoid", "Tanh", "Tanh") * 2
    return names[: 3 + 3 * (direction == "bidirectional")]


def _cells(
    layer: _Layer,
    weights: tuple[Tensor, Tensor],
    b: Tensor | None,
    states: tuple[Tensor | None, Tensor | None],
    p: Tensor | None,
    *,
    input_forget: int,
    outputs: int,
    read: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor | tuple[Tensor, ...]:
    """Run the cells of an LSTM; `read` is what becomes of the input, and of the state, before it is multiplied."""
    w, r = weights
    start, cells = (layer.state(given, r) for given in states)

    def run(index: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        bias = None if b is None else b[index]
        (f, g, h), recurrent = layer.activations[index], _recurrent_bias(bias, r[index])
        peepholes = r.new_zeros((3, r.shape[2])) if p is None else p[index].reshape(3, -1)

        def step(gates: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            cell = state[1]
            i, o, forget, new = (gates + read(state[0]) @ r[index].T + recurrent).chunk(4, -1)
            i = f(i + peepholes[0] * cell)
            forget = 1 - i if input_forget else f(forget + peepholes[2] * cell)
            cell = forget * cell + i * g(new)
            return f(o + peepholes[1] * cell) * h(cell), cell

        return layer.run(index, _gates(read(layer.x), w[index], bias), (start[index], cells[index]), step)

    return layer.results([run(index) for index in range(len(layer.directions))], outputs)


def _types_of_turned(
    x: Tensor, w: Tensor, r: Tensor, *inputs: Tensor | None, outputs: int = 1, direction: str = "forward", **others: Any
) -> Tensor | tuple[Tensor, ...]:
    return _types(x, w, r.mT, direction=direction, outputs=outputs)


@operator("com.microsoft::DynamicQuantizeLSTM", types=_types_of_turned, traits=Trait.QUANTIZING)
def dynamic_quantize_lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    sequence_lens: Tensor | None,
    initial_h: Tensor | None,
    initial_c: Tensor | None,
    p: Tensor | None,
    w_scale: Tensor,
    w_zero_point: Tensor,
    r_scale: Tensor,
    r_zero_point: Tensor,
    *,
    activation_alpha: Floats = None,
    activation_beta: Floats = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """LSTM with the weights of all gates as columns of 8-bit integers, `[direction, size, 4 * hidden]`.

    Scales and zero points are for a direction, or for each column. The input as a whole, and the state at each step,
    are put on grids of uint8 that span their ranges. Threads of ONNX Runtime sharing a batch have grids of their own.
    """
    names = _names_of_lstm(activations, direction)
    layer = _layer(x, w, sequence_lens, direction, names, activation_alpha, activation_beta, clip, 0, of_sums=2)
    weights = _from_columns(w, w_scale, w_zero_point), _from_columns(r, r_scale, r_zero_point)
    states = (initial_h, initial_c)
    return _cells(layer, weights, b, states, p, input_forget=input_forget, outputs=outputs, read=_on_grid_of_bytes)


def _from_columns(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return weights in floats with a row for each of the columns, as LSTM has them."""
    directions = len(integers)
    zero_points = zero_point.reshape(directions, 1, -1).to(scale.dtype)
    return ((integers.to(scale.dtype) - zero_points) * scale.reshape(directions, 1, -1)).mT


def _on_grid_of_bytes(x: Tensor) -> Tensor:
    """Round a tensor to the grid that spans it; the gradient passes straight through."""
    integers, scale, zero_point = dynamic_quantize_linear(x.detach())
    return (integers.to(x.dtype) - zero_point.to(x.dtype)) * scale + (x - x.detach())
