"""Epilogues of kernels whose results are images in blocks of channels."""

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .bfloat16 import stored_as
from .epilogue import Broadcast, Epilogue, operand_buffers
from .vectors import Scalar, ramp

_LONG = frozenset({"Elu", "Erf", "Exp", "Gelu", "Sigmoid", "Tanh"})
_STACK = 1024 // 4
"""Float32 numbers that a TVM function may put on the stack at once; more would be taken from the workspace."""


def operand_images(epilogue: Epilogue, shape: Sequence[Scalar]) -> list[tirx.Buffer]:
    """Declare the arguments that a kernel's epilogue reads: images of the result's shape, and rows of whole blocks."""
    return operand_buffers(epilogue, shape, shape[1] * shape[-1])


def seen(buffer: tirx.Buffer, shape: Sequence[Scalar]) -> tirx.Buffer:
    """View a kernel's argument as its code reads it: as images of a shape, with bfloat16 held as bits."""
    return T.decl_buffer(shape, stored_as(str(buffer.dtype)), data=buffer.data)


@dataclass(frozen=True, slots=True)
class BlockedEpilogue:
    """An epilogue and the buffers of its operands."""

    epilogue: Epilogue
    buffers: Sequence[tirx.Buffer]

    def seen(self, shape: Sequence[Scalar]) -> "BlockedEpilogue":
        """Return the epilogue with its image operands viewed as the kernel's code reads them."""
        pairs = zip(self.buffers, self.epilogue.operands, strict=True)
        kept = [buffer if operand.reach is Broadcast.CHANNELS else seen(buffer, shape) for buffer, operand in pairs]
        return BlockedEpilogue(self.epilogue, kept)

    @property
    def is_long(self) -> bool:
        """Whether the epilogue's code is so long that a kernel should hold it once, not for each vector."""
        return any(step.operator in _LONG for step in self.epilogue.steps)

    def applied(self, vector: tirx.Expr | None, place: tuple[Scalar, Scalar, Scalar, Scalar], lanes: int) -> tirx.Expr:
        """Return the epilogue's result for a vector at an image, block, row and column."""

        def load(index: int) -> tirx.Expr:
            if self.epilogue.operands[index].reach is Broadcast.CHANNELS:
                return self.buffers[index][ramp(place[1] * lanes, lanes)]
            return self.buffers[index][(*place, ramp(0, lanes))]

        return self.epilogue.applied(vector, load)

    def store(
        self,
        y: tirx.Buffer,
        vectors: Sequence[Sequence[tirx.Expr]],
        place: tuple[Scalar, Scalar, Scalar, Scalar],
        lanes: int,
    ) -> None:
        """Emit and store the epilogue of a tile's vectors, given by column and block: in loops if its code is long."""
        image, first, row, start = place
        if not self.is_long:
            for column, line in enumerate(vectors):
                for number, vector in enumerate(line):
                    at = (image, first + number, row, start + column)
                    T.buffer_store(y, self.applied(vector, at, lanes), [*at, ramp(0, lanes)])
            return
        blocks = len(vectors[0])
        k_per_instruction = max(_STACK // (blocks * lanes), 1)
        for begin in range(0, len(vectors), k_per_instruction):
            part = vectors[begin : begin + k_per_instruction]
            stack = T.alloc_buffer((len(part), blocks, lanes), "float32")
            for column, line in enumerate(part):
                for number, vector in enumerate(line):
                    T.buffer_store(stack, vector, [column, number, ramp(0, lanes)])
            with T.serial(0, len(part)) as column, T.serial(0, blocks) as number:
                at = (image, first + number, row, start + begin + column)
                vector = self.applied(stack[column, number, ramp(0, lanes)], at, lanes)
                T.buffer_store(y, vector, [*at, ramp(0, lanes)])
