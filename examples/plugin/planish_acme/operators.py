"""The operators of the domain `acme`: imported when the first node of it is met."""

import torch

from planish import operator


def _spelled_out(op, node):
    """The node in operators of the standard, for every backend: none of them has the domain `acme`."""
    relu = op.Relu(node.inputs[0])
    square = op.Mul(relu, relu)
    gain = node.attributes.get("gain", 1.0)
    return square if gain == 1 else op.Mul(square, gain)


@operator("acme::SquaredRelu", expansion=_spelled_out)
def squared_relu(x: torch.Tensor, *, gain: float = 1.0) -> torch.Tensor:
    """The square of what is positive (So et al., "Primer", NeurIPS 2021), times a number."""
    return gain * torch.relu(x).square()
