"""Shape simplification: shape arithmetic whose result the types already tell is not computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.dims import Dim, symbols
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.types import DType
from ...ir.unknown import is_from_data
from ..base import Effect, GraphwisePass, PassContext, PassResult
from .fold_constants import tells_sizes


@dataclass(frozen=True)
class ShapeSimplification(GraphwisePass):
    """Replace computed shapes by constants.

    Small integer tensors of which every element is known become constants. A `Reshape` to symbolic sizes is written
    with 0 (copy the input's) and one -1 (the rest) where that says the same.
    """

    name: ClassVar[str] = "simplify-shapes"
    effect: ClassVar[Effect] = Effect.EXACT

    def run_on(self, graph: Graph, context: PassContext) -> PassResult:
        from ...ir.contents import contents

        counts, sizes_known = {"constant": 0, "reshape": 0}, False
        for node in graph.nodes:
            value = node.outputs[0]
            is_read = value.use_count > 0 or graph.is_output(value)
            if value.dtype is DType.int64 and value.type.is_ranked and value.type.rank <= 1 and is_read:
                elements = contents(value)
                is_known = elements is not None and all(isinstance(element, int) for element in elements)
                if is_known and context.applies("constant", node):
                    sizes_known = sizes_known or tells_sizes(value)
                    array = np.asarray(elements, dtype=np.int64).reshape(value.type.static_shape)
                    graph.replace_uses(value, graph.add_constant(array, value.name))
                    counts["constant"] += 1
            shape = node.input(1) if node.operator == "Reshape" else None
            target = None if shape is None else _copying_target(node, shape)
            if shape is not None and target is not None and context.applies("reshape", node):
                graph.set_input(node, 1, graph.add_constant(np.array(target, dtype=np.int64), shape.name))
                counts["reshape"] += 1
        if sizes_known:
            from ...ir.reinfer import reinfer  # brings torch, which listing the passes must not

            reinfer(graph, is_strict=False)
        return PassResult(counts)


def _copying_target(node: Node, shape: Value) -> list[int] | None:
    """A constant target for a Reshape whose own is computed, if one can say what the output's type says."""
    source = node.inputs[0]
    if source is None or isinstance(shape, Constant) or node.attributes.get("allowzero"):
        return None
    if not source.type.is_ranked or not node.output.type.is_ranked:
        return None
    return reshape_target(source, node.output.shape)


def reshape_target(source: Value, shape: Sequence[Dim]) -> list[int] | None:
    """A constant operand of `Reshape` that gives a shape: ints, 0 to copy a dimension, at most one -1 for the rest.

    The rest is undefined beside a size of 0, which one that depends on data may be.
    """
    copied = [
        0 if isinstance(dim, str) and index < source.type.rank and source.shape[index] == dim else dim
        for index, dim in enumerate(shape)
    ]
    target = [dim if isinstance(dim, int) else -1 for dim in copied]
    if target.count(-1) > 1 or 0 in shape:
        return None
    is_sure = not any(
        is_from_data(symbol) for dim, place in zip(shape, target, strict=True) for symbol in symbols(dim) if place == 0
    )
    return target if is_sure or -1 not in target else None
