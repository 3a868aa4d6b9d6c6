# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none, reportOperatorIssue=none
"""Epilogues of kernels whose results are images in blocks of channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue, Reach, operand_buffers
from .vectors import lanes_at

_LONG = frozenset({"Elu", "Erf", "Exp", "Gelu", "Sigmoid", "Tanh"})


def operand_images(epilogue: Epilogue, shape: Sequence[Any]) -> list[Any]:
    """The arguments of a kernel that its epilogue reads: images of the result's shape, and rows of whole blocks."""
    return operand_buffers(epilogue, shape, shape[1] * shape[-1])


@dataclass(frozen=True, slots=True)
class Finish:
    """An epilogue and the buffers of its operands."""

    epilogue: Epilogue
    buffers: Sequence[Any]

    def viewed(self, shape: Sequence[Any]) -> "Finish":
        """With images seen as of another shape."""
        kept = [
            buffer if operand.reach is Reach.CHANNELS else T.decl_buffer(shape, operand.dtype, data=buffer.data)
            for buffer, operand in zip(self.buffers, self.epilogue.operands, strict=True)
        ]
        return Finish(self.epilogue, kept)

    @property
    def is_long(self) -> bool:
        """Whether its code is so long that it should stand in a kernel once, not for each vector that registers hold."""
        return self.epilogue.dtype == "float32" and any(step.operator in _LONG for step in self.epilogue.steps)

    def applied(self, vector: Any, place: tuple[Any, Any, Any, Any], lanes: int) -> Any:
        """What becomes of a vector of the result for an image, block, row and column."""

        def load(index: int) -> Any:
            if self.epilogue.operands[index].reach is Reach.CHANNELS:
                return self.buffers[index][lanes_at(place[1] * lanes, lanes)]
            return self.buffers[index][(*place, lanes_at(0, lanes))]

        return self.epilogue.applied(vector, load)

    def apply_to(self, y: Any, place: tuple[Any, Any, Any, Any], lanes: int) -> None:
        """Code that puts what becomes of a vector of the result in its place."""
        at = (*place, lanes_at(0, lanes))
        T.buffer_store(y, self.applied(y[at], place, lanes), at)
