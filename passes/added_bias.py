"""The bias of a product that an Add behind it adds."""

from ..ir.graph import Node


def added_bias(node: Node) -> tuple[Node, int] | None:
    """The Add behind a node, and the index of its constant input with one number for each channel on the last axis.

    None where there is no such Add, or something else reads the node's output.
    """
    output = node.outputs[0]
    uses = output.uses
    if len(uses) != 1 or uses[0].node.operator != "Add":
        return None
    place = uses[0].node, 1 - uses[0].index
    data = place[0].constant(place[1])
    if data is None or not output.type.is_ranked:
        return None
    return place if data.shape[-1:] == output.shape[-1:] == (data.size,) else None
