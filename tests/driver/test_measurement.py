import itertools
import time

import numpy as np
import pytest

from planish.driver import measurement
from planish.driver.measurement import FEWEST_ROUNDS, ROUNDS, Latency, interleaved


def test_a_ratio_is_taken_round_by_round() -> None:
    slow, fast = Latency(np.array([2.0, 40.0, 6.0, 8.0])), Latency(np.array([1.0, 10.0, 3.0, 4.0]))
    ratio = fast.speedup_over(slow)
    assert (ratio.median, ratio.lower) == (2.0, 2.0)  # the medians' ratio would be 2, the means' 3.1
    assert ratio.upper == 2.5
    assert str(ratio) == "2.00x (2.00-2.50)"
    assert str(ratio.inverse) == "0.50x (0.40-0.50)"


def test_rounds_end_as_soon_as_they_answer_what_is_asked() -> None:
    seen: list[int] = []

    def settled(rounds: np.ndarray) -> bool:
        assert rounds.min() > 0
        seen.append(rounds.shape[1])
        return rounds.shape == (2, 3)

    latencies = interleaved([lambda: None, lambda: None], settled)
    assert seen == [1, 2, 3]
    assert [len(latency.rounds) for latency in latencies] == [3, 3]


def test_models_run_in_turn() -> None:
    seen: list[str] = []

    def model(name: str) -> object:
        seen.append(name)
        time.sleep(0.03)  # longer than a block: one call for each

    latencies = interleaved([lambda: model("a"), lambda: model("b")], lambda rounds: rounds.shape[1] == FEWEST_ROUNDS)
    assert len(latencies) == 2
    assert all(latency.rounds.min() >= 0.03 for latency in latencies)
    after_warm_up = "".join(seen).lstrip("a").lstrip("b")
    assert after_warm_up.count("ab") + after_warm_up.count("ba") >= len(latencies[0].rounds)


def test_calls_that_the_system_interrupts_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other call is interrupted, and seems to take no time."""
    calls = interruptions = 0

    def run() -> None:
        nonlocal calls, interruptions
        calls += 1
        interruptions += calls % 2
        time.sleep(0.003 * (calls % 2 == 0))

    monkeypatch.setattr(measurement, "_disturbances", lambda: (interruptions, 0.0))

    (latency,) = interleaved([run])

    assert latency.rounds.min() >= 0.003


def test_where_every_call_is_interrupted_all_of_them_count(monkeypatch: pytest.MonkeyPatch) -> None:
    interruptions = itertools.count()
    monkeypatch.setattr(measurement, "_disturbances", lambda: (next(interruptions), 0.0))

    (latency,) = interleaved([lambda: time.sleep(0.01)], lambda rounds: rounds.shape[1] == FEWEST_ROUNDS)

    assert len(latency.rounds) == FEWEST_ROUNDS
    assert latency.rounds.min() >= 0.01


@pytest.mark.parametrize(
    ("seconds", "calls", "rounds"), [(0.5, 4, ROUNDS), (4.0, 4, 100), (1e9, 4, 500), (4.0, 999, FEWEST_ROUNDS)]
)
def test_patience_takes_more_rounds_of_short_models(
    monkeypatch: pytest.MonkeyPatch, seconds: float, calls: int, rounds: int
) -> None:
    monkeypatch.setattr(measurement, "PATIENT_SECONDS", seconds)
    monkeypatch.setattr(measurement, "_calls_per_block", lambda _: (0.004, calls))  # 0.04 s a round with four
    monkeypatch.setattr(measurement, "_block", lambda run, calls: measurement._Block(0.004, 0.004, is_disturbed=False))

    (latency, _) = interleaved([lambda: None] * 2, patient=True)

    assert len(latency.rounds) == rounds
    assert len(interleaved([lambda: None] * 2)[0].rounds) == min(ROUNDS, max(rounds, FEWEST_ROUNDS))


def test_rounds_that_the_system_interrupts_throughout_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call is interrupted in all rounds but as many as are needed at the least."""
    interruptions, blocks = itertools.count(), itertools.count()
    calm = [False]

    def pause(_: float) -> None:
        calm[0] = next(blocks) < 2 * FEWEST_ROUNDS

    monkeypatch.setattr(measurement.time, "sleep", pause)
    monkeypatch.setattr(measurement, "_disturbances", lambda: (0 if calm[0] else next(interruptions), 0.0))
    monkeypatch.setattr(measurement, "AGAIN_SECONDS", 0.0)

    latencies = interleaved([lambda: None, lambda: None])

    assert [len(latency.rounds) for latency in latencies] == [FEWEST_ROUNDS] * 2


def test_beside_other_work_the_time_of_the_processor_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rounds are disturbed, the faster model's the most: it waits for a processor that others have."""
    blocks = {"fast": itertools.cycle([0.02, 0.09, 0.07]), "slow": itertools.cycle([0.03, 0.02])}
    work = {"fast": 0.001, "slow": 0.002}

    def block(run: object, calls: int) -> measurement._Block:
        assert callable(run)
        name = run()
        return measurement._Block(next(blocks[name]), work[name], is_disturbed=True)

    monkeypatch.setattr(measurement, "_block", block)
    monkeypatch.setattr(measurement, "CALM_SECONDS", 0.01)

    slow, fast = interleaved([lambda: "slow", lambda: "fast"])

    assert fast.speedup_over(slow).lower == pytest.approx(2.0)
    assert len(fast.rounds) == FEWEST_ROUNDS
    assert (fast.rounds.max(), slow.rounds.max()) == (0.02, 0.02)  # disturbances only ever slow a round down
    assert str(fast) == "20 ms (measured beside other work)"


def test_undisturbed_rounds_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count()

    def block(run: object, calls: int) -> measurement._Block:
        return measurement._Block(0.001, 0.001, is_disturbed=next(count) < 2 * ROUNDS)

    monkeypatch.setattr(measurement, "_block", block)

    (latency,) = interleaved([lambda: None])

    assert len(latency.rounds) == FEWEST_ROUNDS
    assert latency.processor is None


def test_a_call_whose_threads_wait_for_a_processor_is_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = itertools.count(step=0.5)
    monkeypatch.setattr(measurement, "_disturbances", lambda: (0, next(waited)))
    assert measurement._block(lambda: time.sleep(0.001), 3).is_disturbed
