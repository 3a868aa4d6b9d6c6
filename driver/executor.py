"""Where independent work runs: here, in processes of this machine, or on a cluster of Dask's or Ray's.

Work is a function of a module with plain arguments and a plain result, so that it doesn't matter where it runs. What
a dying worker leaves undone is given to another one, and what no worker has done is left to the caller.
"""

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, TypeAlias

from ..ir.errors import UsageError

_RETRIES = 3
"""How often work is given to another worker when one dies."""
_SECONDS = 20
"""How long a cluster may take to answer."""

Work: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Executor:
    """Runs pieces of work, several at a time.

    Attributes:
        workers: how many pieces of work run at a time.
        is_here: whether they are processes of this machine, which share its memory.
        run: a function of the work and its tasks that returns the results in the tasks' order; None for what no worker
            has finished.
    """

    workers: int
    run: Callable[[Work, Sequence[Any]], list[Any]]
    is_here: bool = False


@contextmanager
def opened(place: str | None) -> Generator[Executor | None]:
    """The executor that a text names: `processes://2`, `dask://HOST:PORT`, `ray://HOST:PORT` or `ray://`.

    Raises:
        UsageError: the text has another form, the package isn't installed, or the cluster can't be reached.
    """
    kind, _, address = (place or "").partition("://")
    if not place:
        yield None
    elif kind == "processes" and address.isdigit() and int(address):
        yield Executor(int(address), partial(_in_processes, int(address)), is_here=True)
    elif kind == "dask" and address:
        distributed = _package("distributed", "dask")
        with closing(_reached(place, partial(distributed.Client, f"tcp://{address}", timeout=_SECONDS))) as client:
            yield Executor(max(1, sum(client.nthreads().values())), partial(_on_dask, client))
    elif kind == "ray":
        ray = _package("ray", "ray")
        _reached(place, partial(ray.init, address=place if address else "local", log_to_driver=False))
        try:
            yield Executor(max(1, int(ray.cluster_resources().get("CPU", 1))), partial(_on_ray, ray))
        finally:
            ray.shutdown()
    else:
        raise UsageError(
            f"--executor {place} is none of processes://COUNT, dask://HOST:PORT, ray://HOST:PORT and ray://"
        )


def _in_processes(count: int, work: Work, tasks: Sequence[Any]) -> list[Any]:
    found: dict[int, Any] = {}
    for _ in range(1 + _RETRIES):
        left = [place for place in range(len(tasks)) if place not in found]
        with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
            futures = {place: pool.submit(work, tasks[place]) for place in left}
        found |= {
            place: _finished(future.result)
            for place, future in futures.items()
            if not isinstance(future.exception(), BrokenProcessPool)  # all that was left when a process died
        }
    return [found.get(place) for place in range(len(tasks))]


def _on_dask(client: Any, work: Work, tasks: Sequence[Any]) -> list[Any]:
    futures = [client.submit(work, task, retries=_RETRIES, pure=False) for task in tasks]
    return [_finished(future.result) for future in futures]


def _on_ray(ray: Any, work: Work, tasks: Sequence[Any]) -> list[Any]:
    remote = ray.remote(max_retries=_RETRIES)(work)
    return [_finished(partial(ray.get, it)) for it in [remote.remote(task) for task in tasks]]


def _finished(result: Callable[[], Any]) -> Any:
    """The result, once it is there; None where the work failed."""
    try:
        return result()
    except Exception:  # whatever it was, the work is done again by whoever asks, who tells of it
        return None


def _reached(place: str, connect: Callable[[], Any]) -> Any:
    try:
        return connect()
    except (OSError, RuntimeError, ValueError, ConnectionError) as error:
        raise UsageError(f"--executor {place} can't be reached: {error}") from error


def _package(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"--executor {extra}:// needs {name}: pip install 'planish[{extra}]'") from error
