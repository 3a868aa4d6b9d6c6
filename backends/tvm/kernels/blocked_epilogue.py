"""Epilogues of kernels whose results are images in blocks of channels."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .bfloat16 import imported
from .epilogue import Epilogue, Result
from .machine import Machine
from .prim_func import maybe_parallel
from .vectors import Scalar, known, ramp

Place: TypeAlias = tuple[Scalar, Scalar, Scalar, Scalar]
"""An image, a block, a row and a column."""
_LONG = frozenset({"Elu", "Erf", "Exp", "Gelu", "Sigmoid", "Tanh"})
_STACK = 1024 // 4
"""Float32 numbers that a TVM function may put on the stack at once; more would be taken from the workspace."""


@contextmanager
def each_pixel(shape: Sequence[Scalar], machine: Machine, *, imports: bool) -> Generator[Place]:
    """Return a context for the code of each pixel of images in blocks, given its place."""
    images, blocks, rows, columns, _ = shape
    tasks = images * blocks * rows
    loop = maybe_parallel(tasks * columns, machine.costs.vector_work)
    with T.sblock("root"), imported(machine, imports), loop(0, tasks) as task, T.serial(0, columns) as column:
        yield task // rows // blocks, task // rows % blocks, task % rows, column


class BlockedEpilogue(Result):
    """A kernel's images in blocks, with the epilogue on them."""

    __slots__ = ()

    @classmethod
    def of(cls, epilogue: Epilogue, shape: Sequence[Scalar]) -> "BlockedEpilogue":
        """Declare a kernel's last arguments: images of a shape that the epilogue reads, and the result."""
        return cls.declare(epilogue, shape, shape[1] * shape[-1])

    @property
    def lanes(self) -> int:
        """The channels of a block."""
        return known(self.y.shape[-1])

    @property
    def is_long(self) -> bool:
        """Whether the epilogue's code is so long that a kernel should hold it once, not for each vector."""
        return any(step.operator in _LONG for step in self.epilogue.steps)

    def store_one(self, vector: tirx.Expr | None, place: Place) -> None:
        """Emit and store the epilogue's result for a vector."""
        lanes = self.lanes
        self.put(vector, (*place, ramp(0, lanes)), ramp(place[1] * lanes, lanes))

    def store(self, vectors: Sequence[Sequence[tirx.Expr]], place: Place) -> None:
        """Emit and store the epilogue of a tile's vectors, given by column and block: in loops if its code is long."""
        image, first, row, start = place
        if not self.is_long:
            for column, line in enumerate(vectors):
                for number, vector in enumerate(line):
                    self.store_one(vector, (image, first + number, row, start + column))
            return
        blocks, lanes = len(vectors[0]), self.lanes
        count = max(_STACK // (blocks * lanes), 1)
        for begin in range(0, len(vectors), count):
            part = vectors[begin : begin + count]
            stack = T.alloc_buffer((len(part), blocks, lanes), "float32")
            for column, line in enumerate(part):
                for number, vector in enumerate(line):
                    T.buffer_store(stack, vector, [column, number, ramp(0, lanes)])
            with T.serial(0, len(part)) as column, T.serial(0, blocks) as number:
                at = (image, first + number, row, start + begin + column)
                self.store_one(stack[column, number, ramp(0, lanes)], at)
