"""Recurrent layers, written out step by step where it is known how many steps there are.

Inside, a sequence is `[time, batch, size]`. A sequence that is shorter than the others keeps its state once it has
ended, and its outputs are zero from there on. A state that isn't given is zero, and leaves out what is computed with
it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from ....ir.builder import Builder
from ....ir.graph import Node, Value
from ....ir.types import DType
from ..expansion import Expansion, RefusedError, attribute, cast, known_size
from .branches import steps

State = tuple[Value | None, ...]
Activation = Callable[[Value], Value]
Step = Callable[[Value, State], tuple[Value, ...]]
"""A function of what the input adds to the gates and of the state, which returns the next state, the output first."""
Run = tuple[Value, tuple[Value, ...]]
"""A direction's outputs at all steps, and its last state."""

_USUAL = {1: ("Tanh",), 3: ("Sigmoid", "Tanh"), 4: ("Sigmoid", "Tanh", "Tanh")}
"""The activations of a direction where a node names none, by its number of gates."""
_DEFAULTS: dict[str, tuple[float | None, float | None]] = {
    "affine": (1.0, 0.0),
    "elu": (1.0, None),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01, None),
    "scaledtanh": (1.0, 1.0),
    "thresholdedrelu": (1.0, None),
}
"""The alpha and beta of the activations that have them, by name in small letters."""
_PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "softplus": "Softplus", "softsign": "Softsign", "tanh": "Tanh"}
_SWAPPED = (1, 0, 2)


def is_batch_first(node: Node) -> bool:
    return bool(attribute(node, "layout", 0))


def _time_first(op: Builder, node: Node) -> tuple[Value, ...]:
    """The same layer on sequences with the time as their first axis."""
    inputs = [
        op.Transpose(value, perm=_SWAPPED) if value is not None and index in (0, 5, 6) else value
        for index, value in enumerate(node.inputs)
    ]
    kept = {name: value for name, value in node.attributes.items() if name != "layout"}
    made = op(node.operator, *inputs, outputs=len(node.outputs), **kept)
    y, *states = made if isinstance(made, tuple) else (made,)
    return op.Transpose(y, perm=(2, 0, 1, 3)), *(op.Transpose(state, perm=_SWAPPED) for state in states)


@dataclass(frozen=True, slots=True)
class _Layer:
    """What the three operators share.

    Attributes:
        op: the builder that writes nodes.
        node: the node to spell out.
        states: the places of the states among the inputs.
        gates: how many gates there are.
        given: what stands for some of the inputs, by their places.
    """

    op: Builder
    node: Node
    states: tuple[int, ...]
    gates: int
    given: Mapping[int, Value] = field(default_factory=dict[int, Value])

    def operand(self, place: int) -> Value:
        """An input that is there."""
        return self.given[place] if place in self.given else self.node.operand(place)

    def results(self, step: Callable[["_Direction"], Step]) -> tuple[Value, ...]:
        """The outputs of all directions, each run by the step that `step` makes for it."""
        return self.joined(lambda direction, backwards: self._run(direction, backwards, step(direction)))

    def joined(self, run: Callable[["_Direction", bool], Run]) -> tuple[Value, ...]:
        """The outputs of all directions; `run` runs one, given whether it goes backwards."""
        defaults = _USUAL[self.gates]
        op, directions = self.op, _DIRECTIONS[attribute(self.node, "direction", "forward")]
        names, each = attribute(self.node, "activations", defaults * 2), len(defaults)
        functions = _activations(op, self.node, names[: each * len(directions)], each)
        runs: list[Run] = []
        for index, backwards in enumerate(directions):
            own = slice(index * each, (index + 1) * each)
            runs.append(run(_Direction(self, index, functions[own], names[own]), backwards))
        y = op.Concat(*(op.Unsqueeze(run, [1]) for run, _ in runs), axis=1)  # [time, direction, batch, hidden]
        states = zip(*(state for _, state in runs), strict=True)
        return y, *(op.Concat(*(op.Unsqueeze(state, [0]) for state in row), axis=0) for row in states)

    def _run(self, direction: "_Direction", backwards: bool, step: Step) -> Run:
        op, lengths, nought = self.op, self.node.input(4), None
        gates = direction.from_input()
        if backwards:
            gates = self._reversed(gates)
        state: State = tuple(direction.start(place) for place in self.states)
        rows: list[Value] = []
        for time in range(steps(gates.shape[0])):
            new = step(op.Gather(gates, op.constant(time)), state)
            row = new[0]
            if lengths is not None:
                nought = op.constant(np.zeros((), row.dtype.numpy))
                alive = op.Unsqueeze(op.Greater(lengths, time), [1])
                pairs = zip(new, state, strict=True)
                new = tuple(op.Where(alive, after, nought if before is None else before) for after, before in pairs)
                row = op.Where(alive, row, nought)
            state = new
            rows.append(op.Unsqueeze(row, [0]))
        y = op.Concat(*rows, axis=0)
        return self._reversed(y) if backwards else y, tuple(value for value in state if value is not None)

    def _reversed(self, x: Value) -> Value:
        lengths = self.node.input(4)
        if lengths is None:
            return self.op.Slice(x, [-1], [np.iinfo(np.int64).min], [0], [-1])
        return self.op.ReverseSequence(x, cast(self.op, lengths, DType.int64), batch_axis=1, time_axis=0)


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction of a layer, and its activations, as functions and by name."""

    layer: _Layer
    index: int
    functions: Sequence[Activation]
    names: Sequence[str]

    def weight(self, place: int) -> Value:
        """The part of an input that belongs to the direction."""
        return self.layer.op.Gather(self.layer.operand(place), self.layer.op.constant(self.index))

    def biases(self, part: int) -> list[Value | None]:
        """The biases of the gates, of the input (0) or of the state (1)."""
        op, count = self.layer.op, self.layer.gates
        if self.layer.node.input(3) is None:
            return [None] * count
        return list(op.Split(self.weight(3), num_outputs=2 * count, outputs=2 * count)[part * count :][:count])

    def recurrent(self) -> list[Value]:
        """The weights of the state, by gate, ready to be multiplied from the right."""
        op, count = self.layer.op, self.layer.gates
        whole = op.Transpose(self.weight(2), perm=(1, 0))
        return [whole] if count == 1 else list(op.Split(whole, num_outputs=count, axis=1, outputs=count))

    def from_input(self, *more: Value | None) -> Value:
        """What the input adds to the gates, `[time, batch, gates]`; the first ones may have further biases."""
        op = self.layer.op
        y = op.MatMul(self.layer.operand(0), op.Transpose(self.weight(1), perm=(1, 0)))
        pairs = zip_longest(self.biases(0), more)
        biases = [bias if other is None else op.Add(bias, other) for bias, other in pairs if bias is not None]
        return op.Add(y, op.Concat(*biases, axis=0)) if biases else y

    def start(self, place: int) -> Value | None:
        """The state to begin with, `[batch, hidden]`."""
        given = self.layer.node.input(place)
        return None if given is None else self.layer.op.Gather(given, self.layer.op.constant(self.index))

    def split(self, gates: Value) -> list[Value]:
        count = self.layer.gates
        return [gates] if count == 1 else list(self.layer.op.Split(gates, num_outputs=count, axis=1, outputs=count))

    def plus(self, x: Value, state: Value | None, weight: Value, bias: Value | None) -> Value:
        """A gate with what the state and its bias add to it."""
        op = self.layer.op
        y = x if state is None else op.Add(x, op.MatMul(state, weight))
        return y if bias is None else op.Add(y, bias)


_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def _activations(op: Builder, node: Node, names: Sequence[str], each: int) -> list[Activation]:
    """The activations of all directions, `each` to one; those with an alpha or beta use up the given ones in turn.

    What is clipped is the sums that go into the gates, of which the third activation, an LSTM cell's, takes none.
    """
    given = [list(attribute(node, f"activation_{name}", ())) for name in ("alpha", "beta")]
    clip = attribute(node, "clip", None)
    made: list[Activation] = []
    for index, name in enumerate(name.lower() for name in names):
        defaults = _DEFAULTS.get(name, (None, None))
        numbers = [
            values.pop(0) if values else default
            for values, default in zip(given, defaults, strict=True)
            if default is not None
        ]
        made.append(_activation(op, name, numbers, clip if index % each < 2 else None))
    return made


def _activation(op: Builder, name: str, numbers: Sequence[float], clip: float | None) -> Activation:
    def apply(x: Value) -> Value:
        if clip is not None:
            x = op.Clip(x, *(op.constant(np.asarray(bound, x.dtype.numpy)) for bound in (-clip, clip)))
        return _applied(op, name, numbers, x)

    return apply


def _applied(op: Builder, name: str, numbers: Sequence[float], x: Value) -> Value:
    if name in _PLAIN:
        return op(_PLAIN[name], x)
    match name:
        case "affine":
            return op.Add(op.Mul(x, float(numbers[0])), float(numbers[1]))
        case "elu":
            return op.Elu(x, alpha=float(numbers[0]))
        case "hardsigmoid":
            return op.HardSigmoid(x, alpha=float(numbers[0]), beta=float(numbers[1]))
        case "leakyrelu":
            return op.LeakyRelu(x, alpha=float(numbers[0]))
        case "scaledtanh":
            return op.Mul(op.Tanh(op.Mul(x, float(numbers[1]))), float(numbers[0]))
        case "thresholdedrelu":
            nought = op.constant(np.zeros((), x.dtype.numpy))
            return op.Where(op.GreaterOrEqual(x, float(numbers[0])), x, nought)
        case _:
            raise RefusedError(f"nobody knows its activation {name!r}")


def _rnn(op: Builder, node: Node) -> tuple[Value, ...]:
    def step(direction: _Direction) -> Step:
        (f,), (weight,), (bias,) = direction.functions, direction.recurrent(), direction.biases(1)
        return lambda gates, state: (f(direction.plus(gates, state[0], weight, bias)),)

    return _Layer(op, node, (5,), 1).results(step)


def _gru(op: Builder, node: Node) -> tuple[Value, ...]:
    """Gates are in the order update, reset, hidden."""
    before = attribute(node, "linear_before_reset", 0)

    def step(direction: _Direction) -> Step:
        (f, g), weights, biases = direction.functions, direction.recurrent(), direction.biases(1)

        def run(gates: Value, state: State) -> tuple[Value, ...]:
            (h,), (z, reset, hidden) = state, direction.split(gates)
            z = f(direction.plus(z, h, weights[0], biases[0]))
            reset = f(direction.plus(reset, h, weights[1], biases[1]))
            if before:
                inner = biases[2] if h is None else direction.plus(op.MatMul(h, weights[2]), None, h, biases[2])
                new = g(hidden if inner is None else op.Add(hidden, op.Mul(reset, inner)))
            else:
                new = g(direction.plus(hidden, None if h is None else op.Mul(reset, h), weights[2], biases[2]))
            mixed = op.Mul(op.Sub(op.constant(np.ones((), z.dtype.numpy)), z), new)
            return (mixed if h is None else op.Add(mixed, op.Mul(z, h)),)

        return run

    return _Layer(op, node, (5,), 3).results(step)


def _lstm(op: Builder, node: Node) -> tuple[Value, ...]:
    return _cells(_Layer(op, node, (5, 6), 4), lambda state: state)


def _dynamic_quantize_lstm(op: Builder, node: Node) -> tuple[Value, ...]:
    """An LSTM by weights that are dequantized, of an input and states that are put on grids of bytes and taken back."""
    rounded = partial(_on_grid_of_bytes, op)
    given = {0: rounded(node.operand(0)), 1: _from_columns(op, node, 1, 8), 2: _from_columns(op, node, 2, 10)}
    return _cells(_Layer(op, node, (5, 6), 4, given), rounded)


def _on_grid_of_bytes(op: Builder, x: Value) -> Value:
    return op.DequantizeLinear(*op.DynamicQuantizeLinear(x, outputs=3))


def _from_columns(op: Builder, node: Node, place: int, scale_place: int) -> Value:
    """Weights in floats with a row for each column of integers; scales are for a direction, or for a column."""
    integers = node.operand(place)
    scale, zero_point = (op.Unsqueeze(node.operand(scale_place + index), [1]) for index in range(2))
    if scale.type.rank == 2:
        scale, zero_point = op.Unsqueeze(scale, [2]), op.Unsqueeze(zero_point, [2])
    steps = op.Sub(cast(op, integers, scale.dtype), cast(op, zero_point, scale.dtype))
    return op.Transpose(op.Mul(steps, scale), perm=(0, 2, 1))


def _cells(layer: _Layer, read: Callable[[Value], Value]) -> tuple[Value, ...]:
    """Spell out an LSTM's cells; `read` is what becomes of the state before it is multiplied.

    Gates are in the order input, output, forget, cell; peepholes in the order input, output, forget.
    """
    op, node = layer.op, layer.node
    coupled = attribute(node, "input_forget", 0)

    def step(direction: _Direction) -> Step:
        (f, g, h), weights, biases = direction.functions, direction.recurrent(), direction.biases(1)
        peepholes: list[Any] = [None] * 3
        if node.input(7) is not None:
            peepholes = list(op.Split(direction.weight(7), num_outputs=3, outputs=3))

        def looked(gate: Value, place: int, cell: Value | None) -> Value:
            hole = peepholes[place]
            return gate if hole is None or cell is None else op.Add(gate, op.Mul(hole, cell))

        def run(gates: Value, state: State) -> tuple[Value, ...]:
            last, cell = state
            last = None if last is None else read(last)
            parts = zip(direction.split(gates), weights, biases, strict=True)
            i, o, forget, new = (direction.plus(gate, last, weight, bias) for gate, weight, bias in parts)
            i = f(looked(i, 0, cell))
            forget = op.Sub(op.constant(np.ones((), i.dtype.numpy)), i) if coupled else f(looked(forget, 2, cell))
            added = op.Mul(i, g(new))
            cell = added if cell is None else op.Add(op.Mul(forget, cell), added)
            return op.Mul(f(looked(o, 1, cell)), h(cell)), cell

        return run

    return layer.results(step)


def _spelled_out(expansion: Callable[[Builder, Node], tuple[Value, ...]]) -> Expansion:
    return lambda op, node: (_time_first if is_batch_first(node) else expansion)(op, node)


def looped(node: Node) -> Expansion | None:
    """Return what writes each direction of a layer as one node for all of its steps; None where it has no kernel.

    Its activations must have a kernel, without parameters of their own, and it must be of float32 and not empty.
    """
    names = {name.lower() for name in attribute(node, "activations", ())}
    has_parameters = any(attribute(node, f"activation_{name}", ()) for name in ("alpha", "beta"))
    w, r = node.operand(1), node.operand(2)
    is_sized = r.type.is_static and 0 not in (*node.operand(0).shape, *w.shape, *r.shape)
    fits = is_sized and r.dtype is DType.float32 and names <= _LOOPED and not has_parameters
    return _looped if fits and not is_batch_first(node) else None


def _looped(op: Builder, node: Node) -> tuple[Value, ...]:
    rows, hidden = (known_size(node.operand(2), axis) for axis in (1, 2))
    layer = _Layer(op, node, (5, 6) if node.operator == "LSTM" else (5,), rows // hidden)
    kept = {name: attribute(node, name, None) for name in ("clip", "input_forget", "linear_before_reset")}

    def run(direction: _Direction, backwards: bool) -> Run:
        biases, bias = direction.biases(1), None
        if kept["linear_before_reset"]:
            *biases, bias = biases
        start = [direction.start(place) for place in layer.states]
        peepholes = None if node.input(7) is None else direction.weight(7)
        inputs = direction.from_input(*biases), op.Transpose(direction.weight(2), perm=(1, 0)), bias, node.input(4)
        y, *states = op(
            RECURRENT_STEPS,
            *(*inputs, *start, *[None] * (2 - len(start)), peepholes),
            outputs=1 + len(layer.states),
            layer=node.operator,
            activations=tuple(name.lower() for name in direction.names),
            direction="reverse" if backwards else "forward",
            **kept,
        )
        return y, tuple(states)

    return layer.joined(run)


RECURRENT_STEPS = "planish::RecurrentSteps"
_LOOPED = frozenset({"elu", "hardsigmoid", "leakyrelu", "relu", "sigmoid", "tanh"})
"""The activations that kernels compute, with the usual parameters, by name in small letters."""
DYNAMIC_LSTM = "com.microsoft::DynamicQuantizeLSTM"

EXPANSIONS: dict[str, Expansion] = {
    "GRU": _spelled_out(_gru),
    "LSTM": _spelled_out(_lstm),
    "RNN": _spelled_out(_rnn),
    DYNAMIC_LSTM: _dynamic_quantize_lstm,
}
