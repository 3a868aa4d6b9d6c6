"""Guards: sizes that must not be 0 when the model runs.

Some sizes are known before the model runs, from the sizes of its inputs; the others depend on data, and the model
returns them in a row beside its outputs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ....ir.dims import evaluate, is_dim
from ....ir.errors import ModelError
from ....ir.files import writing

FILE = "guards.json"


@dataclass(frozen=True, slots=True)
class Guards:
    """The guarded sizes of a model, each with its user, as `layer: Operator`.

    Attributes:
        early: sizes over symbols of the inputs' shapes.
        late: sizes over symbols that depend on data, in the order in which the model returns them.
        places: the size of the axis, and what reads there, by the name of an input that holds places along an axis.
    """

    early: Mapping[str, str]
    late: Mapping[str, str]
    places: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    @classmethod
    def read(cls, directory: Path) -> "Guards":
        """Read the guards in an artifact's folder.

        Raises:
            ModelError: the file can't be read, or holds something else.
        """
        path = directory / FILE
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            words = [word for row in (found.early, found.late) for pair in row.items() for word in pair]
            words += [word for pair in found.places.values() for word in pair]
            dims = [*found.early, *(dim for dim, _ in found.places.values())]
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(f"{path} can't be read: {error}") from error
        if not all(isinstance(word, str) for word in words) or not all(map(is_dim, dims)):
            raise ModelError(f"{path} is damaged: it holds something other than sizes and what needs them")
        return found

    def write(self, directory: Path) -> Path:
        path = directory / FILE
        with writing(path):
            path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        return path

    def check_inputs(self, sizes: Mapping[str, int]) -> None:
        """Hold the sizes of the inputs' symbols to the early guards.

        Raises:
            ModelError: a tensor would be empty that must not be, naming the layer.
        """
        for dim, user in self.early.items():
            if evaluate(dim, sizes) == 0:
                raise _refusal(dim, user)

    def check_places(self, feeds: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> None:
        """Hold the inputs that are places to the sizes of what is read there.

        Raises:
            ModelError: there is no such place, naming the layer.
        """
        for name, (dim, user) in self.places.items():
            places, size = feeds[name], evaluate(dim, sizes)
            if not places.size:
                continue
            for extreme in (np.maximum, np.minimum):  # the methods of arrays take twice as long
                if not -size <= (place := extreme.reduce(places, None)) < size:
                    raise ModelError(
                        f"input {name!r}: {user} reads index {place}, which is out of range for an axis of size {size}"
                    )

    def check_results(self, sizes: np.ndarray) -> None:
        """Hold the sizes that the model returned to the late guards.

        Raises:
            ModelError: a tensor was empty that must not be, naming the layer.
        """
        for size, (dim, user) in zip(sizes, self.late.items(), strict=True):
            if size == 0:
                raise _refusal(dim, user)


def _refusal(dim: str, user: str) -> ModelError:
    if dim.startswith("Max(1 - "):
        return ModelError(f"{user} gets tensors whose sizes don't fit each other ({dim} is 0)")
    if dim.startswith("Max("):
        return ModelError(f"{user} gets a tensor that is smaller than its bounds ({dim} is 0): give a larger input")
    return ModelError(
        f"{user} gets an empty tensor ({dim} = 0), which TVM's kernels don't support: build for onnxruntime"
    )
