"""Peak memory of an artifact, measured in a process of its own: `python -m planish.driver.memory ARTIFACT FEEDS.npz`."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from .data import Feeds

_STATUS = Path("/proc/self/status")


def peak_memory(artifact: Path, feeds: Feeds) -> int | None:
    """Bytes that a process grows by when it loads the runtime and the artifact and runs it; None elsewhere than on Linux.

    Args:
        artifact: its folder.
        feeds: inputs in the order of the model's.
    """
    if not _STATUS.is_file():
        return None
    with TemporaryDirectory(prefix="planish-") as folder:
        file = Path(folder, "feeds.npz")
        np.savez(file, *feeds.values())
        command = [sys.executable, "-m", "planish.driver.memory", str(artifact), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None


def _resident(key: str) -> int:
    """`VmRSS`, the resident bytes of this process now, or `VmHWM`, their peak."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _main(artifact: str, feeds: str) -> None:
    from ..backends.artifact import load

    with np.load(feeds) as archive:
        arguments = list(archive.values())
    before = _resident("VmRSS")
    executable = load(artifact)
    for _ in range(3):
        executable(*arguments)
    print(_resident("VmHWM") - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
