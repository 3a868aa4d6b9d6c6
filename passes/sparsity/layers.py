"""Which layers lose weights in a pattern, and why the others don't."""

from ...ir.errors import UsageError
from ...ir.graph import Graph
from ...ir.operators import has_trait
from ...ir.traits import Trait
from ..base import PassContext
from ..quantization.layers import Layer, select_layers
from .patterns import Pattern


def share_of_zeros(owner: str, sparsity: float, pattern: str) -> float:
    """The share of zeros that two options ask for together; 0 where they ask for none.

    Args:
        owner: the name of the pass that has the options.
        sparsity: the share that is asked for, or 0.
        pattern: the pattern of zeros, which may have a share of its own.

    Raises:
        UsageError: the pattern is none, or both options have a share.
    """
    fixed = Pattern.of(pattern, owner).sparsity
    if sparsity and fixed:
        raise UsageError(f"pattern={pattern} of pass {owner} fixes the sparsity: leave sparsity= out")
    return sparsity or fixed


def prunable_layers(
    graph: Graph, pattern: Pattern, context: PassContext, rewrite: str
) -> tuple[list[Layer], list[str]]:
    """The layers that lose weights, and why others don't.

    Args:
        graph: any graph.
        pattern: the pattern of zeros.
        context: the context that says which layers are selected.
        rewrite: the name that each layer's rewrite is counted under.
    """
    known = frozenset(
        node.operator
        for node in graph.nodes
        if has_trait(node.operator, Trait.CONTRACTING) and "Transpose" not in node.operator
    )
    selection = select_layers(graph, known, context, rewrite, "dense")
    layers: list[Layer] = []
    misses = list(selection.misses)
    for layer in selection.layers:
        if reason := _obstacle(layer, is_block=pattern.rows * pattern.columns > 1):
            misses.append(f"{layer.node.location}: {layer.node.operator} stays dense: {reason}")
        else:
            layers.append(layer)
    return layers, misses


def _obstacle(layer: Layer, *, is_block: bool) -> str:
    """Why a layer's weights aren't set to zero; empty where they are."""
    if layer.shares_weight:
        return "others read its weight too"
    if layer.node.attributes.get("group", 1) != 1:
        return "its filters read few channels each"
    if is_block and any(size > 1 for size in layer.weight.data.shape[2:]):
        return "no kernel leaves out blocks of a convolution of several taps"
    return ""
