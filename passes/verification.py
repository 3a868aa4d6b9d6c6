"""How much is checked after every pass and of what a backend has compiled, and how strictly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt, Unit

from ..ir.errors import UsageError
from ..ir.numerics import FLOATS, Tolerance
from ..ir.suggestion import nearest
from .options import format_value, options_of


@dataclass(frozen=True, slots=True)
class Verification:
    """What is checked after every pass and of what a backend has compiled.

    Attributes:
        level: nothing, the structure of the graph, or also the numbers that it computes.
        rtol: how far floats may be from those that they should equal, relative to each number.
        atol: the same, relative to the largest number of an output, or to 1 if that is less.
        probes: how many inputs graphs are compared on: two samples of a batch of the calibration data, or random ones.
        edges: whether they are compared on zeros, ones, and very small and large numbers, too.
    """

    level: Literal["none", "structure", "numeric"] = "numeric"
    rtol: Annotated[float, Ge(0), Lt(1), Unit("1")] = FLOATS.rtol
    atol: Annotated[float, Ge(0), Lt(1), Unit("1")] = FLOATS.atol
    probes: Annotated[int, Ge(1), Le(1000)] = 2
    edges: bool = True

    @classmethod
    def of(cls, given: "Verification | Mapping[str, Any] | str") -> "Verification":
        """Read a mapping of these settings, or a text such as `numeric,rtol=0.01,probes=4`.

        Raises:
            UsageError: a setting is unknown, or a value makes no sense.
        """
        if isinstance(given, Verification):
            return given
        if isinstance(given, str):
            level, *settings = map(str.strip, given.split(","))
            given = {"level": level} | dict(_setting(text) for text in settings)
        known, values = options_of(cls), dict[str, Any]()
        for key, value in given.items():
            if key not in known:
                raise UsageError(f"verify has no setting {key!r}{nearest(key, known)}")
            try:
                values[key] = known[key].parse(value)
                known[key].check(values[key])
            except ValueError as error:
                raise UsageError(f"the setting {key} of verify {error}") from None
        return cls(**values)

    def __str__(self) -> str:
        """The text that `of` reads."""
        settings = {key: getattr(self, key) for key in options_of(type(self)) if key != "level"}
        changed = {key: value for key, value in settings.items() if value != getattr(DEFAULT, key)}
        return ",".join([self.level, *(f"{key}={format_value(value)}" for key, value in changed.items())])

    @property
    def tolerance(self) -> Tolerance:
        """`rtol` and `atol` together."""
        return Tolerance(self.rtol, self.atol)


DEFAULT = Verification()
"""What is checked unless somebody asks for less, or for more."""


def _setting(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise UsageError(f"verify takes settings such as rtol=0.01 behind the level, not {text!r}")
    return key.strip(), value.strip()
