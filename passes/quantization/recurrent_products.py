"""LSTMs that multiply by int8 at run time, where that is measured to be faster and loses little on held-out inputs.

ONNX Runtime has such a kernel for LSTM alone. It puts the input, and the state anew at each step, on grids of uint8
that span what is there, so that no ranges are calibrated.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ...ir.builder import Builder
from ...ir.extract import computing
from ...ir.graph import Constant, Graph, Node, Value
from ...ir.quantization import quantize_weight
from ...ir.types import DType
from ...ir.unused import drop_unused
from ..base import Feeds, PassContext
from ..judge import Reference
from ..legalization.expansions.recurrent import DYNAMIC_LSTM, is_batch_first
from ..profit import slower
from .calibrate import LOST
from .losses import last_batches
from .rounding import name_of


def quantize_lstms(graph: Graph, context: PassContext, weight_bits: int) -> tuple[int, list[str]]:
    """Rewrite LSTMs in place, as far as the context can time graphs and has calibration data to judge by.

    Args:
        graph: the graph to rewrite.
        context: the context that says which layers may be rewritten.
        weight_bits: the bits that the integers may take up.

    Returns:
        How many layers were rewritten, and a sentence for each one that could have been.
    """
    profile = context.profile
    nodes = {name_of(node): node for node in graph.nodes if _has_kernel(node) and context.selects(node)}
    if not nodes or profile is None or not context.profile_decides:
        return 0, []
    if not context.calibration:
        return 0, [_stays(node, "only calibration data could tell what int8 would lose") for node in nodes.values()]
    lost = _lost(graph, nodes, weight_bits, last_batches(context))
    misses = [
        _stays(nodes[name], f"int8 would lose {share:.1%} of its output's power")
        for name, share in lost.items()
        if not share <= LOST
    ]
    chosen = [name for name, share in lost.items() if share <= LOST]
    if not chosen or not slower(profile, _rewritten(graph, chosen, weight_bits), graph):
        return 0, [*misses, *(_stays(nodes[name], "int8 isn't measured to be faster") for name in chosen)]
    chosen = [name for name in chosen if context.applies("quantize", nodes[name])]
    _rewrite(graph, chosen, weight_bits)
    return len(chosen), misses


def _stays(node: Node, reason: str) -> str:
    return f"{node.location}: LSTM multiplies by floats: {reason}"


def _has_kernel(node: Node) -> bool:
    weights = _weights(node)
    is_plain = len(weights) == 2 and all(x.dtype is DType.float32 and x.data.size for x in weights)
    return node.operator == "LSTM" and not is_batch_first(node) and is_plain


def _weights(node: Node) -> list[Constant]:
    """The weights of the input and of the state, `[directions, 4 * hidden, K]`, as far as they are constant."""
    return [x for x in node.inputs[1:3] if isinstance(x, Constant)]


def _lost(graph: Graph, names: Collection[str], weight_bits: int, batches: Sequence[Feeds]) -> Mapping[str, float]:
    """The share of a sample's power that each layer's output loses, in the mean over samples."""
    shares: dict[str, list[np.ndarray]] = {name: [] for name in names}
    graphs = (graph, _rewritten(graph, names, weight_bits))
    floats, integers = (Reference(computing(it, frozenset(names))) for it in graphs)
    for batch in batches:
        wanted, found = floats.run(batch), integers.run(batch)
        for name, y in wanted.items():
            lost, power = (np.square(it).sum(axis=(0, 1, 3)) for it in (found[name] - y, y))
            shares[name].append(np.minimum(lost[power > 0] / power[power > 0], 1))
    return {
        name: float(np.concatenate([[0.0], *found]).sum() / max(sum(map(len, found)), 1))
        for name, found in shares.items()
    }


def _rewritten(graph: Graph, names: Collection[str], weight_bits: int) -> Graph:
    copy = graph.clone()
    _rewrite(copy, names, weight_bits)
    return copy


def _rewrite(graph: Graph, names: Collection[str], weight_bits: int) -> None:
    """Make the layers with these names multiply by int8; those that share a weight go on to share it."""
    made: dict[Constant, tuple[Value, Value, Value]] = {}
    for node in [node for node in graph.nodes if name_of(node) in names]:
        op, weights, others = Builder(graph, node, node.location), _weights(node), [node.input(i) for i in range(3, 8)]
        for weight in weights:
            made[weight] = made.get(weight) or _columns(op, weight, weight_bits)
        (w, *w_grid), (r, *r_grid) = (made[weight] for weight in weights)
        attributes = {name: value for name, value in node.attributes.items() if name != "layout"}
        inputs = (node.operand(0), w, r, *others, *w_grid, *r_grid)
        _replace(graph, node, op(DYNAMIC_LSTM, *inputs, outputs=len(node.outputs), **attributes))
    drop_unused(graph, made)


def _columns(op: Builder, weight: Constant, weight_bits: int) -> tuple[Value, Value, Value]:
    """Emit a weight's integers, `[directions, K, 4 * hidden]`, and the scale and zero point of each column."""
    directions, rows, k = weight.data.shape
    integers = quantize_weight(weight.data.reshape(-1, k), axis=0, bits=weight_bits)
    return (
        op.constant(integers.data.reshape(weight.data.shape).swapaxes(1, 2).copy(), f"{weight.name}.integers"),
        op.constant(integers.scale.reshape(directions, rows), f"{weight.name}.scale"),
        op.constant(np.zeros((directions, rows), np.int8), f"{weight.name}.zero_point"),
    )


def _replace(graph: Graph, node: Node, made: Value | tuple[Value, ...]) -> None:
    """Put another node's outputs in the place of a node's, under their names."""
    outputs, names = made if isinstance(made, tuple) else (made,), [value.name for value in node.outputs]
    for old, new in zip(node.outputs, outputs, strict=True):
        graph.replace_uses(old, new)
    graph.erase(node)
    for name, new in zip(names, outputs, strict=True):
        graph.rename(new, name)
