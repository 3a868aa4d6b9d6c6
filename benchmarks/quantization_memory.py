"""How much memory calibration takes: MiniLM with thousands of sentences."""

import re
import threading
import time
from pathlib import Path

from quantization_subjects import example

_POLL_SECONDS = 0.02


def peak(pipeline: str, sentences: int, batch: int) -> float:
    """Return the most MiB that a process held while it optimized MiniLM, beyond what it held before.

    A process should do no other.

    Args:
        pipeline: the pipeline behind `cleanup,fuse`.
        sentences: the number of sentences from Lee's background corpus, repeated as often as it takes.
        batch: the number of sentences in a batch, each filled up to the longest.
    """
    import planish

    data = example("minilm", "data")
    module, inputs, dynamic = example("minilm", "model").build()
    graph = planish.trace(module, inputs, dynamic_shapes=dynamic)
    del module
    texts = re.split(r"(?<=[.!?]) ", " ".join(data.read("lee_background.cor")))
    texts = (texts * (sentences // len(texts) + 1))[:sentences]
    held, done = [_resident()], threading.Event()
    before = held[0]

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            held[0] = max(held[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    planish.optimize(graph, f"cleanup,fuse,{pipeline}", data=data.batches(texts, batch))
    time.sleep(2 * _POLL_SECONDS)
    done.set()
    watcher.join()
    return (held[0] - before) / 2**20


def _resident() -> int:
    """The bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
