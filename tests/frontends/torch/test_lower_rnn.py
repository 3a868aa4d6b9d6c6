"""Recurrent layers: as many operators as there are layers, whatever the length of the sequence."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from planish.frontends.torch import trace
from planish.ir.errors import ModelError

LAYERS: dict[str, nn.Module] = {
    "lstm": nn.LSTM(5, 6, batch_first=True),
    "both ways": nn.LSTM(5, 6, batch_first=True, bidirectional=True),
    "two layers without biases": nn.LSTM(5, 6, num_layers=2, bias=False, batch_first=True, dropout=0.5),
    "projected": nn.LSTM(5, 6, num_layers=2, proj_size=3, batch_first=True, bidirectional=True),
    "gru": nn.GRU(5, 6, num_layers=2, batch_first=True, bidirectional=True),
    "rnn": nn.RNN(5, 6, batch_first=True),
    "rnn of another nonlinearity": nn.RNN(5, 6, nonlinearity="relu", batch_first=True, bidirectional=True),
    "the time first": nn.GRU(5, 6),
}


def sequences(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 7, 5),)


@pytest.mark.parametrize("is_symbolic", [False, True], ids=["fixed", "symbolic"])
def test_results_are_torchs(holds, is_symbolic: bool) -> None:
    graph = holds(LAYERS, sequences, is_symbolic)
    operators = [node.operator for node in graph.nodes]
    assert (operators.count("LSTM"), operators.count("GRU"), operators.count("RNN")) == (4, 3, 2)
    assert operators.count("Scan") == 4, "of the projected layers, one for each layer and direction"


def test_states_are_given_and_sequences_come_without_a_batch(holds) -> None:
    lstm, gru = nn.LSTM(5, 6, num_layers=2), nn.GRU(5, 6)
    h, c = torch.randn(2, 6), torch.randn(2, 6)
    holds({"lstm": lambda x: lstm(x, (h, c)), "gru": lambda x: gru(x, h[:1]), "cell": nn.LSTMCell(5, 6)}, rows, False)


def rows(length: int) -> tuple[Tensor, ...]:
    return (torch.randn(length, 5),)


def test_one_graph_takes_any_batch_and_length(agrees: Callable[..., None]) -> None:
    module = nn.LSTM(5, 6, num_layers=2, batch_first=True, bidirectional=True).eval()
    shapes = ({0: Dim("batch"), 1: Dim("time")},)
    graph = trace(module, (torch.randn(2, 7, 5),), dynamic_shapes=shapes)
    for batch, time in ((1, 1), (3, 12)):
        agrees(graph, module, (torch.randn(batch, time, 5),))


def test_dropping_out_between_layers_is_refused() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.LSTM(5, 6, num_layers=2)

        def forward(self, x: Tensor) -> Tensor:
            weights = self.layers._flat_weights
            state = [x.new_zeros(2, x.shape[1], 6)] * 2
            return torch._VF.lstm(x, state, weights, True, 2, 0.5, True, False, False)[0]

    with pytest.raises(ModelError, match=r"lstm.*it drops out at random: export the model after eval\(\)"):
        trace(Dropping(), (torch.randn(7, 2, 5),))
