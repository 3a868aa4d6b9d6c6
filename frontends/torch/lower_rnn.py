"""Lowerings of recurrent layers: one ONNX operator for each layer, with the gates in ONNX's order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...ir.builder import Builder
from ...ir.graph import Graph, Value
from ...ir.types import TensorType
from .lower_shape import select
from .lowering import Lowering, lowers

_LSTM = (0, 3, 1, 2)
_GRU = (1, 0, 2)
_RNN = (0,)


@dataclass(frozen=True, slots=True)
class _Layers:
    """What torch's operators say of a stack of layers, in the order of their arguments."""

    weights: Sequence[Value]
    have_biases: bool
    count: int
    dropout: float
    training: bool
    bidirectional: bool
    batch_first: bool

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def is_random(self) -> bool:
        return bool(self.dropout) and self.training

    def cells(self, layer: int) -> list[Sequence[Value]]:
        """The weights of a layer by direction: from the input, from the hidden state, and their biases if any."""
        each = len(self.weights) // (self.count * self.directions)
        firsts = range(layer * self.directions * each, (layer + 1) * self.directions * each, each)
        return [self.weights[first : first + each] for first in firsts]


@lowers("aten.lstm.input", "planish.lstm.default")
def lstm(op: Lowering, x: Value, state: Sequence[Value], *layers: Any) -> tuple[Value, Value, Value]:
    hidden, cell = state
    stack = _Stack if hidden.shape[-1] == cell.shape[-1] else _ProjectedStack
    y, *last = stack(op, _Layers(*layers), _LSTM).run("LSTM", x, [hidden, cell])
    return y, last[0], last[1]


@lowers("aten.gru.input", "planish.gru.default")
def gru(op: Lowering, x: Value, hidden: Value, *layers: Any) -> tuple[Value, Value]:
    y, last = _Stack(op, _Layers(*layers), _GRU).run("GRU", x, [hidden], linear_before_reset=1)
    return y, last


@lowers("aten.rnn_tanh.input", "aten.rnn_relu.input", "planish.rnn_tanh.default", "planish.rnn_relu.default")
def rnn(op: Lowering, x: Value, hidden: Value, *layers: Any) -> tuple[Value, Value]:
    activation = "Relu" if "relu" in str(op.node.target) else "Tanh"
    stack = _Stack(op, _Layers(*layers), _RNN)
    y, last = stack.run("RNN", x, [hidden], activations=(activation,) * stack.layers.directions)
    return y, last


@dataclass(frozen=True, slots=True)
class _Stack:
    """Layers one on the other, each in one or both directions.

    Attributes:
        gates: the index of torch's gate for each of ONNX's gates.
    """

    op: Lowering
    layers: _Layers
    gates: Sequence[int]

    def run(self, operator: str, x: Value, states: Sequence[Value], **attributes: Any) -> tuple[Value, ...]:
        """The output sequence, and each state of every layer and direction after the last step."""
        op, layers = self.op, self.layers
        if layers.is_random:
            op.refuse("it drops out at random: export the model after eval()")
        is_single = x.type.rank == 2
        if is_single:  # a sequence without a batch
            x, states = op.Unsqueeze(x, [1]), [op.Unsqueeze(state, [1]) for state in states]
        elif layers.batch_first:
            x = op.Transpose(x, perm=(1, 0, 2))
        ends: list[list[Value]] = [[] for _ in states]
        for layer in range(layers.count):
            first = layer * layers.directions
            own = states
            if layers.count > 1:
                own = [op.Slice(state, [first], [first + layers.directions], [0]) for state in states]
            x, *last = self._layer(operator, x, own, layers.cells(layer), attributes)
            for end, value in zip(ends, last, strict=True):
                end.append(value)
        joined = [op.joined(end, 0) for end in ends]
        if is_single:
            return op.Squeeze(x, [1]), *(op.Squeeze(end, [1]) for end in joined)
        return op.Transpose(x, perm=(1, 0, 2)) if layers.batch_first else x, *joined

    def _layer(
        self,
        operator: str,
        x: Value,
        states: Sequence[Value],
        cells: Sequence[Sequence[Value]],
        attributes: Mapping[str, Any],
    ) -> tuple[Value, ...]:
        op = self.op
        weights = [self._joined([self._arranged(cell[part]) for cell in cells]) for part in (0, 1)]
        biases = None
        if self.layers.have_biases:
            biases = self._joined(
                [op.Concat(self._arranged(cell[2]), self._arranged(cell[3]), axis=0) for cell in cells]
            )
        hidden_size = cells[0][1].shape[1]
        y, *last = op(
            operator,
            x,
            *weights,
            biases,
            None,
            *states,
            outputs=1 + len(states),
            hidden_size=hidden_size,
            direction="bidirectional" if self.layers.bidirectional else None,
            **attributes,
        )
        if not self.layers.bidirectional:
            return op.Squeeze(y, [1]), *last
        # [sequence, direction, batch, hidden] to both directions side by side
        turned = op.Transpose(y, perm=(0, 2, 1, 3))
        return op.Reshape(turned, [0, 0, 2 * hidden_size]), *last

    def _arranged(self, weight: Value) -> Value:
        """A weight or bias with the gates in ONNX's order."""
        if len(self.gates) == 1:
            return weight
        parts = self.op.Split(weight, axis=0, num_outputs=len(self.gates), outputs=len(self.gates))
        return self.op.Concat(*(parts[gate] for gate in self.gates), axis=0)

    def _joined(self, values: Sequence[Value]) -> Value:
        """The weights of all directions along a first axis."""
        return self.op.joined([self.op.Unsqueeze(value, [0]) for value in values], 0)


class _ProjectedStack(_Stack):
    """LSTM layers whose hidden state is projected, which ONNX's has no place for: a Scan for each direction.

    The projection is the last of a cell's weights.
    """

    def _layer(
        self,
        operator: str,
        x: Value,
        states: Sequence[Value],
        cells: Sequence[Sequence[Value]],
        attributes: Mapping[str, Any],
    ) -> tuple[Value, ...]:
        op = self.op
        ends: list[list[Value]] = [[], [], []]
        for direction, cell in enumerate(cells):
            start = [select(op, state, 0, direction) for state in states]
            hidden, memory, y = self._scan(x, start, cell, direction)
            for end, value in zip(ends, (y, op.Unsqueeze(hidden, [0]), op.Unsqueeze(memory, [0])), strict=True):
                end.append(value)
        return tuple(op.joined(end, axis) for end, axis in zip(ends, (-1, 0, 0), strict=True))

    def _scan(
        self, x: Value, start: Sequence[Value], cell: Sequence[Value], direction: int
    ) -> tuple[Value, Value, Value]:
        op = self.op
        from_input, from_hidden, projection = (op.Transpose(cell[part], perm=(1, 0)) for part in (0, 1, -1))
        gates = op.MatMul(x, from_input)
        if self.layers.have_biases:
            gates = op.Add(gates, op.Add(cell[2], cell[3]))
        body = Graph("body", op.graph)
        hidden, memory = (body.add_input(body.unique_name(value.name), value.type) for value in start)
        step = body.add_input(body.unique_name("gates"), TensorType(gates.dtype, gates.shape[1:]))
        inner = Builder(body, location=op.location)
        rows = inner.Add(step, inner.MatMul(hidden, from_hidden))
        enter, forget, new, leave = inner.Split(rows, axis=-1, num_outputs=4, outputs=4)
        kept = inner.Mul(inner.Sigmoid(forget), memory)
        memory = inner.Add(kept, inner.Mul(inner.Sigmoid(enter), inner.Tanh(new)))
        hidden = inner.MatMul(inner.Mul(inner.Sigmoid(leave), inner.Tanh(memory)), projection)
        body.outputs = {"hidden": hidden, "memory": memory, "y": inner.Identity(hidden)}
        way = {"scan_input_directions": (direction,), "scan_output_directions": (direction,)} if direction else {}
        return op.Scan(*start, gates, outputs=3, body=body, num_scan_inputs=1, **way)
