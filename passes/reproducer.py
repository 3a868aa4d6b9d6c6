"""Reproducers: what is needed to let a pipeline or a compiler fail again, as a folder.

`graph.planish` is the model as it was read, or what a compiler failed over; `calibration.npz` the data that passes were given, if
any; and `reproducer.json` the rest: pipeline, target, seed, backend, versions, and the error.
"""

import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.arrays import read_arrays
from ..ir.drafts import beside, put
from ..ir.errors import CheckError, ModelError, PassError, PlanishError, UsageError
from ..ir.files import RefusedFileError, fit_name, open_regular, writing
from ..ir.graph import Graph
from ..ir.storage import load, save
from ..targets import Target
from ..targets.load import load_target, write_target
from .base import Feeds, PassContext
from .manager import PassManager
from .pipeline import parse_pipeline
from .verification import EVERYTHING, Verification

_DESCRIPTION, _GRAPH, _DATA = "reproducer.json", "graph.planish", "calibration.npz"
_LONGEST = 1 << 20
"""Bytes of the description."""
_PACKAGES = ("planish", "torch", "onnx", "numpy")


@dataclass(frozen=True, slots=True)
class Reproducer:
    """A pipeline that fails, with what it fails on.

    Attributes:
        graph: that it starts from.
        pipeline: as text.
        target: name or file of the target.
        seed: of the passes.
        calibration: batches that they are given.
        error: how it failed.
        backend: that compiles the result; empty if passes are what fails.
        machine: the target itself, where no name or file says it.
        verification: what is checked.
    """

    graph: Graph
    pipeline: str
    target: str = "native"
    seed: int = 0
    calibration: Sequence[Feeds] = ()
    error: str = ""
    backend: str = ""
    machine: Target | None = None
    verification: Verification = EVERYTHING

    def run(self) -> Graph:
        """What the pipeline makes of the graph, which is left as it is; it is checked as it was.

        Raises:
            PlanishError: it fails.
        """
        graph = self.graph.clone()
        context = PassContext(load_target(self.target), self.graph, self.calibration, self.seed)
        PassManager(parse_pipeline(self.pipeline), verify=self.verification).run(graph, context)
        return graph

    def write(self, folder: Path) -> None:
        """Write the folder, whole or not at all; a reproducer that is there is replaced.

        Raises:
            UsageError: there is something else, the disk is full, or nothing may be written there.
        """
        description = {
            "pipeline": self.pipeline,
            "target": self.target,
            "seed": self.seed,
            "error": self.error,
            "backend": self.backend,
            "verify": str(self.verification),
            "versions": {"python": platform.python_version(), **dict(filter(all, map(_version, _PACKAGES)))},
        }
        folder = folder.resolve()
        if folder.exists() and not is_reproducer(str(folder)) and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder} holds something other than a reproducer: name another folder, or empty it")
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with beside(folder) as held, writing(folder):
            draft = held / folder.name
            draft.mkdir()
            save(self.graph, draft / _GRAPH)
            if self.calibration:
                _save_arrays(self.calibration, draft / _DATA)
            if self.machine is not None:
                description["target"] = write_target(self.machine, draft).name
            (draft / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            put(draft, folder)


def _save_arrays(batches: Sequence[Feeds], path: Path) -> None:
    arrays: Mapping[str, Any] = {
        f"{number}/{name}": array for number, feeds in enumerate(batches) for name, array in feeds.items()
    }
    np.savez(path, **arrays)


def is_reproducer(reference: str) -> bool:
    """Whether a path is the folder of a reproducer."""
    return Path(reference, _DESCRIPTION).is_file()


def read_reproducer(folder: Path) -> Reproducer:
    """Read the folder.

    Raises:
        ModelError: something in it is missing or broken.
    """
    try:
        with open_regular(folder / _DESCRIPTION) as file:
            held: dict[str, Any] = json.loads(file.read(_LONGEST))
        fields = {key: held[key] for key in ("pipeline", "target", "seed", "error")}
        fields["backend"] = held.get("backend", "")
        fields["verification"] = Verification.of(held.get("verify", "numeric"))
        fit_name(fields["target"])
    except (RefusedFileError, UsageError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{folder} is no reproducer, or a broken one: {error}") from error
    for key in ("pipeline", "target", "seed", "error", "backend"):
        value = fields[key]
        is_fit = isinstance(value, str) if key != "seed" else type(value) is int and value >= 0
        if not is_fit:
            raise ModelError(f"{folder / _DESCRIPTION}: {key!r} is {value!r}, which makes no sense")
    batches: dict[str, dict[str, np.ndarray]] = {}
    if (folder / _DATA).exists():
        for key, array in read_arrays(folder / _DATA).items():
            number, _, name = key.partition("/")
            batches.setdefault(number, {})[name] = array
    if (folder / fields["target"]).is_file():
        fields["target"] = str(folder / fields["target"])
    return Reproducer(load(folder / _GRAPH), calibration=list(batches.values()), **fields)


@contextmanager
def reproducing(case: Reproducer) -> Generator[None]:
    """Leave a reproducer where passes crash or fail a check, and say so in the error.

    Args:
        case: what is run.

    Raises:
        CheckError: a pass failed a check.
        PassError: a pass that isn't planish's crashed.
    """
    try:
        yield
    except (CheckError, PassError) as error:
        raise type(error)(f"{error}{leave(_failed(case, error))}") from error
    except PlanishError:
        raise
    except Exception as error:
        error.add_note(leave(_failed(case, error)).strip())
        raise


def _failed(case: Reproducer, error: Exception) -> Reproducer:
    return replace(case, error=f"{type(error).__name__}: {error}")


def leave(case: Reproducer, again: Callable[[Reproducer], object] | None = Reproducer.run) -> str:
    """Write a reproducer to where temporary files are; returns what to do with it, from a new line on.

    Args:
        case: to write.
        again: runs what was written, since one that doesn't fail would send people after what isn't there; None where it
            is known to fail.
    """
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="planish-reproducer-"))
        case.write(folder)
    except (OSError, UsageError) as failure:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return f"\nno reproducer could be written: {failure}"
    with suppress(Exception):
        if again is not None:
            again(read_reproducer(folder))
            return f"\n{folder} has all that was run, but doesn't fail again: it depends on something else"
    return (
        f"\nsee it again:                planish opt {folder}"
        f"\nfind the rewrite at fault:   planish bisect {folder}"
        f"\nshrink it to a few nodes:    planish reduce {folder} -o DIR"
    )


def _version(package: str) -> tuple[str, str]:
    try:
        return package, version(package)
    except PackageNotFoundError:
        return package, ""
