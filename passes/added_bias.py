"""Where a product's bias is that is added behind it."""

from ..ir.graph import Node


def added_bias(node: Node) -> tuple[Node, int] | None:
    """The Add behind a node, and its input that is a constant with one number for each channel along the last axis.

    There is none if others read what the node yields.
    """
    output = node.outputs[0]
    uses = output.uses
    if len(uses) != 1 or uses[0].node.operator != "Add":
        return None
    place = uses[0].node, 1 - uses[0].index
    data = place[0].constant(place[1])
    return place if data is not None and data.shape[-1:] == output.shape[-1:] == (data.size,) else None
