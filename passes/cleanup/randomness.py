"""Which nodes draw random numbers: no two of them are the same, and none is known in advance."""

from ...ir.graph import Node
from ...ir.operators import has_trait
from ...ir.traits import Trait


def is_random(node: Node) -> bool:
    """Whether a node's result may differ from run to run; that of a Dropout does unless it plainly isn't training."""
    if node.operator == "Dropout":
        training = node.constant(2)
        return node.input(2) is not None and (training is None or bool(training.any()))
    return has_trait(node.operator, Trait.RANDOM)
