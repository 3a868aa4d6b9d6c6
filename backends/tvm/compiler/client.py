"""TVM's compiler in a process of its own, since LLVM ends its process where it finds a fault in itself.

This side imports neither TVM nor LLVM. It starts processes, asks them for work, and tells from a death what they were
working on.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from signal import SIGKILL, Signals
from typing import IO, Any, TypeAlias

from ....ir import errors
from ....ir.files import file_in_memory
from ..errors import CompilerError

Message: TypeAlias = Mapping[str, Any]
"""A message of a process, as JSON: a key that names its kind, and the content."""

_BEGINS, _ENDS, _DONE, _FAULT = "begins", "ends", "done", "fault"
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {module} import main; main()"
_MOST_REQUESTS = 64
"""Requests after which a new process replaces one: each leaves holes in the heap, which grows by about 0.5 MB."""
_LINE = 300
"""The most characters that are kept of a compiler's message."""


class DiedError(Exception):
    """A compiler's process ended before its work was done.

    Attributes:
        running: the names of what it worked on, with the names of the graph's values that each is for.
        said: the compiler's last line.
    """

    def __init__(self, running: Mapping[str, Sequence[str]], said: str) -> None:
        super().__init__(said)
        self.running = running
        self.said = said


def ask(request: Message, scratch: Path, hear: Callable[[Message], None] = lambda _: None) -> Any:
    """Have a process do some work, with this process's environment and working directory.

    Args:
        request: the work to do, as JSON.
        scratch: a folder for temporary files, which is erased even if both processes are killed, this one first.
        hear: called with each message of the process while it works.

    Returns:
        The answer of the process, as JSON.

    Raises:
        DiedError: the process ended.
        PlanishError: what the work raised.
    """
    process = _taken()
    try:
        here = {"environment": dict(os.environ), "folder": str(Path.cwd()), "scratch": str(scratch)}
        answer = process.ask({**request, **here}, hear)
    except errors.PlanishError:
        _lay_by(process)
        raise
    except BaseException:  # it has died, or was interrupted and is half-way through something
        process.end()
        raise
    _lay_by(process)
    return answer


def _lay_by(process: "_Process") -> None:
    """Keep a process for more work, unless it has done enough."""
    if process.requests < _MOST_REQUESTS:
        _idle.put(process)
    else:
        process.end()


def _taken() -> "_Process":
    """Return a process that waits for work, or a new one."""
    with suppress(Empty):
        while True:
            process = _idle.get_nowait()
            if process.is_alive:
                return process
            process.end()
    return _Process()


def warm_up() -> None:
    """Start a process in advance, while something else is done, unless one waits for work."""
    if _idle.empty():
        _idle.put(_Process())


def _log() -> IO[bytes]:
    """Open a file for a process's errors, in memory if the system lends one.

    In memory, even the last words of a process that died of a full disk are kept.
    """
    lent = file_in_memory("said")
    return tempfile.TemporaryFile() if lent is None else lent[0]


@dataclass(slots=True)
class _Process:
    """A process that compiles, from its start on.

    Attributes:
        said: the file of the process's errors.
        running: what the process works on, as in `DiedError`.
        requests: the number of requests that it was given.
    """

    said: IO[bytes] = field(default_factory=_log)
    running: dict[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    requests: int = 0
    _process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        code = _START.format(module=f"{__package__}.server")
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            start_new_session=True,  # an interrupt is for this process, which ends that one
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Message, hear: Callable[[Message], None]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.requests += 1
        self.running.clear()
        self.said.seek(0)
        self.said.truncate()
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        for line in self._process.stdout:
            message: Message = json.loads(line)
            if _DONE in message:
                return message[_DONE]
            if _FAULT in message:
                raise _raised(message)
            if _BEGINS in message:
                self.running[message[_BEGINS]] = message["results"]
            if _ENDS in message:
                self.running.pop(message[_ENDS], None)
            hear(message)
        raise self._death()

    def _death(self) -> DiedError:
        code = self._process.wait()
        self.said.seek(0)
        lines = [line for line in self.said.read().decode(errors="replace").splitlines() if line.strip()]
        fatal = [line for line in lines if "LLVM ERROR" in line or "Assertion" in line]
        how = f"signal {Signals(-code).name}" if code < 0 else f"exit code {code}"
        how += ", as where memory runs out" if how.endswith("SIGKILL") else ""
        said = " ".join((fatal or lines or ["it said nothing"])[-1].split())[:_LINE]
        return DiedError(dict(self.running), f"{said} ({how})")

    def end(self) -> None:
        """Stop the process whatever it does; the work that it was asked for is lost."""
        if self.is_alive:
            os.killpg(self._process.pid, SIGKILL)  # with the linker, if that runs
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self.said):
            if pipe is not None:
                pipe.close()


_idle: SimpleQueue[_Process] = SimpleQueue()
"""Processes that wait for work."""


@atexit.register
def _end_all() -> None:
    while not _idle.empty():
        _idle.get().end()


def _forget_all() -> None:
    """Forget the processes, which belong to the process that this one was forked from."""
    global _idle  # noqa: PLW0603 -- the old one may be locked by a thread that isn't here
    _idle = SimpleQueue()


os.register_at_fork(after_in_child=_forget_all)


def kind_of(error: errors.PlanishError) -> str:
    """Return the name of an error's kind between processes: that of its class, or of a known base class."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind in _KINDS.values())


_KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)} | {
    "CompilerError": CompilerError
}


def _raised(message: Message) -> Exception:
    """Return the error that the work raised in the other process."""
    if kind := _KINDS.get(message[_FAULT]):
        return kind(message["text"])
    error = RuntimeError(message["text"])
    error.add_note(message["traceback"])
    return error
