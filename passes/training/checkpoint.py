"""Checkpoints: a training goes on from one after its process was killed, and ends with the same bytes."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.drafts import replacing
from ...ir.errors import ModelError
from ...ir.files import writing

if TYPE_CHECKING:  # listing the passes must not import torch
    from torch import Tensor

SECONDS = 0.2
"""The least time from one checkpoint to the next."""
_SHARE = 20
"""The least time from one checkpoint to the next, in multiples of what writing one takes."""


@dataclass(slots=True)
class State:
    """Where a training stands.

    Attributes:
        verdicts: the drop and the loss after each leg that is done.
        steps: how many steps of the unfinished leg are done.
        losses: the loss of each step so far.
        tensors: all that the next step depends on, and what is best so far.
    """

    verdicts: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    steps: int = 0
    losses: list[float] = field(default_factory=list[float])
    tensors: "Mapping[str, Tensor]" = field(default_factory=dict[str, Any])


class Checkpoint:
    """A file, in the format of safetensors, that a state is kept in now and then.

    Args:
        folder: the folder for the file; None to keep nothing.
        key: a hash of all that the training depends on; another training has another file.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._path = None if folder is None else folder / f"{key[:32]}.safetensors"
        self._key = key
        self._next = time.monotonic() + SECONDS

    def read(self) -> State:
        """The state that was kept, or an empty one.

        Raises:
            ModelError: the file is broken, or belongs to another training.
        """
        if self._path is None or not self._path.is_file():
            return State()
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path, framework="pt") as file:
                told = json.loads((file.metadata() or {})["planish"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
            if told.pop("key") != self._key:
                raise ModelError(f"{self._path} is the checkpoint of another training, or another model: remove it")
            return State([(drop, loss) for drop, loss in told["verdicts"]], told["steps"], told["losses"], tensors)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise ModelError(f"{self._path} is no checkpoint, or a broken one: remove it ({error})") from error

    @property
    def is_due(self) -> bool:
        """Whether it is time to keep a state."""
        return self._path is not None and time.monotonic() >= self._next

    def write(self, state: State) -> None:
        """Keep a state in place of an older one, whole or not at all.

        Raises:
            UsageError: the disk is full, or nothing may be written there.
        """
        if self._path is None:
            return
        from safetensors.torch import save_file

        start = time.monotonic()
        told = {"key": self._key, "verdicts": state.verdicts, "steps": state.steps, "losses": state.losses}
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as draft:
            tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
            save_file(tensors, draft, {"planish": json.dumps(told)})
        now = time.monotonic()
        self._next = now + max(SECONDS, _SHARE * (now - start))

    def erase(self) -> None:
        """Remove the file, once the training is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
