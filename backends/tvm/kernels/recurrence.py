"""Recurrent layers: all steps in one loop, in which the state is multiplied and the gates are computed.

What the inputs add to the gates of all steps is multiplied before. Sequences know nothing of each other: each thread
takes some through all steps. Where the weights alone are worth a second thread, threads share each step instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .gemm import Dense, Gemm, Place, tiles
from .instructions.base import FMA
from .machine import Machine
from .prim_func import argument, either, kernel, symbol
from .tiles import Tile, row_tiles
from .vector_math import ELEMENTS
from .vectors import Scalar, ceil_div, each_vector, held, lanes_at, number, ramp, size_of, zeros

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
"""The gates of each layer: of a GRU update, reset and hidden; of an LSTM input, output, forget and cell."""
_ACTIVATIONS = {name.lower(): element for name, element in ELEMENTS.items()}
_TOGETHER = 8
"""Sequences that a thread takes through all steps at once."""
_APART = 8 * _TOGETHER
"""Sequences from which on threads share no steps, as each has enough of its own."""


@dataclass(frozen=True, slots=True)
class Recurrence:
    """One direction of a recurrent layer; sizes are None where they aren't known.

    Attributes:
        layer: RNN, GRU or LSTM.
        activations: the names of the activations, in small letters.
        is_reversed: whether it goes from the last step to the first.
        clip: the bound of the sums that go into the gates.
        is_coupled: whether an LSTM forgets what it doesn't take in.
        resets_sums: whether a GRU resets what its state adds instead of the state.
        given: what is given besides: the `bias` that is added before that, `lengths` of sequences, the state `h` and
            cells `c` to begin with, and the peepholes' weights `holes`.
        is_packed: whether weights are packed.
    """

    layer: str
    steps: int | None
    rows: int | None
    hidden: int
    activations: tuple[str, ...]
    is_reversed: bool = False
    clip: float | None = None
    is_coupled: bool = False
    resets_sums: bool = False
    given: frozenset[str] = frozenset()
    is_packed: bool = True

    @property
    def width(self) -> int:
        return GATES[self.layer] * self.hidden

    @property
    def columns(self) -> list[int]:
        """The columns of each matrix: a GRU that resets its state multiplies by the last gate's weights afterwards."""
        is_late = self.layer == "GRU" and not self.resets_sums
        return [2 * self.hidden, self.hidden] if is_late else [self.width]

    def is_shared(self, machine: Machine) -> bool:
        """Whether threads share each step."""
        work = self.hidden * self.width * (self.rows or 1)
        return work >= machine.costs.gemm_work and (self.rows is None or self.rows < _APART)

    def tile(self, columns: int, machine: Machine) -> Tile:
        """Return the tile of the products with a matrix."""
        rows = self.rows if self.is_shared(machine) or self.rows is None else min(self.rows, _TOGETHER)
        return tiles(Gemm((rows,), self.hidden, columns, is_packed=self.is_packed), machine)[0]


@kernel
def recurrence_kernel(recurrence: Recurrence, machine: Machine) -> None:
    """Emit a kernel of gates `[step, row, gates]`, weights, and what else is given, to all states and the last ones."""
    layer = _Layer.declare(recurrence, machine)
    rows = layer.rows
    if recurrence.is_shared(machine) or (isinstance(rows, int) and rows <= _TOGETHER):
        layer.emit(0, rows)
        return
    with T.parallel(0, (rows + (_TOGETHER - 1)) // _TOGETHER) as chunk:
        first = chunk * _TOGETHER
        layer.emit(first, tirx.min(rows - first, tirx.const(_TOGETHER, "int64")))


@dataclass(frozen=True, slots=True)
class _Layer:
    """A kernel's arguments and what it keeps between steps.

    Attributes:
        inputs: the gates' shares of the inputs, `[step, row, gates]`.
        rights: the matrices that the state is multiplied by.
        beside: what else is given, by name.
        y: the state at each step.
        states: the state, and an LSTM's cells, `[row, hidden]`.
        sums: the state's products with the matrices.
        reset: a GRU's state, reset, if that is multiplied.
    """

    recurrence: Recurrence
    machine: Machine
    inputs: tirx.Buffer
    rights: Sequence[tirx.Buffer]
    beside: Mapping[str, tirx.Buffer]
    y: tirx.Buffer
    states: Sequence[tirx.Buffer]
    sums: tirx.Buffer
    reset: tirx.Buffer | None

    @staticmethod
    def declare(recurrence: Recurrence, machine: Machine) -> "_Layer":
        """Declare the arguments in the order of the fields, the results at last."""
        steps, rows = symbol("steps", recurrence.steps), symbol("rows", recurrence.rows)
        hidden, width = recurrence.hidden, recurrence.width
        inputs = argument("inputs", (steps, rows, width))
        rights: list[tirx.Buffer] = []
        for index, columns in enumerate(recurrence.columns):
            tile = recurrence.tile(columns, machine)
            packed = ceil_div(columns, tile.columns), hidden, tile.columns
            shapes = (packed, packed) if recurrence.is_packed else ((hidden, columns), (1, hidden, columns))
            rights.append(argument(f"right{index}", shapes[0], view=shapes[1]))
        shapes = {
            "bias": (hidden,),
            "lengths": (rows,),
            "h": (rows, hidden),
            "c": (rows, hidden),
            "holes": (3 * hidden,),
        }
        given = {name: shape for name, shape in shapes.items() if name in recurrence.given}
        beside = {
            name: argument(name, shape, "int32" if name == "lengths" else "float32") for name, shape in given.items()
        }
        y = argument("y", (steps, rows, hidden))
        count = 2 if recurrence.layer == "LSTM" else 1
        states = [argument(f"state{index}", (rows, hidden)) for index in range(count)]
        sums = T.alloc_buffer((rows, width), "float32")
        reset = T.alloc_buffer((rows, hidden), "float32") if len(rights) > 1 else None
        return _Layer(recurrence, machine, inputs, rights, beside, y, states, sums, reset)

    @property
    def rows(self) -> Scalar:
        return size_of(self.inputs.shape[1])

    def emit(self, first: Scalar, count: Scalar) -> None:
        """Emit all steps of some rows."""
        state = self.states[0]
        for buffer, name in zip(self.states, ("h", "c"), strict=False):
            for row, at in self._elements(first, count):
                start = self.beside[name][row, at] if name in self.beside else zeros("float32", lanes_at(at))
                T.buffer_store(buffer, start, [row, at])
        with T.serial(0, size_of(self.inputs.shape[0])) as step:
            self._multiply(0, state, first, count)
            if self.reset is not None:
                for row, at in self._elements(first, count):
                    gate = self._gate(_Spot(step, self._place(step, row)[0], row, at), 1, 0)
                    T.buffer_store(self.reset, gate * state[row, at], [row, at])
                self._multiply(1, self.reset, first, count)
            for row, at in self._elements(first, count):
                place, is_alive = self._place(step, row)
                spot = _Spot(step, place, row, at)
                either(is_alive, partial(self._advance, spot), partial(self._rest, spot))

    def _elements(self, first: Scalar, count: Scalar) -> Iterator[tuple[Scalar, Scalar]]:
        """Emit loops over the elements of some rows; yield rows and vectors of columns."""
        with T.serial(0, count) as line:
            for at in each_vector(0, self.recurrence.hidden, self.machine.lanes):
                yield first + line, at

    def _multiply(self, index: int, left: tirx.Buffer, first: Scalar, count: Scalar) -> None:
        """Emit the products of some rows with a matrix."""
        recurrence = self.recurrence
        columns, offset = recurrence.columns[index], sum(recurrence.columns[:index])
        tile, dense = recurrence.tile(columns, self.machine), Dense(FMA, left, self.rights[index])
        loop = T.parallel if recurrence.is_shared(self.machine) else T.serial
        with loop(0, ceil_div(columns, tile.columns)) as panel:
            column = tirx.min(panel * tile.columns, columns - tile.columns)
            for height, line in row_tiles(tile.rows, count, tirx.const(0, "int64"), 1):
                row = first + line
                place = Place(row, column, row, (panel, 0) if recurrence.is_packed else (0, column))
                for below, start, lanes, sums in dense.sums(place, Tile(height, tile.columns, tile.lanes)):
                    T.buffer_store(self.sums, sums, [row + below, ramp(column + (offset + start), lanes)])

    def _place(self, step: Scalar, row: Scalar) -> tuple[Scalar, bool | tirx.Expr]:
        """Return the place in a row's sequence of a step, and whether that has not ended before it."""
        length: Scalar = size_of(self.inputs.shape[0])
        if "lengths" not in self.beside:
            return (length - 1 - step if self.recurrence.is_reversed else step), True
        length = self.beside["lengths"][row].astype("int64")
        number = step if isinstance(step, int) else step.astype("int64")
        is_alive = number < length
        return (tirx.Select(is_alive, length - 1 - number, number) if self.recurrence.is_reversed else step), is_alive

    def _rest(self, spot: "_Spot") -> None:
        """Emit a step behind the end of a sequence, which leaves its states as they are."""
        T.buffer_store(self.y, zeros("float32", lanes_at(spot.at)), [spot.step, spot.row, spot.at])

    def _advance(self, spot: "_Spot") -> None:
        """Emit a step."""
        old = [held(state[spot.row, spot.at]) for state in self.states]
        make = {"RNN": self._rnn, "GRU": self._gru, "LSTM": self._lstm}[self.recurrence.layer]
        new = make(spot, *old)
        for state, value in zip(self.states, new, strict=True):
            T.buffer_store(state, value, [spot.row, spot.at])
        T.buffer_store(self.y, new[0], [spot.place, spot.row, spot.at])

    def _rnn(self, spot: "_Spot", h: tirx.Expr) -> list[tirx.Expr]:
        return [self._gate(spot, 0, 0)]

    def _gru(self, spot: "_Spot", h: tirx.Expr) -> list[tirx.Expr]:
        update = self._gate(spot, 0, 0)
        if self.recurrence.resets_sums:
            inner = spot.part(self.sums, 2, self.recurrence.hidden)
            inner = inner + self.beside["bias"][spot.at] if "bias" in self.beside else inner
            share = self._gate(spot, 1, 0) * held(inner)
            new = self._activated(held(spot.input(self.inputs, 2, self.recurrence.hidden) + share), 1)
        else:
            new = self._gate(spot, 2, 1)
        return [held((number(1.0, update) - update) * new + update * h)]

    def _lstm(self, spot: "_Spot", h: tirx.Expr, c: tirx.Expr) -> list[tirx.Expr]:
        taken = self._gate(spot, 0, 0, self._seen(spot, 0, c))
        if self.recurrence.is_coupled:
            kept = held(number(1.0, taken) - taken)
        else:
            kept = self._gate(spot, 2, 0, self._seen(spot, 2, c))
        cell = held(kept * c + taken * self._gate(spot, 3, 1))
        return [held(self._gate(spot, 1, 0, self._seen(spot, 1, cell)) * self._activated(cell, 2)), cell]

    def _seen(self, spot: "_Spot", index: int, cell: tirx.Expr) -> tirx.Expr | None:
        """Return what a gate's peephole adds to it."""
        return (
            spot.weight(self.beside["holes"], index, self.recurrence.hidden) * cell if "holes" in self.beside else None
        )

    def _gate(self, spot: "_Spot", index: int, function: int, more: tirx.Expr | None = None) -> tirx.Expr:
        """Return a gate: an activation of the shares of the input, the state and perhaps a peephole."""
        hidden = self.recurrence.hidden
        total = spot.input(self.inputs, index, hidden) + spot.part(self.sums, index, hidden)
        return self._activated(held(total if more is None else total + more), function)

    def _activated(self, x: tirx.Expr, function: int) -> tirx.Expr:
        """Return an activation, before which sums are clipped; an LSTM's cells, which the third one takes, aren't."""
        bound, get = self.recurrence.clip, dict[str, float]().get
        if bound is not None and function < 2:
            x = held(ELEMENTS["Clip"](get, x, number(-bound, x), number(bound, x)))
        return held(_ACTIVATIONS[self.recurrence.activations[function]](get, x))


@dataclass(frozen=True, slots=True)
class _Spot:
    """A vector of the states at a step: the step, its place in the sequence, the row and the columns."""

    step: Scalar
    place: Scalar
    row: Scalar
    at: Scalar

    def input(self, inputs: tirx.Buffer, gate: int, hidden: int) -> tirx.Expr:
        return inputs[self.place, self.row, self._columns(gate * hidden)]

    def part(self, sums: tirx.Buffer, gate: int, hidden: int) -> tirx.Expr:
        return sums[self.row, self._columns(gate * hidden)]

    def weight(self, weights: tirx.Buffer, gate: int, hidden: int) -> tirx.Expr:
        return weights[self._columns(gate * hidden)]

    def _columns(self, beyond: int) -> Scalar:
        return ramp(self.at.base + beyond, lanes_at(self.at)) if isinstance(self.at, tirx.Ramp) else self.at + beyond
