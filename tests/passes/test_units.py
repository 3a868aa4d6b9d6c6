import pytest
from hypothesis import given
from hypothesis import strategies as st

from planish.passes import units


@pytest.mark.parametrize(
    ("text", "table", "expected"),
    [
        ("1%", units.PARTS, 0.01),
        ("0.5 %", units.PARTS, 0.005),
        (0.02, units.PARTS, 0.02),
        ("5 ms", units.SECONDS, 5e-3),
        ("250us", units.SECONDS, 250e-6),
        ("1.5s", units.SECONDS, 1.5),
        ("10 MB", units.BYTES, 10e6),
        ("3 kib", units.BYTES, 3072),
    ],
)
def test_parse(text: str | float, table: dict[str, float], expected: float) -> None:
    assert units.parse(text, table) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["5", "5 furlongs", "fast", "", "-1 ms", "nan s"])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount such as '3 ns' or"):
        units.parse(text, units.SECONDS)


@given(st.floats(1e-9, 1e3))
def test_seconds_are_shown_as_they_are_read(seconds: float) -> None:
    assert units.parse(units.show_seconds(seconds), units.SECONDS) == pytest.approx(seconds, rel=1e-2)


@given(st.integers(1, 10**13))
def test_bytes_are_shown_as_they_are_read(size: int) -> None:
    assert units.parse(units.show_bytes(size), units.BYTES) == pytest.approx(size, rel=1e-2)
