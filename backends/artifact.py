"""Artifacts: folders with a model in a backend's form and a manifest that says what it is and how to call it.

Loading an artifact needs nothing but numpy and the runtime.
"""

import hashlib
import os
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.drafts import alone, beside, put
from ..ir.errors import ModelError, TargetError, UsageError
from ..ir.files import RefusedFileError, open_within, writing
from ..ir.types import DType
from . import find_backend
from .base import Backend, Executable, Port
from .machine import check_machine
from .manifest import FORMAT, check_threads, foreign_in, read_manifest, write_manifest

if TYPE_CHECKING:
    from ..ir.graph import Graph, Value
    from ..targets import Target


_LARGE = 1 << 24
"""Bytes of weights from which reading them takes many times as long as starting a thread for it."""


def write_artifact(
    directory: Path,
    graph: "Graph",
    backend: Backend,
    target: "Target",
    extra: Mapping[str, Any] | None = None,
    *,
    key: bytes | None = None,
    legal: "Graph | None" = None,
) -> dict[str, Any]:
    """Compile a graph into an artifact folder; an artifact that is already there is replaced once the new one is whole.

    Args:
        directory: the folder to make.
        graph: the graph to lower.
        backend: the backend to lower it to.
        target: the machine to build for.
        extra: further keys of the manifest, such as measurements.
        key: the key that the manifest is signed with.
        legal: the graph after the backend's pipeline, if the caller has run that already.

    Returns:
        The manifest.

    Raises:
        TargetError: the backend can't run the graph, or is not installed.
        UsageError: the folder exists and holds something else, the disk is full, or nothing may be written there.
    """
    if missing := backend.available():
        raise TargetError(f"backend {backend.name} is not installed: {missing}")
    with replaced(directory) as folder, writing(folder):
        if legal is None:
            from .legal import legalized  # an artifact is loaded without passes

            legal = legalized(graph, target, backend)
        files = backend.compile(legal, graph, target, folder)
        manifest = {
            "format": FORMAT,
            "planish": version("planish"),
            "backend": backend.name,
            "target": {
                "name": target.name,
                "architecture": target.architecture,
                "mcpu": target.mcpu,
                "features": sorted(target.features),
                "threads": target.threads,
            },
            "inputs": [asdict(port_of(value.name, value)) for value in graph.inputs],
            "outputs": [asdict(port_of(name, value)) for name, value in graph.outputs.items()],
            "files": {path.name: _entry(path) for path in sorted(files)},
            **backend.provenance,
            **(extra or {}),
        }
        return write_manifest(folder, manifest, key)


def amend_manifest(directory: Path, extra: Mapping[str, Any], key: bytes | None = None) -> None:
    """Add keys to an artifact's manifest, such as what was measured on it, and sign it with a key if there is one.

    Raises:
        ModelError: there is no artifact.
    """
    write_manifest(directory, {**read_manifest(directory), **extra}, key)


def bundle_runtime(directory: Path) -> Sequence[Path]:
    """Copy the runtime's libraries into an unsigned artifact, as far as it can run on them; return the files.

    Raises:
        ModelError: there is no artifact.
        TargetError: the backend isn't installed.
    """
    manifest = read_manifest(directory)
    files = find_backend(manifest["backend"]).bundle(directory)
    entries = {**manifest["files"], **{path.name: _entry(path) for path in files}}
    write_manifest(directory, {**manifest, "files": dict(sorted(entries.items()))})
    return files


def load(directory: str | Path, threads: int | None = None, *, key: bytes | None = None) -> Executable:
    """Make an artifact runnable. Every file of it is checked before anything in it runs.

    Args:
        directory: the artifact's folder.
        threads: the number of threads to run with; by default that of the target that the artifact was built for.
        key: the key that the artifact has to be signed with, as by `planish build --sign`.

    Raises:
        ModelError: the folder is no artifact, a file is missing, damaged, of a newer version, or signed by another key.
        TargetError: the runtime is not installed, or the machine can't run what was compiled.
        UsageError: the number of threads makes no sense, the key is empty, or nothing in the folder may be run.
    """
    folder = Path(directory)
    if threads is not None:
        try:
            check_threads(threads)
        except ValueError as error:
            raise UsageError(str(error)) from error
    while True:
        before = _identity(folder)
        try:
            executable = _load(folder, threads, key)
        except ModelError:
            if _identity(folder) == before:
                raise
            continue  # a build has replaced it meanwhile
        if _identity(folder) == before:
            return executable


def _identity(folder: Path) -> tuple[int, int] | None:
    """Tell a folder from one that takes its place, with an eye to builds in the middle of that."""
    for moved in (nullcontext(), alone(folder.resolve().parent)):
        with moved, suppress(OSError):
            found = folder.stat()
            return found.st_dev, found.st_ino
    return None


def _load(folder: Path, threads: int | None, key: bytes | None) -> Executable:
    manifest = read_manifest(folder, key)
    inputs, outputs = ([_read_port(port) for port in manifest[key]] for key in ("inputs", "outputs"))
    unknown = [port.dtype for port in (*inputs, *outputs) if port.dtype not in DType.__members__]
    if unknown:
        raise ModelError(f"{folder} has inputs or outputs of an unknown type: {unknown[0]!r}")
    try:
        backend = find_backend(manifest["backend"])
    except UsageError as error:
        raise ModelError(f"{folder} is damaged, or needs another package: {error}") from error
    files: Mapping[str, Mapping[str, Any]] = manifest["files"]
    weights = {name: entry for name, entry in files.items() if name in backend.weights and entry["size"] > _LARGE}
    _check_files(folder, {name: entry for name, entry in files.items() if name not in weights})
    for name in backend.opens(folder):
        if name not in files:
            raise ModelError(f"{folder} is damaged: its manifest doesn't list the file {name!r}, which would be opened")
    if missing := backend.runs(folder):
        raise TargetError(f"{folder} needs the runtime {backend.name}: {missing}")
    target = manifest["target"]
    if backend.native:
        check_machine(target["architecture"], target["features"])
    if doubt := backend.doubt(folder, target["features"]):
        warnings.warn(f"{folder}: {doubt}", stacklevel=3)
    with _checked_meanwhile(folder, weights) if weights else nullcontext():
        return backend.load(folder, inputs, outputs, threads or target["threads"])


@contextmanager
def _checked_meanwhile(folder: Path, weights: Mapping[str, Mapping[str, Any]]) -> Generator[None]:
    """Check weights while they are being loaded, since each takes as long as the other.

    A fault in the weights is reported rather than why loading them fails.
    """
    with ThreadPoolExecutor(1) as pool:
        check = pool.submit(_check_files, folder, weights)
        try:
            yield
        finally:
            check.result()


def damaged_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is wrong with an artifact's files, held to what its manifest says of them."""
    for name, expected in files.items():
        try:
            _check_files(folder, {name: expected})
        except ModelError as error:
            yield str(error)


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, expected in files.items():
        path = folder / name
        if Path(name).name != name:
            raise ModelError(f"{path} is missing from the artifact: it would lie elsewhere")
        try:
            with open_within(folder, name, may_have_names=True) as file:
                if (size := os.fstat(file.fileno()).st_size) != expected["size"]:
                    raise ModelError(f"{path} is damaged: it has {size} bytes instead of {expected['size']}")
                if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                    raise ModelError(f"{path} is damaged: its SHA-256 is not the manifest's")
        except RefusedFileError as error:
            raise ModelError(f"{path} is missing from the artifact, or not a file of its own: {error}") from error
        except OSError as error:
            raise ModelError(f"{path} can't be read: {error.strerror}") from error


def port_of(name: str, value: "Value") -> Port:
    """Return what a user sees of an input or output."""
    return Port(name, str(value.dtype), value.type.dims, value.type.container.value)


def _read_port(entry: Mapping[str, Any]) -> Port:
    shape = entry["shape"]
    return Port(entry["name"], entry["dtype"], None if shape is None else tuple(shape), entry.get("container", ""))


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


@contextmanager
def replaced(directory: Path) -> Generator[Path]:
    """Make a folder to fill, which takes the place of `directory` at the end in one step, or vanishes on failure.

    Raises:
        UsageError: there is something that planish didn't write, the disk is full, or nothing may be written there.
    """
    directory = directory.resolve()
    with writing(directory):
        _check_place(directory)
        directory.parent.mkdir(parents=True, exist_ok=True)
    with beside(directory) as held:
        draft = held / directory.name
        draft.mkdir()
        yield draft
        with writing(directory):
            _check_place(directory)
            put(draft, directory)


def _check_place(directory: Path) -> None:
    """Refuse to replace files that planish didn't write."""
    with alone(directory.parent):  # another build may be putting its artifact there
        if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
            return
        fault = foreign_in(directory) if directory.is_dir() else "exists and is not an artifact"
    if fault is not None:
        raise UsageError(f"{directory} {fault}: name another folder, or empty it")
