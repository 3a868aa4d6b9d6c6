"""Whether an artifact is what was built, to the byte: `planish verify`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.artifact import damaged_files
from ..backends.manifest import MANIFEST, MEASUREMENTS, altered, read_manifest, read_measurements
from ..ir.errors import ModelError


@dataclass(frozen=True, slots=True)
class Integrity:
    """What became of an artifact's files since it was built.

    Attributes:
        files: how many files were looked at.
        faults: what is wrong with them, one sentence each.
    """

    files: int
    faults: tuple[str, ...]


def check_integrity(directory: Path, key: bytes | None = None) -> Integrity:
    """Hold every file of an artifact to its manifest, and the manifest to its own digest.

    Args:
        directory: the artifact's folder.
        key: the key that the manifest has to be signed with; None to take it unsigned, too.

    Raises:
        ModelError: it is no artifact, or isn't signed with the key.
    """
    manifest = read_manifest(directory, key)
    listed = {**manifest["files"], **_measured_files(directory)}
    faults = list(damaged_files(directory, listed))
    own = [MANIFEST, *([MEASUREMENTS] if (directory / MEASUREMENTS).exists() else [])]
    faults += [f"{directory / name} was changed since it was written" for name in own if altered(directory, name)]
    known = {*listed, MANIFEST, MEASUREMENTS}
    faults += [f"{path} is no part of the artifact" for path in sorted(directory.iterdir()) if path.name not in known]
    return Integrity(len(listed) + len(own), tuple(faults))


def _measured_files(directory: Path) -> Mapping[str, Mapping[str, Any]]:
    """The files that hold what was measured, which the measurements list, with their sizes and digests."""
    try:
        files = read_measurements(directory).get("files", {})
        return {name: {"size": file["size"], "sha256": file["sha256"]} for name, file in files.items()}
    except (ModelError, AttributeError, KeyError, TypeError):  # there are none, or they are found to be altered
        return {}
