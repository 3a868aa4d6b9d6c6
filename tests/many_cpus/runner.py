"""What runs artifacts in a process of its own, perhaps in an emulator: `python runner.py FOLDER...`.

Each folder has an artifact and `feeds.npz`; what the artifact gives for these is written to `results.npz` beside it.
Nothing is imported but what an artifact needs.
"""

import sys
from pathlib import Path

import numpy as np

from planish.backends.artifact import load


def main() -> None:
    for folder in map(Path, sys.argv[1:]):
        executable = load(folder / "artifact", threads=1)
        with np.load(folder / "feeds.npz") as feeds:
            results = executable.run(dict(feeds))
        np.savez(folder / "results.npz", **dict(zip((port.name for port in executable.outputs), results, strict=True)))


if __name__ == "__main__":
    main()
