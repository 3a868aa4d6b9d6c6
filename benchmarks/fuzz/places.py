"""Folders in which builds happen, in processes that may be killed, and what is found there afterwards.

To be quick, most are forks of a process that has imported what they need, and so are the compilers that these start.
"""

import atexit
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from planish.backends.tvm.compiler import client as compiler
from planish.driver import measurement
from planish.ir.storage import save
from planish.ir.text import parse_graph

BACKENDS = ("onnxruntime", "tvm")
OLD, NEW = "old", "new"
PATIENCE = 20.0
"""Seconds after which a process that should end is one that is left behind."""
_TEXT = """graph "tiny"(%x: float32[2, 3, 8, 8]) {
  const %k: float32[4, 3, 3, 3]
  const %w: float32[256, 10]
  const %c: float32[10]
  %h: float32[2, 4, 8, 8] = Conv(%x, %k) {pads = [1, 1, 1, 1]}
  %r: float32[2, 4, 8, 8] = Relu(%h)
  %f: float32[2, 256] = Flatten(%r)
  %y: float32[2, 10] = Gemm(%f, %w, %c)
  return y = %y
}"""
_SHAPES = {"k": (4, 3, 3, 3), "w": (256, 10), "c": (10,)}
_START = "from planish.driver.cli import main; main()"


class Fault(Exception):  # noqa: N818 -- it is a finding
    """Something is otherwise than it should be after a build has failed."""


@dataclass(frozen=True)
class Place:
    """A folder in which builds happen.

    Attributes:
        folder: the folder, with the models and the three folders that builds write into.
    """

    folder: Path

    def __post_init__(self) -> None:
        for path in (self.output.parent, self.cache, self.temporary):
            path.mkdir(exist_ok=True)
        for seed, name in enumerate((OLD, NEW)):
            random = np.random.default_rng(seed)
            weights = {key: random.standard_normal(shape, np.float32) for key, shape in _SHAPES.items()}
            save(parse_graph(_TEXT, weights), self.folder / f"{name}.planish")

    @property
    def output(self) -> Path:
        return self.folder / "output" / "dist"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def temporary(self) -> Path:
        return self.folder / "temporary"

    @property
    def environment(self) -> dict[str, str]:
        own = {"PLANISH_CACHE": str(self.cache), "TMPDIR": str(self.temporary), "ORT_DISABLE_TELEMETRY": "1"}
        own["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder / "torch")  # which torch would have among temporary files
        return {**os.environ, **own}

    def arguments(self, model: str, backend: str) -> list[str]:
        return ["build", str(self.folder / f"{model}.planish"), "-b", backend, "-p", "cse", "-o", str(self.output)]

    def start(self, model: str, backend: str, *, is_fresh: bool = False) -> "Running":
        """Begin a build of a model in a process of its own."""
        if not is_fresh:
            return self.fork(lambda: self._build(model, backend))
        log, command = _log(), [sys.executable, "-c", _START, *self.arguments(model, backend)]
        process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        return Running(process.pid, log, process)

    def fork(self, work: Callable[[], object]) -> "Running":
        """Begin some work in a fork of this process."""
        log = _log()
        return Running(_forked(work, self.environment, log), log)

    def _build(self, model: str, backend: str) -> None:
        from planish.driver.cli import main

        sys.argv = ["planish", *self.arguments(model, backend)]
        main()

    def build(self, model: str, backend: str) -> None:
        """Build a model to the end."""
        running = self.start(model, backend)
        if code := running.wait():
            raise Fault(f"the next build ends with {code}: {running.said()}")

    def state(self, *others: str) -> str:
        """Which model the artifact is of: it is loaded and run.

        Args:
            others: the other states that are right: `none`, where nothing was there before.
        """
        running = self.fork(self._state)
        running.wait()
        said = running.said()
        found = said if said in (OLD, NEW) else "none" if not self.output.exists() else "broken"
        if found not in (OLD, NEW, *others):
            raise Fault(f"the artifact is {found}: {said}")
        return found

    def _state(self) -> None:
        from planish.backends.artifact import load
        from planish.ir.interpreter import Interpreter
        from planish.ir.storage import load as read

        executable = load(self.output)
        x = np.random.default_rng(9).standard_normal((2, 3, 8, 8), np.float32)
        for name in (OLD, NEW):
            (expected,) = Interpreter(read(self.folder / f"{name}.planish")).run({"x": x}).values()
            if np.allclose(executable(x)[0], expected, rtol=1e-3, atol=1e-3):
                print(name, end="")
                return
        print("neither of the models", end="")

    def check_clean(self) -> None:
        """Look for what builds may have left: files, folders and processes."""
        kernels = [path.name for path in (self.cache / "kernels").glob("*") if path.suffix not in (".o", ".checked")]
        beside = [path.name for path in self.output.parent.iterdir() if path != self.output]
        others = [path.name for path in self.cache.iterdir() if path.name != "kernels"]
        left = [*kernels, *beside, *others, *(path.name for path in self.temporary.iterdir())]
        if left:
            raise Fault(f"left behind: {', '.join(sorted(left))}")
        deadline = time.monotonic() + PATIENCE
        while processes := self._processes():
            if time.monotonic() > deadline:
                raise Fault(f"processes go on: {processes}")
            time.sleep(0.02)

    def _processes(self) -> list[int]:
        """The processes that have this place in their environment."""
        found, mark = list[int](), f"PLANISH_CACHE={self.cache}\0".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes() and "\nState:\tZ" not in (path.parent / "status").read_text():
                    found.append(int(path.parent.name))
        return found


@dataclass
class Running:
    """A process that was started.

    Attributes:
        number: the number of the process.
        log: the file of what it says.
        process: the process, if it isn't a fork.
    """

    number: int
    log: Any
    process: subprocess.Popen[bytes] | None = None

    def wait(self) -> int:
        """Wait for the exit code, which is negative for a signal."""
        if self.process is not None:
            return self.process.wait()
        return os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])

    def said(self) -> str:
        """The end of what it has said."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-600:]


class ForkedCompiler:
    """Stands for the `subprocess.Popen` of a compiler's process, where it is a fork that needs to import nothing."""

    def __init__(self, command: object, *, stderr: Any, **_: object) -> None:
        theirs, ours = os.pipe()
        answers, telling = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _compile(theirs, telling, stderr.fileno())
        os.close(theirs)
        os.close(telling)
        self.stdin, self.stdout = os.fdopen(ours, "wb"), os.fdopen(answers, "rb")
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int | None:
        return self._ended(0)

    def _ended(self, options: int) -> int | None:
        if self._code is None:
            number, status = os.waitpid(self.pid, options)
            self._code = os.waitstatus_to_exitcode(status) if number else None
        return self._code


def _compile(requests: int, answers: int, said: int) -> None:
    """Become a compiler's process, with nothing of this one but what is given."""
    from planish.backends.tvm.compiler.server import main

    try:
        os.setsid()
        for stream, given in enumerate((requests, answers, said)):
            os.dup2(given, stream)
        os.closerange(3, 1 << 12)
        main()
    finally:
        os._exit(1)


def _log() -> Any:
    return tempfile.TemporaryFile()


def _forked(work: Callable[[], object], environment: dict[str, str], log: Any) -> int:
    """Do some work in a fork; returns its number."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None
        atexit._clear()
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
    finally:
        with suppress(BaseException):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            compiler._end_all()
            sys.stdout.flush()
        os._exit(code)


def prepare(folder: Path) -> dict[str, float]:
    """Import what builds need, and return the seconds that they take by backend, once their kernels are known."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
    compiler.subprocess = type("", (), {"Popen": ForkedCompiler, "PIPE": subprocess.PIPE})
    import_module("planish.backends.tvm.codegen.build")
    measurement.ROUNDS = measurement.FEWEST_ROUNDS = 2  # how fast the models are is not what is asked here
    seconds: dict[str, float] = {}
    for backend in BACKENDS:
        place = Place(made(folder / backend))
        _import_what_it_takes(place, backend)
        start = time.monotonic()
        place.build(OLD, backend)
        seconds[backend] = time.monotonic() - start
        place.check_clean()
    return seconds


def _import_what_it_takes(place: Place, backend: str) -> None:
    """Import what a build has imported in a fork, so that later ones needn't."""
    names = place.folder / "modules"

    def build() -> None:
        try:
            place._build(OLD, backend)
        finally:
            place._state()
            names.write_text("\n".join(sys.modules))

    running = place.fork(build)
    if running.wait():
        raise Fault(running.said())
    for name in names.read_text().splitlines():
        with suppress(Exception):  # what only its own package may import
            import_module(name)
    gc.collect()
    gc.freeze()


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
