"""The process in which TVM compiles: it reads one request a line, and writes messages about its work.

It ends with the process that has started it, whatever it does at that time.
"""

import gc
import json
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from signal import SIGKILL
from typing import TYPE_CHECKING

from ....ir.errors import PlanishError, UsageError
from ....ir.files import NOT_OURS, refusal
from .client import Message, kind_of

if TYPE_CHECKING:
    from ..codegen.build import Build


def main() -> None:
    """Serve requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what is told of a death is all that it leaves
    requests: SimpleQueue[Message] = SimpleQueue()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever else is printed is none
        threading.Thread(target=_read, args=(requests,), daemon=True).start()
        lock = threading.Lock()

        def tell(**message: object) -> None:
            with lock:
                answers.write(json.dumps(message) + "\n")
                answers.flush()

        import_module("..codegen.build", __package__)  # takes a while, and is done before anything is asked for
        gc.freeze()  # what is imported stays, and takes longer to look through than a small graph to compile
        while True:
            _serve(requests.get(), tell)
            gc.collect()  # or the graph's weights, which are another process's files, stay until there is more work


def _read(requests: SimpleQueue[Message]) -> None:
    scratch = ""
    for line in sys.stdin.buffer:
        request = json.loads(line)
        scratch = request["scratch"]
        requests.put(request)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(0, SIGKILL)  # nobody waits for what is being done, nor for the linker


def _serve(request: Message, tell: Callable[..., None]) -> None:
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.environ["TMPDIR"] = tempfile.tempdir = request["scratch"]
    try:
        tell(done=_DONE[request["work"]](request, tell))
    except PlanishError as error:
        tell(fault=kind_of(error), text=str(error))
    except OSError as error:
        if error.errno not in NOT_OURS:
            tell(fault="", text=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())
        else:
            tell(fault=UsageError.__name__, text=refusal(error, request["scratch"]))
    except Exception as error:  # a bug of ours, which is told where somebody reads it
        tell(fault="", text=f"{type(error).__name__}: {error}", traceback=traceback.format_exc())


def _built(request: Message, tell: Callable[..., None]) -> Message:
    build = _build_of(request, tell)
    written = build.write(Path(request["directory"]), is_checked=request["is_checked"])
    return {"files": [path.name for path in written.files], "kernels": written.kernels}


def _lowered(request: Message, tell: Callable[..., None]) -> None:
    build = _build_of(request, tell)
    build.lowered(build.graph)


def _build_of(request: Message, tell: Callable[..., None]) -> "Build":
    from ....passes.legalization.origins import Origins
    from ....targets.load import load_target
    from ..codegen.build import Build
    from ..relax.configs import ESTIMATED, Plainness
    from ..tune.database import read_database
    from .handover import taken_over

    def told(name: str, results: Sequence[str], begins: bool) -> None:
        tell(**{"begins" if begins else "ends": name, "results": results})

    target, database = load_target(request["target"]), request["database"]
    return Build(
        taken_over(Path(request["graph"])),
        Origins(request["operators"]),
        target,
        read_database(Path(database)).choices(target, database) if database else ESTIMATED,
        {name: Plainness(level) for name, level in request["plainness"].items()},
        request["jobs"],
        told,
    )


def _tuned(request: Message, tell: Callable[..., None]) -> None:
    from ....passes.legalization.origins import Origins
    from ....targets.load import load_target
    from ..tune.tasks import Tuning
    from .handover import taken_over

    def told(name: str, begins: bool) -> None:
        tell(**{"begins" if begins else "ends": name, "results": []})

    origins, target = Origins(request["operators"]), load_target(request["target"])
    tuning = Tuning(taken_over(Path(request["graph"])), origins, target, request["sizes"], told)
    tell(kernels=sorted(tuning.kernels))
    for finding in tuning.findings(request["known"], time.monotonic() + request["seconds"]):
        tell(finding=asdict(finding))


_DONE = {"build": _built, "lower": _lowered, "tune": _tuned}
