"""A network that says x * sigmoid(x) by hand, and returns probabilities."""

import torch
from torch import nn


class HandWritten(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(16, 32)
        self.classifier = nn.Linear(32, 4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Probabilities, float[n, 4], of features, float[n, 16]."""
        hidden = self.hidden(features)
        return self.classifier(hidden * torch.sigmoid(hidden)).softmax(-1)


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The network with random weights, and example inputs."""
    torch.manual_seed(0)
    return HandWritten().eval(), (torch.randn(8, 16),)
