"""Quantities as recipes and flags spell them: `1%`, `5 ms`, `10 MB`."""

import re
from collections.abc import Mapping

SECONDS: Mapping[str, float] = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
BYTES: Mapping[str, float] = {
    "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
PARTS: Mapping[str, float] = {"%": 0.01, "": 1.0}

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*(\D*?)\s*")


def parse(text: str | float, units: Mapping[str, float]) -> float:
    """A non-negative number and a unit, in the base unit.

    Raises:
        ValueError: there is no number, or the unit is none of these.
    """
    match = _QUANTITY.fullmatch(str(text))
    known = {unit.casefold(): factor for unit, factor in units.items()}
    if match is None or match[2].casefold() not in known:
        spelled = " or ".join(f"'3 {unit}'".replace(" %", "%").replace(" '", "'") for unit in units)
        raise ValueError(f"{text!r} is not an amount such as {spelled}")
    return float(match[1]) * known[match[2].casefold()]


def show_seconds(seconds: float) -> str:
    """Three significant digits in the unit that reads best."""
    unit = next(unit for unit in ("s", "ms", "µs", "ns") if seconds >= SECONDS[unit] or unit == "ns")
    return f"{seconds / SECONDS[unit]:.3g} {unit}"


def show_bytes(size: float) -> str:
    """Three significant digits in the decimal unit that reads best."""
    unit = next(unit for unit in ("GB", "MB", "kB", "B") if size >= BYTES[unit] or unit == "B")
    return f"{size / BYTES[unit]:.3g} {unit}"


def show_count(number: float) -> str:
    """A count with a decimal prefix, such as `22.7 M`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {prefix}"
    return f"{number:.0f}"
