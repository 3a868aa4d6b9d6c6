"""A network with squared ReLUs, as Primer has them."""

import torch
from torch import nn


class Primer(nn.Module):
    """Two layers and an activation that no runtime has an operator for."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(16, 32)
        self.classifier = nn.Linear(32, 4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Scores, float[n, 4], of features, float[n, 16]."""
        return self.classifier(torch.relu(self.hidden(features)) ** 2)


def build():
    """The network with random weights, example inputs, and which of their sizes are free."""
    torch.manual_seed(0)
    return Primer().eval(), (torch.randn(8, 16),), ({0: torch.export.Dim("n")},)
