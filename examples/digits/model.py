"""A small convolutional network for handwritten digits, trained in seconds when it is built."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from data import split
from torch import nn
from torch.export import Dim

EPOCHS = 8
BATCH = 50


class DigitNet(nn.Module):
    """Four convolutions in two stages, an average over the image, two linear layers."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(1, width),
            block(width, width),
            nn.MaxPool2d(2),
            block(width, 2 * width),
            block(2 * width, 2 * width),
        )
        self.hidden = nn.Linear(2 * width, 2 * width)
        self.classifier = nn.Linear(2 * width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits, float[n, 10], of images, float[n, 1, 8, 8]."""
        pooled = self.features(images).mean((2, 3))
        return self.classifier(self.hidden(pooled).relu())


def block(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution, batch norm and rectifier."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def build() -> tuple[nn.Module, tuple[torch.Tensor, ...], dict[str, Any]]:
    """The trained network, example inputs, and which of their dimensions vary."""
    images, labels = map(torch.from_numpy, split()[0])
    with reproducible():
        model = train(DigitNet(), images, labels)
    return model.eval(), (images[:BATCH],), {"images": {0: Dim("batch")}}


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """AdamW, one cycle of the learning rate."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = EPOCHS * len(images.split(BATCH))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return model


@contextmanager
def reproducible(seed: int = 0) -> Iterator[None]:
    """One seed and one thread, so that every build trains the same weights to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
