"""Peak memory of an artifact, in a process of its own: `python -m planish.driver.memory ARTIFACT FEEDS.npz`."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from ..ir.drafts import workspace
from ..passes.instruments.memory import STATUS, resident
from .data import Feeds


def peak_memory(artifact: Path, feeds: Feeds) -> int | None:
    """The bytes that a process grows by when it loads the runtime and the artifact and runs it; None except on Linux.

    Args:
        artifact: the folder of the artifact.
        feeds: the inputs, in the model's order.
    """
    if not STATUS.is_file():
        return None
    with workspace() as folder:
        file = Path(folder, "feeds.npz")
        np.savez(file, *feeds.values())
        command = [sys.executable, "-m", "planish.driver.memory", str(artifact), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def _main(artifact: str, feeds: str) -> None:
    from ..backends.artifact import load

    with np.load(feeds) as archive:
        arguments = list(archive.values())
    before = resident("VmRSS")
    executable = load(artifact)
    for _ in range(3):
        executable(*arguments)
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
