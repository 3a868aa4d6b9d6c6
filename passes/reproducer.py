"""Reproducers: what is needed to let a pipeline or a compiler fail again, as a folder.

`graph.planish` is the model as it was read, or what a compiler failed over; `calibration.npz` the data that passes were
given, if any, and `labels.npz` their labels, if these are numbers; `probes.npz` what graphs were compared on where that
isn't the data; and `reproducer.json` the rest: pipeline, target, seed, backend, versions, and the error.
"""

import json
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.arrays import read_arrays, restored
from ..ir.drafts import beside, put
from ..ir.errors import CheckError, ModelError, PassError, PlanishError, UsageError
from ..ir.extras import installed_version
from ..ir.files import RefusedFileError, fit_name, open_regular, writing
from ..ir.graph import Graph
from ..ir.storage import load, save
from ..ir.types import Container, DType, TensorType
from ..targets import Target
from ..targets.load import load_target, write_target
from .base import Feeds, PassContext
from .manager import PassManager
from .pipeline import parse_pipeline
from .probes import make_probes
from .verification import DEFAULT, Verification

_DESCRIPTION, _GRAPH, _DATA, _PROBES = "reproducer.json", "graph.planish", "calibration.npz", "probes.npz"
_LABELS = "labels.npz"
_LATER = ("backend", "metric", "timed", "folder")
"""What the description of an earlier version may lack."""
_LONGEST = 1 << 20
"""The most bytes of the description."""
_END = re.compile(r"[\d'%\[]")
"""What an error's symptom ends before: a number, or the name of a value."""
_PACKAGES = ("planish", "torch", "onnx", "numpy")


@dataclass(frozen=True, slots=True)
class Reproducer:
    """A pipeline that fails, with what it fails on.

    Attributes:
        graph: the graph that the pipeline starts from.
        pipeline: the pipeline as text.
        target: the name or the file of the target.
        seed: the seed of the passes.
        calibration: the calibration batches that the passes are given.
        error: the error that the pipeline failed with.
        backend: the backend that compiles the result; empty if a pass is what fails.
        machine: the target itself, where no name or file says it.
        verification: what is checked after each pass.
        probes: the inputs that graphs are compared on; where there are none, they are made of the data or at random.
        labels: the labels of the calibration batches; empty where there are none.
        metric: the metric that is computed with the labels; empty for none.
        timed: the backend that passes time graphs on; empty for none.
        folder: the folder that the names of files and functions are relative to.
    """

    graph: Graph
    pipeline: str
    target: str = "native"
    seed: int = 0
    calibration: Sequence[Feeds] = ()
    error: str = ""
    backend: str = ""
    machine: Target | None = None
    verification: Verification = DEFAULT
    probes: Sequence[Feeds] = ()
    labels: Sequence[Any] = ()
    metric: str = ""
    timed: str = ""
    folder: str = ""

    @property
    def context(self) -> PassContext:
        """The context that the passes run in."""
        target = load_target(self.target)
        return PassContext(target, self.graph, self.calibration, self.seed, probes=self.probes, labels=self.labels)

    @property
    def probed(self) -> "Reproducer":
        """The reproducer with its random probes, if it has any, since another version of numpy may draw others."""
        if self.probes or self.calibration or self.verification.level != "numeric":
            return self
        with suppress(PlanishError):
            return replace(self, probes=make_probes(self.graph, (), self.seed, self.verification.probes))
        return self

    def run(self) -> Graph:
        """Run the pipeline on a copy of the graph, with the checks that it had, and return the copy.

        Raises:
            PlanishError: the pipeline fails.
        """
        graph = self.graph.clone()
        PassManager(parse_pipeline(self.pipeline), verify=self.verification).run(graph, self.context)
        return graph

    def write(self, folder: Path) -> None:
        """Write the folder, whole or not at all; a reproducer that is there is replaced.

        Raises:
            UsageError: the folder holds something else, the disk is full, or nothing may be written there.
        """
        versions = {name: found for name in _PACKAGES if (found := installed_version(name))}
        description = {
            "pipeline": self.pipeline,
            "target": self.target,
            "seed": self.seed,
            "error": self.error,
            "backend": self.backend,
            "metric": self.metric,
            "timed": self.timed,
            "folder": self.folder,
            "verify": str(self.verification),
            "versions": {"python": platform.python_version(), **versions},
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
            for batches, name in ((self.calibration, _DATA), (self.probes, _PROBES)):
                if batches:
                    _save_batches(batches, draft / name)
            if self.labels and all(getattr(batch, "dtype", np.dtype(object)).kind in "fiub" for batch in self.labels):
                np.savez(draft / _LABELS, *self.labels)
            if self.machine is not None:
                description["target"] = write_target(self.machine, draft).name
            (draft / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            put(draft, folder)


def _save_batches(batches: Sequence[Feeds], path: Path) -> None:
    arrays: dict[str, Any] = {}
    for number, feeds in enumerate(batches):
        if not feeds:  # a graph without inputs is given none
            arrays[f"{number}/"] = np.empty(0)
        for name, array in feeds.items():
            if not isinstance(array, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance] -- a sequence's
                raise UsageError(f"input {name!r} is given no array, and there is no file for anything else")
            arrays[f"{number}/{name}"] = array.astype(str) if array.dtype == object else array
    np.savez(path, **arrays)


def _read_batches(path: Path, graph: Graph) -> list[Feeds]:
    """The batches of a file, held to the inputs of a graph; none if there is no file.

    Raises:
        ModelError: the file is broken, or doesn't fit the inputs.
    """
    batches: dict[str, dict[str, np.ndarray]] = {}
    types = {value.name: value.type for value in graph.inputs}
    for key, array in (read_arrays(path) if path.exists() else {}).items():
        number, _, name = key.partition("/")
        if not name:
            batches[number] = {}
            continue
        if name not in types or not _is_fit(held := restored(array, types[name].dtype), types[name]):
            raise ModelError(f"{path}: {key!r} is {array.dtype}{list(array.shape)}, which no input of the graph is")
        batches.setdefault(number, {})[name] = held.astype(object) if held.dtype.kind == "U" else held
    if any(feeds.keys() != types.keys() for feeds in batches.values()):
        raise ModelError(f"{path} lacks some of the inputs {', '.join(types)}")
    return list(batches.values())


def _is_fit(array: np.ndarray, type: TensorType) -> bool:
    is_typed = array.dtype.kind == "U" if type.dtype is DType.string else array.dtype == type.dtype.numpy
    return is_typed and type.container is Container.NONE and (type.dims is None or len(type.dims) == array.ndim)


def is_reproducer(reference: str) -> bool:
    """Whether a path is the folder of a reproducer."""
    return Path(reference, _DESCRIPTION).is_file()


def read_reproducer(folder: Path) -> Reproducer:
    """Read a reproducer from its folder.

    Raises:
        ModelError: something in it is missing or broken.
    """
    try:
        with open_regular(folder / _DESCRIPTION) as file:
            held: dict[str, Any] = json.loads(file.read(_LONGEST))
        fields = {key: held[key] for key in ("pipeline", "target", "seed", "error")}
        fields |= {key: held.get(key, "") for key in _LATER}
        fields["verification"] = Verification.of(held.get("verify", "numeric"))
        fit_name(fields["target"])
    except (RefusedFileError, UsageError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{folder} is no reproducer, or a broken one: {error}") from error
    for key in ("pipeline", "target", "seed", "error", *_LATER):
        value = fields[key]
        is_fit = isinstance(value, str) if key != "seed" else type(value) is int and value >= 0
        if not is_fit:
            raise ModelError(f"{folder / _DESCRIPTION}: {key!r} is {value!r}, which makes no sense")
    if (folder / fields["target"]).is_file():
        fields["target"] = str(folder / fields["target"])
        fields["machine"] = load_target(fields["target"])
    graph = load(folder / _GRAPH)
    calibration, probes = (_read_batches(folder / name, graph) for name in (_DATA, _PROBES))
    labels = read_arrays(folder / _LABELS) if (folder / _LABELS).exists() else {}
    if labels and len(labels) != len(calibration):
        raise ModelError(f"{folder / _LABELS} has labels for {len(labels)} batches, and there are {len(calibration)}")
    return Reproducer(graph, calibration=calibration, probes=probes, labels=list(labels.values()), **fields)


@contextmanager
def reproducing(case: Reproducer, again: Callable[[Reproducer], object] = Reproducer.run) -> Generator[None]:
    """Leave a reproducer where passes crash or fail a check, and say so in the error.

    Args:
        case: the pipeline that is run.
        again: runs the reproducer that was written.

    Raises:
        CheckError: a pass failed a check.
        PassError: a pass that isn't planish's crashed.
    """
    try:
        yield
    except (CheckError, PassError) as error:
        raise type(error)(f"{error}{leave(_failed(case, error), again)}") from error
    except PlanishError:
        raise
    except Exception as error:
        error.add_note(leave(_failed(case, error), again).strip())
        raise


def _failed(case: Reproducer, error: Exception) -> Reproducer:
    return replace(case.probed, error=f"{type(error).__name__}: {error}")


def leave(case: Reproducer, again: Callable[[Reproducer], object] | None = Reproducer.run) -> str:
    """Write a reproducer into a temporary folder; returns a new line and what to do with the folder.

    Args:
        case: the reproducer to write.
        again: runs the reproducer that was written, since one that doesn't fail would send people after what isn't
            there; None where it is known to fail.
    """
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="planish-reproducer-"))
        case.write(folder)
    except (OSError, UsageError) as failure:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return f"\nno reproducer could be written: {failure}"
    if again is not None and (found := _outcome(case, again, folder)):
        return f"\n{folder} has all that was run, but {found}: it depends on something else"
    return (
        f"\nsee it again:                planish opt {folder}"
        f"\nfind the rewrite at fault:   planish bisect {folder}"
        f"\nshrink it to a few nodes:    planish reduce {folder} -o DIR"
    )


def _outcome(case: Reproducer, again: Callable[[Reproducer], object], folder: Path) -> str:
    """What a written reproducer does instead of failing as before; empty where it fails in the same way."""
    try:
        again(read_reproducer(folder))
    except Exception as error:  # of any kind, as before
        found = f"{type(error).__name__}: {error}"
        return "" if symptom(found) == symptom(case.error) else f"fails with another error, {found}"
    return "doesn't fail again"


def symptom(error: str) -> str:
    """Return an error's text up to a number or the name of a value, which is the same for graphs that fail alike.

    The text names the exception or the check, with the pass and mostly the operator.
    """
    return _END.split(error, maxsplit=1)[0]
