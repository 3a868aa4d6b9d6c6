"""Kernels that are called alone, and timed.

Each call reads another copy of the weights, as many as fill the memory of the model's weights, since in the model they
don't stay in a cache either. A kernel's other inputs stay the same: in the model, the kernel before has just written
them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import tvm
from tvm import IRModule, tirx
from tvm_ffi import Tensor

from ....ir.numerics import drift
from ....ir.types import DType
from ..runtime.program import ALIGNMENT, array_of, as_tensor, tensor_of
from ..runtime.weights import in_large_pages

_TURNS, _TURN = 32, 0.001
"""Turns of each of two kernels that are compared, and the least seconds of a turn."""
_ENOUGH, _LONGEST = 12, 1.0
"""Turns that are enough where more would take longer than so many seconds."""
_FIRST, _SLOWER = 6, 0.9
"""Turns after which a kernel is given up whose speed is less than this share of the other's."""
_QUIET = 0.25
"""The quantile of turns that counts: disturbances only ever slow a turn down."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a kernel.

    Attributes:
        inputs: the inputs in order, with None in the places of weights.
        weights: the weights by their places among the inputs.
        results: the results as they are before the call.
    """

    inputs: Sequence[np.ndarray | None]
    weights: dict[int, np.ndarray]
    results: Sequence[np.ndarray]

    def rows(self, memory: int) -> Iterator[list[Tensor]]:
        """Yield arguments in order, for ever, from as many copies of the weights as fit into the memory."""
        size = sum(_padded(array) for array in self.weights.values())
        pool = in_large_pages(size * max(memory // size, 1)) if size else np.empty(0, np.uint8)
        held = [None if array is None else tensor_of(array) for array in self.inputs]
        results = [tensor_of(array.copy()) for array in self.results]
        rows: list[list[Tensor]] = []
        for start in range(0, pool.size, size) if size else (0,):
            row, offset = list(held), start
            for index, array in self.weights.items():
                octets = pool[offset : offset + array.nbytes]
                octets[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                row[index] = as_tensor(octets, array.shape, str(DType.of(array.dtype)))
                offset += _padded(array)
            rows.append([*(tensor for tensor in row if tensor is not None), *results])
        return cycle(rows)


def compiled(kernel: tirx.PrimFunc, kind: tvm.target.Target) -> Callable[..., object]:
    """Compile a kernel to a function of tensors, in this process."""
    module = IRModule({"main": kernel.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=kind)["main"]


class Measurement:
    """A compiled kernel that has been called once."""

    def __init__(self, run: Callable[..., object], arguments: Arguments, memory: int) -> None:
        """Make the copies of the weights, which fill so much memory, and call the kernel."""
        self._run = run
        self._rows = arguments.rows(memory)
        row = next(self._rows)
        self._run(*row)
        self.results = [array_of(tensor).copy() for tensor in row[len(arguments.inputs) :]]
        self._calls = 1
        self._calls = max(1, int(_TURN / self.turn()))

    def turn(self) -> float:
        """Return the seconds of a call, averaged over as many calls as it takes to time them."""
        start = time.perf_counter()
        for _ in range(self._calls):
            self._run(*next(self._rows))
        return (time.perf_counter() - start) / self._calls

    def seconds(self) -> float:
        """Return the approximate seconds of a call."""
        return float(np.quantile([self.turn() for _ in range(_FIRST)], _QUIET))

    def speedup_over(self, other: "Measurement") -> float:
        """Return the other's time over this one's, taken in turns; the lower value of two halves of the turns."""
        times = np.empty((2, _TURNS))
        start, done = time.perf_counter(), 0
        while done < _ENOUGH or (done < _TURNS and time.perf_counter() - start < _LONGEST):
            for row in (0, 1) if done % 2 else (1, 0):
                times[row, done] = (self, other)[row].turn()
            done += 1
            if done == _FIRST and _ratio(times[:, :done]) < _SLOWER:
                return _ratio(times[:, :done])
        return min(_ratio(times[:, : done // 2]), _ratio(times[:, done // 2 : done]))

    def error(self, other: "Measurement") -> float:
        """Return the relative difference between this measurement's results and another's for the same inputs."""
        mine, others = ([{"": array.astype(np.float32)} for array in one.results] for one in (self, other))
        return drift(others, mine)


def _ratio(times: np.ndarray) -> float:
    mine, others = np.quantile(times, _QUIET, axis=1)
    return float(others / mine)


def _padded(array: np.ndarray) -> int:
    """Return an array's bytes, rounded up to where kernels can read the next array."""
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT
