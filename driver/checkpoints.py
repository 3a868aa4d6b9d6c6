"""Where long passes keep what they can go on from, for as long as that may be needed."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def checkpoints_beside(output: Path) -> Generator[Path]:
    """A folder beside what is to be written, which need not be there yet.

    It is erased once that is written or has failed. A kill and an interrupt leave it, for the next try.
    """
    folder = output.absolute().parent / f".planish-checkpoints-{output.name}"
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
