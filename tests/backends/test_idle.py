import time
from collections.abc import Iterator

import pytest

from planish.backends.idle import wait_until_idle


def _clocks(monkeypatch: pytest.MonkeyPatch, computed: Iterator[float]) -> list[float]:
    """Clocks of a process that has computed so many seconds each time that it is asked; returns how long it sleeps."""
    slept: list[float] = []
    monkeypatch.setattr(time, "process_time", lambda: next(computed))
    monkeypatch.setattr(time, "perf_counter", lambda: sum(slept))
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_it_is_waited_for_threads_that_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = _clocks(monkeypatch, iter([1.0, 1.008, 1.016, 1.0161, 1.024]))
    wait_until_idle()
    assert slept == [0.01, 0.01, 0.01]


def test_threads_that_never_rest_are_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = _clocks(monkeypatch, iter(0.02 * number for number in range(100)))
    wait_until_idle()
    assert sum(slept) == pytest.approx(0.15, abs=0.011)
