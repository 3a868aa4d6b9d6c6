"""Which rank each layer gets, so that as little as possible is lost for what is saved in all."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

_STEP = 8
"""The number that ranks of 64 and more are multiples of, as suits vector units."""
_BISECTIONS = 60

Key = TypeVar("Key", bound=Hashable)


class Form(NamedTuple):
    """What a weight is as the matrix that is decomposed.

    Attributes:
        axes: a convolution's spatial axes along which the first of two layers reads windows; the second has the others.
        exact: how many rows of a table stay as they are.
    """

    axes: tuple[int, ...] = ()
    exact: int = 0


class Cut(NamedTuple):
    """What becomes of a weight: a rank, and what it is the rank of."""

    rank: int
    form: Form = Form()


@dataclass(frozen=True, slots=True)
class Choices:
    """What may become of a layer, beside staying whole.

    Attributes:
        cuts: the cut of each choice.
        losses: the loss of the model's outputs at each choice, float `[choices]`.
        saved: what each choice saves, in the unit of the budget, float `[choices]`.
    """

    cuts: Sequence[Cut]
    losses: np.ndarray
    saved: np.ndarray

    @classmethod
    def of(
        cls, losses: np.ndarray, most: float, per_rank: float, whole: float, form: Form = Form(), block: int = 1
    ) -> "Choices":
        """The ranks that a layer may have.

        Args:
            losses: the loss of each rank from 0 on.
            most: the rank that all ranks are below.
            per_rank: what each rank costs.
            whole: what the layer costs now, less what stays of it whatever the rank.
            form: what the ranks are ranks of.
            block: the number that ranks of four times that number and more are multiples of.
        """
        ranks = np.arange(1, len(losses))
        suits = (ranks % _STEP == 0) | ((ranks < 8 * _STEP) & ((ranks < 4 * block) | (ranks % block == 0)))
        ranks = ranks[(ranks < most) & suits]
        return cls([Cut(int(rank), form) for rank in ranks], losses[ranks], whole - per_rank * ranks)

    @classmethod
    def joined(cls, several: Sequence["Choices"]) -> "Choices":
        """The choices of several sets for one layer, as one set."""
        return cls(
            [cut for it in several for cut in it.cuts],
            np.concatenate([it.losses for it in several]),
            np.concatenate([it.saved for it in several]),
        )

    def best(self, price: float) -> int | None:
        """The index of the choice that is worth the most if savings have a price; None where none is worth its loss."""
        gains = price * self.saved - self.losses
        place = int(np.argmax(gains)) if len(gains) else 0
        return place if len(gains) and gains[place] > 0 else None

    def gain(self, place: int, spare: float) -> tuple[float, int]:
        """How much less is lost by the best choice that saves as much as one, but for a spare, and its index."""
        losses = np.where(self.saved >= self.saved[place] - spare, self.losses, np.inf)
        other = int(np.argmin(losses))
        return float(self.losses[place] - losses[other]), other


def allocate(layers: Mapping[Key, Choices], wanted: float) -> dict[Key, Cut]:
    """Choose cuts that save no less than what is wanted, or else as much as possible, and lose the least for that.

    It is an integer program with one constraint, solved by the price of what is saved, Lagrange's multiplier: at the
    lowest price at which enough is saved, no other choice that saves as much loses less. What is saved beyond that is
    given back, where it lessens the loss most.

    Args:
        layers: the choices of each layer.
        wanted: how much is to be saved, in the unit of the choices.

    Returns:
        The cuts of the layers that don't stay whole.
    """
    places = _places(layers, price(layers, wanted))
    spare = sum(float(layers[key].saved[place]) for key, place in places.items()) - wanted
    while gains := {key: gain for key, place in places.items() if (gain := layers[key].gain(place, spare))[0] > 0}:
        key = max(gains, key=lambda key: gains[key][0])
        spare -= float(layers[key].saved[places[key]] - layers[key].saved[gains[key][1]])
        places[key] = gains[key][1]
    return {key: layers[key].cuts[place] for key, place in places.items()}


def price(layers: Mapping[Key, Choices], wanted: float) -> float:
    """The lowest price at which no less is saved than what is wanted, or else the highest."""
    low, high = -80.0, 80.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if _saved(layers, np.exp(middle)) >= wanted else (middle, high)
    return float(np.exp(high))


def most_saved(layers: Mapping[Key, Choices]) -> float:
    """What is saved if each layer gives as much as it can."""
    return sum(max(0.0, float(choices.saved.max(initial=0.0))) for choices in layers.values())


def _places(layers: Mapping[Key, Choices], price: float) -> dict[Key, int]:
    return {key: place for key, choices in layers.items() if (place := choices.best(price)) is not None}


def _saved(layers: Mapping[Key, Choices], price: float) -> float:
    return sum(float(layers[key].saved[place]) for key, place in _places(layers, price).items())
