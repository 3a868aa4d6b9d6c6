"""Does training a graph give the losses that training the module gives, and what does a step cost?

    pip install -e ".[dev]"
    python benchmarks/training.py [MODEL...] [--steps 50] [--rounds 100]

Each model is trained as a torch module, as the graph that is traced from it, and as the graph that is read from an ONNX
file of it, in float32, by the same optimizer on the same batches. The difference is the largest relative one of a
loss; the ratio that of the fastest steps, which are measured in turn.
"""

import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import planish
from planish.ir.graph import Graph
from planish.ir.module import to_module
from planish.passes.training.trainer import is_weight

BATCHES = 5


class Model(StrEnum):
    """What may be trained."""

    CNN = "cnn"
    TRANSFORMER = "transformer"
    LSTM = "lstm"


class Recurrent(nn.Module):
    """Two LSTM layers in both directions, and a head on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 64, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Encoder(nn.Module):
    """Two layers of a transformer, and a head on their mean."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean(1))


def build(model: Model) -> tuple[nn.Module, tuple[int, ...]]:
    """A module, in the mode in which it is deployed, and the shape of a batch."""
    torch.manual_seed(0)
    if model is Model.CNN:
        blocks = [
            part
            for narrow, wide in ((3, 32), (32, 64), (64, 64))
            for part in (nn.Conv2d(narrow, wide, 3, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
        ]
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval(), (32, 3, 32, 32)
    return (Recurrent() if model is Model.LSTM else Encoder()).eval(), (32, 24, 32 if model is Model.LSTM else 64)


class Trained:
    """A model in training.

    Args:
        forward: a function from a batch to scores.
        weights: the weights that are trained.
    """

    def __init__(self, forward: Callable[[torch.Tensor], torch.Tensor], weights: list[nn.Parameter]) -> None:
        self._forward = forward
        self._optimizer = torch.optim.Adam(weights, 1e-3)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, x: torch.Tensor, labels: torch.Tensor) -> None:
        """Take a step."""
        start = time.perf_counter()
        self._optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self._forward(x), labels)
        loss.backward()
        self._optimizer.step()
        self.losses.append(loss.item())
        self.seconds.append(time.perf_counter() - start)


def of_graph(graph: Graph) -> Trained:
    """A graph in training."""
    module = to_module(graph, training=True).requires_grad_(False)
    chosen = [place for place, constant in enumerate(graph.constants.values()) if is_weight(constant)]
    weights = [module.get_parameter(f"constant_{place}").requires_grad_() for place in chosen]
    return Trained(lambda x: module(x)[0], weights)


def main(
    models: Annotated[list[Model] | None, typer.Argument(help="The models to train; all by default.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of training.")] = 50,
    rounds: Annotated[int, typer.Option(help="Further steps, which are timed in turn.")] = 100,
) -> None:
    """Print how far losses are apart, and what steps cost."""
    table = Table("model", "graph", "loss before", "after", "difference", "time per step")
    for model in models or list(Model):
        module, shape = build(model)
        batches = [
            (torch.randn(shape, generator=torch.Generator().manual_seed(seed)), torch.arange(shape[0]) % 10)
            for seed in range(BATCHES)
        ]
        graph = planish.trace(module, (batches[0][0],))
        with tempfile.TemporaryDirectory() as folder:
            planish.write(graph, Path(folder, "model.onnx"))
            read = planish.read(Path(folder, "model.onnx"))
            reference = Trained(module, list(module.parameters()))
            graphs = {"traced": of_graph(graph), "from ONNX": of_graph(read)}
            trained = [reference, *graphs.values()]
            for step in range(steps + rounds):
                for it in trained:
                    it.step(*batches[step % BATCHES])
        losses = np.array([it.losses[:steps] for it in trained])
        for name, it in graphs.items():
            difference = np.abs(np.array(it.losses[:steps]) / losses[0] - 1).max()
            ratio = min(it.seconds[steps:]) / min(reference.seconds[steps:])
            typical = np.median(it.seconds[steps:]) / np.median(reference.seconds[steps:])
            cells = (f"{losses[0][0]:.4f}", f"{losses[0][-1]:.4f}", f"{difference:.1e}")
            table.add_row(model, name, *cells, f"{ratio:.2f} of the module's ({typical:.2f} in the median)")
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
