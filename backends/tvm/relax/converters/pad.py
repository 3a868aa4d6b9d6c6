"""Pad, with amounts that are known or computed while the model runs."""

from collections.abc import Sequence

import numpy as np
from tvm import relax, te, tirx
from tvm.sym import Analyzer

from .....ir.graph import Node
from ...kernels.vectors import Scalar
from ...runtime.storage import carrier
from ..emitter import Emitter, input_contents
from ..expressions import choose, counted, elements, integer, only_if, row, same, within


def pad(emitter: Emitter, node: Node) -> relax.Expr:
    """Pad by a table of the places that elements come from, since LLVM miscompiles reads at a remainder."""
    x, value = node.operand(0), node.input(2)
    data, mode = emitter.tensor(x), node.attributes.get("mode", "constant")
    begins = _known_begins(emitter, node, x.type.rank)
    given: list[relax.Expr] = []
    if begins is None:
        given = [emitter.block.emit(_computed_begins(emitter, node, data))]
    fill = (
        relax.const(np.zeros((), carrier(x.dtype).numpy), str(carrier(x.dtype)))
        if value is None
        else emitter.tensor(value)
    )

    def padded(
        x: te.Tensor, fill: te.Tensor, *given: te.Tensor, shape: Sequence[Scalar], begins: Sequence[Scalar] | None
    ) -> te.Tensor:
        first = [given[0](axis) for axis in range(len(x.shape))] if given else begins
        assert first is not None
        moved = [axis for axis, begin in enumerate(first) if not _stays(begin, x.shape[axis], shape[axis])]
        tables = {axis: _sources(x.shape[axis], shape[axis], first[axis], mode) for axis in moved}

        def element(*place: tirx.Expr) -> tirx.Expr:
            source = [tables[axis](index) if axis in tables else index for axis, index in enumerate(place)]
            if mode != "constant" or not moved:
                return x(*source)
            is_inside = tirx.all(tirx.const(True, "bool"), *(source[axis] >= 0 for axis in moved))
            return only_if(is_inside, x(*source), fill(*[0] * len(fill.shape)))

        return te.compute(shape, element, name="pad")

    return emitter.kernel(padded, data, fill, *given, shape=emitter.shape(node.output.shape), begins=begins)


def _stays(begin: Scalar, size: Scalar, wanted: Scalar) -> bool:
    is_begun = isinstance(begin, int | tirx.IntImm) and int(begin) == 0
    return is_begun and Analyzer().can_prove_equal(size, wanted)


def _known_begins(emitter: Emitter, node: Node, rank: int) -> list[Scalar] | None:
    """Return the padding in front of each axis, in elements of the result; None where only data tells."""
    pads, axes = input_contents(node, 1), input_contents(node, 3)
    if pads is None or (node.input(3) is not None and axes is None):
        return None
    begins: list[Scalar] = [0] * rank
    for axis, amount in zip(axes or range(rank), pads[: len(pads) // 2], strict=True):
        begins[int(axis) % rank] = emitter.size(amount)
    return begins


def _computed_begins(emitter: Emitter, node: Node, data: relax.Expr) -> relax.Expr:
    """Compute the padding in front of each axis as a row, after giving the result's sizes their values."""
    given = [emitter.tensor(value) for value in (node.input(1), node.input(3)) if value is not None]

    def amounts(x: te.Tensor, pads: te.Tensor, *rest: te.Tensor) -> te.Tensor:
        rank, amounts = len(x.shape), elements(pads)
        named = elements(rest[0]) if rest else [integer(axis) for axis in range(rank)]
        begins, ends = [integer(0)] * rank, [integer(0)] * rank
        for axis in range(rank):
            for place, other in enumerate(named):
                is_meant = same(counted(other, integer(rank)), axis)
                begins[axis] = choose(is_meant, amounts[place], begins[axis])
                ends[axis] = choose(is_meant, amounts[len(named) + place], ends[axis])
        sizes = [size + begin + end for size, begin, end in zip(x.shape, begins, ends, strict=True)]
        return row([*sizes, *begins])

    found = emitter.block.emit(emitter.kernel(amounts, data, *given))
    rank = node.output.type.rank
    emitter.computed(relax.op.strided_slice(found, [0], [0], [rank]), node.output.shape)
    return relax.op.strided_slice(found, [0], [rank], [2 * rank])


def _sources(size: Scalar, wanted: Scalar, begin: Scalar, mode: str) -> te.Tensor:
    """Return a table of the place that each element along a padded axis comes from, or -1 for none."""

    def source(place: tirx.Expr) -> tirx.Expr:
        at = place.astype("int64") - begin
        if mode == "constant":
            return choose(tirx.all(at >= 0, at < size), at, integer(-1))
        if mode == "edge":
            return within(at, size)
        if mode == "wrap":
            return tirx.floormod(at, size)
        period = tirx.max(2 * (size - 1), integer(1))
        at = tirx.floormod(at, period)
        return within(tirx.min(at, period - at), size)

    return te.compute((wanted,), source, name="sources")


CONVERTERS = {"Pad": pad}
