import time

import numpy as np

from planish.driver.measurement import Latency, interleaved


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

    latencies = interleaved([lambda: model("a"), lambda: model("b")])
    assert len(latencies) == 2
    assert all(latency.rounds.min() >= 0.03 for latency in latencies)
    after_warm_up = "".join(seen).lstrip("a").lstrip("b")
    assert after_warm_up.count("ab") + after_warm_up.count("ba") >= len(latencies[0].rounds)
