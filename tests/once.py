"""What takes long to make: the first process of a run of tests that needs it makes it for all."""

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def once(name: str, make: Callable[[], T]) -> T:
    """What was made under a name, which the run's cache keeps; outside a run of tests, it is made anew."""
    if (folder := os.environ.get("PLANISH_CACHE")) is None:
        return make()
    with Path(folder, f"{name}.pickle").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        if held := file.read():
            return pickle.loads(held)
        made = make()
        file.write(pickle.dumps(made))
        return made
