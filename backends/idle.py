"""Waiting until a runtime's threads sleep: they spin for a while after a call, and slow down what is timed next."""

import time

_STEP, _LONGEST = 0.01, 0.15
"""Seconds of one look at whether anything runs, and of all of them; ONNX Runtime's threads spin for some 60 ms.

Linux adds up what other threads have computed a few milliseconds at a time, so that a shorter look may miss it.
"""

_IDLE = 0.2
"""The share of a processor that an idle process takes at the most."""


def wait_until_idle() -> None:
    """Wait until no thread of this process computes, for 0.15 s at the most."""
    end = time.perf_counter() + _LONGEST
    computed = time.process_time()
    while time.perf_counter() < end:
        time.sleep(_STEP)
        before, computed = computed, time.process_time()
        if computed - before < _IDLE * _STEP:
            return
