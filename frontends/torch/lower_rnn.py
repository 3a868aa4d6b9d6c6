"""Lowerings of recurrent layers: one ONNX operator for each layer, with the gates in ONNX's order."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...ir.graph import Value
from .lowering import Lowering, lowers

_LSTM = (0, 3, 1, 2)
_GRU = (1, 0, 2)
_RNN = (0,)


@lowers("aten.lstm.input")
def lstm(
    op: Lowering,
    x: Value,
    state: Sequence[Value],
    weights: Sequence[Value],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Value, Value, Value]:
    hidden, cell = state
    if hidden.shape[-1] != cell.shape[-1]:
        op.refuse("its hidden state is projected")
    stack = _Stack(op, weights, has_biases, layers, bidirectional, batch_first, _LSTM)
    y, *last = stack.run("LSTM", x, [hidden, cell], dropout if training else 0.0)
    return y, last[0], last[1]


@lowers("aten.gru.input")
def gru(
    op: Lowering,
    x: Value,
    hidden: Value,
    weights: Sequence[Value],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Value, Value]:
    stack = _Stack(op, weights, has_biases, layers, bidirectional, batch_first, _GRU)
    y, last = stack.run("GRU", x, [hidden], dropout if training else 0.0, linear_before_reset=1)
    return y, last


@lowers("aten.rnn_tanh.input", "aten.rnn_relu.input")
def rnn(
    op: Lowering,
    x: Value,
    hidden: Value,
    weights: Sequence[Value],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Value, Value]:
    stack = _Stack(op, weights, has_biases, layers, bidirectional, batch_first, _RNN)
    activation = "Relu" if "relu" in str(op.node.target) else "Tanh"
    directions = 2 if bidirectional else 1
    y, last = stack.run("RNN", x, [hidden], dropout if training else 0.0, activations=(activation,) * directions)
    return y, last


class _Stack:
    """Layers one on the other, each in one or both directions.

    Attributes:
        gates: for each of ONNX's gates, which of torch's it is.
    """

    def __init__(
        self,
        op: Lowering,
        weights: Sequence[Value],
        has_biases: bool,
        layers: int,
        bidirectional: bool,
        batch_first: bool,
        gates: Sequence[int],
    ) -> None:
        self.op = op
        self.directions = 2 if bidirectional else 1
        self.layers = layers
        self.batch_first = batch_first
        self.gates = gates
        each = 4 if has_biases else 2  # from the input, from the hidden state, and their biases
        self.cells = [weights[start : start + each] for start in range(0, len(weights), each)]

    def run(
        self, operator: str, x: Value, states: Sequence[Value], dropout: float, **attributes: Any
    ) -> tuple[Value, ...]:
        """The output sequence, and each state of every layer and direction after the last step."""
        op = self.op
        if dropout:
            op.refuse("it drops out at random: export the model after eval()")
        is_single = x.type.rank == 2
        if is_single:  # a sequence without a batch
            x, states = op.Unsqueeze(x, [1]), [op.Unsqueeze(state, [1]) for state in states]
        elif self.batch_first:
            x = op.Transpose(x, perm=(1, 0, 2))
        ends: list[list[Value]] = [[] for _ in states]
        for layer in range(self.layers):
            x, *last = self._layer(operator, x, states, layer, attributes)
            for end, value in zip(ends, last, strict=True):
                end.append(value)
        joined = [end[0] if self.layers == 1 else op.Concat(*end, axis=0) for end in ends]
        if is_single:
            return op.Squeeze(x, [1]), *(op.Squeeze(end, [1]) for end in joined)
        return op.Transpose(x, perm=(1, 0, 2)) if self.batch_first else x, *joined

    def _layer(
        self, operator: str, x: Value, states: Sequence[Value], layer: int, attributes: Mapping[str, Any]
    ) -> tuple[Value, ...]:
        op, first = self.op, layer * self.directions
        cells = self.cells[first : first + self.directions]
        weights = [self._joined([self._arranged(cell[part]) for cell in cells]) for part in (0, 1)]
        biases = None
        if len(cells[0]) == 4:
            biases = self._joined(
                [op.Concat(self._arranged(cell[2]), self._arranged(cell[3]), axis=0) for cell in cells]
            )
        whole = self.layers == 1
        starts = [state if whole else op.Slice(state, [first], [first + self.directions], [0]) for state in states]
        hidden_size = cells[0][1].shape[1]
        y, *last = op(
            operator,
            x,
            *weights,
            biases,
            None,
            *starts,
            outputs=1 + len(states),
            hidden_size=hidden_size,
            direction="bidirectional" if self.directions == 2 else None,
            **attributes,
        )
        if self.directions == 1:
            return op.Squeeze(y, [1]), *last
        # [sequence, direction, batch, hidden] to both directions side by side
        turned = op.Transpose(y, perm=(0, 2, 1, 3))
        return op.Reshape(turned, [0, 0, self.directions * cells[0][1].shape[1]]), *last

    def _arranged(self, weight: Value) -> Value:
        """A weight or bias with the gates in ONNX's order."""
        if len(self.gates) == 1:
            return weight
        parts = self.op.Split(weight, axis=0, num_outputs=len(self.gates), outputs=len(self.gates))
        return self.op.Concat(*(parts[gate] for gate in self.gates), axis=0)

    def _joined(self, values: Sequence[Value]) -> Value:
        """The weights of all directions along a first axis."""
        op = self.op
        rows = [op.Unsqueeze(value, [0]) for value in values]
        return rows[0] if len(rows) == 1 else op.Concat(*rows, axis=0)
