"""Cases checked by processes that may die or hang over one of them without ending the benchmark."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.pool import ThreadPool
from queue import SimpleQueue
from typing import Self, TypeAlias

import numpy as np
from rich.console import Console
from rich.progress import Progress

CLASSES = ("equal", "refused", "wrong", "crash")

Outcome: TypeAlias = tuple[str, str]
"""A class and what is to be said about it."""

Check: TypeAlias = Callable[[str, tuple[str, ...]], dict[str, Outcome]]
"""A function, at a module's top level, from the name of a case and some paths to its outcome on each."""

_Task: TypeAlias = tuple[str, tuple[str, ...]]


class Unequal(Exception):  # noqa: N818 -- it is a finding, not an error of a benchmark
    """Something other than what a reference gives, or than what planish itself promises."""


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative error (L2) of floats, or the share of other elements that differ.

    It is infinite if the shapes differ, or if other places than those of the reference are infinite or no numbers.
    """
    if found.shape != expected.shape:
        return np.inf
    if expected.size == 0:
        return 0.0
    if expected.dtype.kind != "f":
        return float((found != expected).mean())
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True):
        return np.inf
    a, b = found[finite].astype(np.float64), expected[finite].astype(np.float64)
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))


def check_all(
    check: Check, names: Sequence[str], paths: tuple[str, ...], jobs: int, seconds: float
) -> dict[str, dict[str, Outcome]]:
    """The outcomes of cases by name and path, of processes that end with them; the arguments are as for `Workers`."""
    with Workers(check, jobs, seconds) as workers:
        return workers.check_all(names, paths)


class Workers:
    """Processes that work side by side, for several rounds of cases."""

    def __init__(self, check: Check, jobs: int, seconds: float, most: int | None = None) -> None:
        """Start none yet.

        Args:
            check: the function run in other processes, each with one thread for torch; what it raises ends its process.
            jobs: the number of processes that work side by side.
            seconds: the seconds after which a case counts as hung.
            most: the number of cases after which a new process takes the place of one.
        """
        self._workers = [_Worker(check, seconds, most) for _ in range(jobs)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:  # interrupted as well: this process would wait for theirs
        for worker in self._workers:
            worker.end()

    def check_all(self, names: Sequence[str], paths: tuple[str, ...]) -> dict[str, dict[str, Outcome]]:
        """The outcomes of cases by name and path; progress goes to stderr.

        After a death the paths of a case are tried one by one, to see which one it was.
        """
        outcomes: dict[str, dict[str, Outcome]] = {name: {} for name in names}
        tasks = [(name, paths) for name in names]
        while tasks:
            again: list[_Task] = []
            for (name, tried), answer in self._answers(tasks):
                if not isinstance(answer, str):
                    outcomes[name] |= answer
                elif len(tried) == 1:
                    outcomes[name][tried[0]] = ("crash", answer)
                else:
                    again += [(name, (path,)) for path in tried]
            tasks = again
        return outcomes

    def _answers(self, tasks: Sequence[_Task]) -> Iterator[tuple[_Task, dict[str, Outcome] | str]]:
        """Each task with its outcomes, or with what happened to the process, in the order in which they are done."""
        idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            idle.put(worker)

        def ask(task: _Task) -> tuple[_Task, dict[str, Outcome] | str]:
            worker = idle.get()
            try:
                return task, worker.ask(task)
            finally:
                idle.put(worker)

        with ThreadPool(len(self._workers)) as pool, Progress(console=Console(stderr=True)) as progress:
            yield from progress.track(pool.imap_unordered(ask, tasks), total=len(tasks), description="cases")


class _Worker:
    """A process that checks cases; a new one takes its place when it dies, hangs, or has checked many."""

    def __init__(self, check: Check, seconds: float, most: int | None) -> None:
        self._check = check
        self._seconds = seconds
        self._most = most
        self._process: SpawnProcess | None = None

    def ask(self, task: _Task) -> dict[str, Outcome] | str:
        if self._process is not None and self._checked == self._most:
            self.end()
        if self._process is None:
            self._checked = 0
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._check))  # may start others itself
            self._process.start()
            theirs.close()
        self._checked += 1
        try:
            self._connection.send(task)
            if any(self._connection.poll(1) for _ in range(ceil(self._seconds))):  # what it is stopped for
                return self._connection.recv()
            fault = f"no answer in {self._seconds:.0f} s"
        except (EOFError, OSError):
            self._process.join(5)
            fault = f"the process died with exit code {self._process.exitcode}"
        self.end()
        return fault

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(connection: Connection, check: Check) -> None:
    import torch

    torch.set_num_threads(1)
    while True:
        connection.send(check(*connection.recv()))
