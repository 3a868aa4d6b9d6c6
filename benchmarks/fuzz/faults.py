"""Builds that are killed, interrupted, out of disk, or in each other's way.

After each the artifact is the old or the new one and whole, the next build works, and nothing is left behind.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from planish.backends import find_backend
from planish.backends.artifact import replaced, write_artifact
from planish.ir import drafts
from planish.ir.storage import load
from planish.targets.load import load_target

from .places import BACKENDS, NEW, OLD, Fault, Place, made

FRESH = 10
"""One in so many builds starts with Python, and its compiler too."""
LARGE = 64 << 20
"""Bytes of a disk that isn't full."""
SMALLEST, LARGEST = 4 << 10, 4 << 20
"""Bytes that disks have left when a build begins: from next to none to as many as it takes."""
_CALLS = (
    *("chmod", "close", "link", "listdir", "lstat", "mkdir", "open", "rename", "replace", "rmdir", "scandir", "stat"),
    *("unlink", "utime"),
)


def signalled(name: str, folder: Path, seconds: dict[str, float]) -> str:
    """Kill (`kill:7`) or interrupt (`interrupt:7`) a build at a random moment; returns what is there then."""
    kind, _, number = name.partition(":")
    random, place = Random(name), Place(made(folder))
    backend = random.choice(BACKENDS)
    before = ()
    if random.random() < 0.5:
        shutil.copytree(folder.parent / backend / "output" / "dist", place.output)
    else:
        before = ("none",)
    if random.random() < 0.5:
        shutil.copytree(folder.parent / "tvm" / "cache", place.cache, dirs_exist_ok=True)
    running = place.start(NEW, backend, is_fresh=int(number) % FRESH == 0)
    time.sleep(random.uniform(0, 1.1 * seconds[backend] + 2 * (int(number) % FRESH == 0)))
    os.kill(running.number, signal.SIGKILL if kind == "kill" else signal.SIGINT)
    code = running.wait()
    fit = (0, -signal.SIGKILL) if kind == "kill" else (0, 130, -signal.SIGINT)
    if code not in fit:
        raise Fault(f"it ends with {code}: {running.said()}")
    found = place.state(*before)
    if code == 0 and found != NEW:
        raise Fault(f"it ends well, and the artifact is {found}")
    if code == 130:
        place.check_clean()
    place.build(NEW, backend)
    if (then := place.state()) != NEW:
        raise Fault(f"after the next build the artifact is {then}")
    place.check_clean()
    return found


def swaps(folder: Path, most: int) -> Iterator[tuple[str, Callable[[], str]]]:
    """Every system call that puts an artifact in its place, each with a kill before it.

    All come again for where folders can't be exchanged.
    """
    place, artifacts = Place(made(folder / "swap")), dict[str, Path]()
    for model in (OLD, NEW):
        artifacts[model] = folder / "swap" / model
        graph = load(place.folder / f"{model}.planish")
        write_artifact(artifacts[model], graph, find_backend("onnxruntime"), load_target("native"))
    for way in ("exchanged", "aside"):
        calls = _calls_of(place, artifacts[NEW], way, artifacts[OLD])
        for number in range(1, calls + 1, -(-calls // most)):
            yield f"swap:{way}:{number}", lambda way=way, number=number: _swap(place, artifacts, way, number)


def _put(place: Place, artifact: Path, way: str, most: int = 1 << 30) -> int:
    """Replace the artifact by a copy of another one, in this process, killed at a call; returns the number of calls."""
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == most:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **named)

        return call

    rename = drafts._renameat2()
    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))
    drafts._renameat2 = lambda: None if way == "aside" else counted(rename)
    with replaced(place.output) as draft:
        for file in artifact.iterdir():
            shutil.copy(file, draft)
    return count


def _calls_of(place: Place, artifact: Path, way: str, old: Path) -> int:
    _reset(place, old)
    running = place.fork(lambda: print(_put(place, artifact, way)))
    if running.wait():
        raise Fault(running.said())
    return int(running.said())


def _reset(place: Place, old: Path) -> None:
    shutil.rmtree(place.output, ignore_errors=True)
    shutil.copytree(old, place.output)


def _swap(place: Place, artifacts: dict[str, Path], way: str, number: int) -> str:
    _reset(place, artifacts[OLD])
    running = place.fork(lambda: _put(place, artifacts[NEW], way, number))
    if (code := running.wait()) not in (0, -signal.SIGKILL):
        raise Fault(f"it ends with {code}: {running.said()}")
    found = place.state()
    again = place.fork(lambda: _put(place, artifacts[NEW], way))
    if again.wait() or place.state() != NEW:
        raise Fault(f"the next one fails: {again.said()}")
    place.check_clean()
    return found


def full(name: str, size: int, folder: Path) -> str:
    """A build on a disk (`output:3`, `cache:3` or `temporary:3`) that has so many bytes left; returns how it ends."""
    which, place = name.partition(":")[0], Place(made(folder))
    path = {"output": place.output.parent, "cache": place.cache, "temporary": place.temporary}[which]
    with mounted(path) as resize:
        if which != "cache":
            shutil.copytree(folder.parent / "tvm" / "cache", place.cache, dirs_exist_ok=True)
        shutil.copytree(folder.parent / "tvm" / "output" / "dist", place.output, symlinks=True)
        used = shutil.disk_usage(path).used
        resize(used + size)
        running = place.start(NEW, "tvm")
        code, found = running.wait(), place.state()
        if (code, found) not in ((0, NEW), (2, OLD)) or (
            code == 2 and str(path) not in running.said().replace("\n", "")
        ):
            raise Fault(f"with {size} bytes it ends with {code}, the artifact is {found}: {running.said()}")
        if code == 2:
            place.check_clean()
        resize(LARGE)
        place.build(NEW, "tvm")
        if place.state() != NEW:
            raise Fault("after the next build the artifact is the old one")
        place.check_clean()
    return "refused" if code else "built"


def sizes(count: int) -> Sequence[int]:
    """Sizes of disks, from the smallest to the largest in even steps of their logarithm."""
    return [int(size) for size in np.geomspace(SMALLEST, LARGEST, count)] if count else []


def can_mount() -> bool:
    """Whether this process may mount disks."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder)):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


@contextmanager
def mounted(path: Path) -> Iterator[Callable[[int], None]]:
    """Make a folder a disk of its own, as long as this lasts; yields a function that changes the disk's size."""

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "planish-soak", str(path)]
        subprocess.run(command, check=True, capture_output=True)

    mount(f"size={LARGE}")
    try:
        yield lambda size: mount(f"remount,size={size}")
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def side_by_side(name: str, folder: Path, builds: int) -> str:
    """Builds at once, of two models into one folder, with one cache; returns what is there then."""
    random, place = Random(name), Place(made(folder))
    shutil.copytree(folder.parent / "tvm" / "output" / "dist", place.output)
    all_running = [place.start(random.choice((OLD, NEW)), random.choice(BACKENDS)) for _ in range(builds)]
    place.state()  # while they go on
    for running in all_running:
        if code := running.wait():
            raise Fault(f"a build ends with {code}: {running.said()}")
    found = place.state()
    place.check_clean()
    return found
