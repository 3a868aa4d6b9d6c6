"""An artifact: a folder with a model in a backend's form and a manifest that says what it is and how to call it.

Loading one needs nothing but numpy and the runtime.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.errors import ModelError, TargetError, UsageError
from . import find_backend
from .base import Backend, Executable, Port
from .machine import check_machine

if TYPE_CHECKING:
    from ..ir.graph import Graph, Value
    from ..targets import Target

FORMAT = 1
MANIFEST = "manifest.json"
_LARGE = 1 << 24
"""Bytes from which reading a file takes as long as starting a thread for it many times over. Libraries of kernels are smaller."""


def write_artifact(
    directory: Path, graph: "Graph", backend: Backend, target: "Target", extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Compile a graph into an artifact folder; an artifact that is already there is replaced once the new one is whole.

    Args:
        directory: the folder to make.
        graph: what to lower.
        backend: what to lower it to.
        target: the machine to build for.
        extra: further keys of the manifest, such as measurements.

    Returns:
        The manifest.

    Raises:
        TargetError: the backend can't run the graph, or is not installed.
        UsageError: the folder exists and holds something else.
    """
    if missing := backend.available():
        raise TargetError(f"backend {backend.name} is not installed: {missing}")
    with replaced(directory) as folder:
        files = backend.compile(graph, target, folder)
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
            "files": {path.name: {"size": path.stat().st_size, "sha256": _digest(path)} for path in sorted(files)},
            **backend.provenance,
            **(extra or {}),
        }
        _write_manifest(folder, manifest)
    return manifest


def amend_manifest(directory: Path, extra: Mapping[str, Any]) -> None:
    """Add keys to an artifact's manifest, such as what was measured on it.

    Raises:
        ModelError: there is no artifact.
    """
    _write_manifest(directory, {**read_manifest(directory), **extra})


def load(directory: str | Path, threads: int | None = None) -> Executable:
    """Make an artifact runnable.

    Args:
        directory: of the artifact.
        threads: to run with; those of the target that it was built for by default.

    Raises:
        ModelError: the folder is no artifact, or a file is missing, damaged, or of a newer version.
        TargetError: the runtime is not installed, or the machine can't run what was compiled.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    try:
        large = _check_files(folder, manifest["files"])
        inputs, outputs = ([_read_port(port) for port in manifest[key]] for key in ("inputs", "outputs"))
        backend, target = find_backend(manifest["backend"]), manifest["target"]
        if missing := backend.available():
            raise TargetError(f"{folder} needs the runtime {backend.name}: {missing}")
        if backend.native:
            check_machine(target["architecture"], target["features"])
        with _checked_meanwhile(large):
            return backend.load(folder, inputs, outputs, threads or target["threads"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / MANIFEST} is damaged: {error!r}") from error


def read_manifest(directory: Path) -> dict[str, Any]:
    """An artifact's manifest.

    Raises:
        ModelError: there is none, or it can't be read.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{directory} is not an artifact: {path} can't be read ({error.strerror})") from error
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ModelError(f"{path} has format {found}, but this version of planish reads format {FORMAT}")
    return manifest


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[Path, str]:
    """Check what is there; the digests that large files should have are left to be checked."""
    large: dict[Path, str] = {}
    for name, expected in files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ModelError(f"{path} is missing from the artifact")
        if (size := path.stat().st_size) != expected["size"]:
            raise ModelError(f"{path} is damaged: it has {size} bytes instead of {expected['size']}")
        if size > _LARGE:
            large[path] = expected["sha256"]
        else:
            _check_digest(path, expected["sha256"])
    return large


@contextmanager
def _checked_meanwhile(digests: Mapping[Path, str]) -> Generator[None]:
    """Check files while they are being loaded: each takes as long as the other. What is wrong with a file explains why it can't be loaded."""
    with ThreadPoolExecutor(1) as pool:
        checks = [pool.submit(_check_digest, path, digest) for path, digest in digests.items()]
        try:
            yield
        finally:
            for check in checks:
                check.result()


def _check_digest(path: Path, expected: str) -> None:
    if _digest(path) != expected:
        raise ModelError(f"{path} is damaged: its SHA-256 is not the manifest's")


def port_of(name: str, value: "Value") -> Port:
    """What a user sees of an input or output."""
    return Port(name, str(value.dtype), value.type.dims, value.type.container.value)


def _read_port(entry: Mapping[str, Any]) -> Port:
    shape = entry["shape"]
    return Port(entry["name"], entry["dtype"], None if shape is None else tuple(shape), entry.get("container", ""))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    draft = folder / f".{MANIFEST}"
    draft.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(folder / MANIFEST)


@contextmanager
def replaced(directory: Path) -> Generator[Path]:
    """A folder to fill, which takes the place of `directory` at the end, and vanishes if anything fails."""
    if (
        directory.exists()
        and not (directory / MANIFEST).is_file()
        and (directory.is_file() or any(directory.iterdir()))
    ):
        raise UsageError(f"{directory} exists and is not an artifact: name another folder, or empty it")
    directory = directory.absolute()
    draft, old = (directory.with_name(f".{directory.name}.{word}.{os.getpid()}") for word in ("new", "old"))
    draft.mkdir(parents=True)
    try:
        yield draft
        if directory.exists():
            directory.replace(old)
        draft.replace(directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        if old.exists() and not directory.exists():
            old.replace(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)
