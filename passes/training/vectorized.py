"""Runs what takes one sample at a time on several samples at once."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


class Vectorized:
    """A model that runs on samples of one shape together, each of which it takes as if by itself.

    Many models are exported for a batch of one, and have it in the shapes that they give their tensors. `torch.vmap`
    gives all of their operators a further axis. Where one has no counterpart for that, as a choice by what is in a
    tensor has none, samples are run one after another from then on.

    Args:
        run: computes outputs from inputs, both in order.
    """

    def __init__(self, run: Callable[..., Sequence[Any]]) -> None:
        self._run = run
        self._works = True

    def __call__(self, samples: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        """The outputs for each sample."""
        found = {place: outputs for part in self.parts(samples) for place, outputs in part.items()}
        return [found[place] for place in range(len(samples))]

    def parts(self, samples: Sequence[Sequence[Any]]) -> Iterator[Mapping[int, Sequence[Any]]]:
        """The outputs by the indices of samples, as many at a time as are computed together."""
        import torch

        alike: defaultdict[Any, list[int]] = defaultdict(list)
        for place, inputs in enumerate(samples):
            alike[tuple(getattr(it, "shape", None) for it in inputs)].append(place)
        for places in alike.values():
            if self._works and len(places) > 1:
                try:
                    stacked = [torch.stack(column) for column in zip(*(samples[it] for it in places), strict=True)]
                    with warnings.catch_warnings():
                        warnings.filterwarnings("ignore", "There is a performance drop")  # one operator runs apart
                        columns = [output.unbind() for output in torch.vmap(self._run)(*stacked)]
                    found = dict(zip(places, zip(*columns, strict=True), strict=True))
                except Exception:  # whatever an operator raises; if the model is at fault, it will do so once more
                    self._works = False
                else:
                    yield found
                    continue
            for place in places:
                yield {place: self._run(*samples[place])}
