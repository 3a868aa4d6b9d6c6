"""Recurrent layers kept as operators while torch exports, which would unroll them and fix the number of steps."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class WholeRecurrences(TorchFunctionMode):
    """Keeps recurrent layers whole while it is on; packed sequences are left to torch."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        whole = _WHOLE.get(getattr(func, "__name__", ""))
        is_packed = whole is not None and isinstance(args[3], list | tuple)  # data, sizes of batches, states, weights
        if whole is None or is_packed or kwargs:
            return func(*args, **(kwargs or {}))
        return whole(args[0], args[1], list(args[2]), *args[3:])


@torch.library.custom_op("planish::lstm", mutates_args=())
def _lstm(
    x: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.lstm(x, states, weights, has_biases, layers, dropout, training, bidirectional, batch_first)


@_lstm.register_fake
def _(x: Tensor, states: list[Tensor], weights: list[Tensor], *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _sequence(x, states[0], options), torch.empty_like(states[0]), torch.empty_like(states[1])


def _sequence(x: Tensor, state: Tensor, options: tuple[Any, ...]) -> Tensor:
    """An output for each step, of both directions side by side."""
    directions = 2 if options[4] else 1
    return x.new_empty((*x.shape[:-1], directions * state.shape[-1]))


def _whole(name: str) -> Callable[..., Any]:
    """The operator for a layer with one state."""
    run: Callable[..., Any] = getattr(torch, name)

    @torch.library.custom_op(f"planish::{name}", mutates_args=())
    def layer(
        x: Tensor,
        state: Tensor,
        weights: list[Tensor],
        has_biases: bool,
        layers: int,
        dropout: float,
        training: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, Tensor]:
        return run(x, state, weights, has_biases, layers, dropout, training, bidirectional, batch_first)

    @layer.register_fake
    def _(x: Tensor, state: Tensor, weights: list[Tensor], *options: Any) -> tuple[Tensor, Tensor]:
        return _sequence(x, state, options), torch.empty_like(state)

    return layer


_WHOLE: Mapping[str, Callable[..., Any]] = {
    "lstm": lambda x, states, *others: _lstm(x, list(states), *others),
    **{name: _whole(name) for name in ("gru", "rnn_tanh", "rnn_relu")},
}
