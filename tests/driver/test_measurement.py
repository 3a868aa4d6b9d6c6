import itertools
import time

import numpy as np
import pytest

from planish.driver.measurement import Latency, interleaved


def test_a_ratio_is_taken_round_by_round() -> None:
    slow, fast = Latency(np.array([2.0, 40.0, 6.0, 8.0])), Latency(np.array([1.0, 10.0, 3.0, 4.0]))
    ratio = fast.speedup_over(slow)
    assert (ratio.median, ratio.lower) == (2.0, 2.0)  # the medians' ratio would be 2, the means' 3.1
    assert ratio.upper == 2.5
    assert str(ratio) == "2.00x (2.00-2.50)"
    assert str(ratio.inverse) == "0.50x (0.40-0.50)"


def test_models_run_in_turn() -> None:
    seen: list[str] = []

    def model(name: str) -> object:
        seen.append(name)
        time.sleep(0.03)  # longer than a block: one call for each

    latencies = interleaved([lambda: model("a"), lambda: model("b")])
    assert len(latencies) == 2
    assert all(latency.rounds.min() >= 0.03 for latency in latencies)
    after_warm_up = "".join(seen).lstrip("a").lstrip("b")
    assert after_warm_up.count("ab") + after_warm_up.count("ba") >= len(latencies[0].rounds)


def test_what_was_disturbed_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third call of one model takes as long again, as long as something else is going on."""
    now, calls = [0.0], itertools.count()

    def steady() -> None:
        now[0] += 0.02

    def disturbed() -> None:
        now[0] += 0.02 if next(calls) % 3 or now[0] > 4 else 0.04

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    first, second = interleaved([steady, disturbed])
    ratio = second.speedup_over(first)
    assert (ratio.lower, ratio.median, ratio.upper) == pytest.approx((1, 1, 1))
