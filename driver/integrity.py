"""Whether an artifact is what was built, to the byte: `planish verify`."""

from dataclasses import dataclass
from pathlib import Path

from ..backends.artifact import damaged_files
from ..backends.manifest import MANIFEST, MEASUREMENTS, altered, read_manifest


@dataclass(frozen=True, slots=True)
class Integrity:
    """What became of an artifact's files since it was built.

    Attributes:
        files: how many were looked at.
        faults: what is wrong with them, one sentence each.
    """

    files: int
    faults: tuple[str, ...]


def check_integrity(directory: Path, key: bytes | None = None) -> Integrity:
    """Hold every file of an artifact to its manifest, and the manifest to its own digest.

    Args:
        directory: the artifact's folder.
        key: that the manifest has to be signed with.

    Raises:
        ModelError: it is no artifact, or isn't signed with the key.
    """
    manifest = read_manifest(directory, key)
    faults = list(damaged_files(directory, manifest["files"]))
    own = [MANIFEST, *([MEASUREMENTS] if (directory / MEASUREMENTS).exists() else [])]
    faults += [f"{directory / name} was changed since it was written" for name in own if altered(directory, name)]
    known = {*manifest["files"], MANIFEST, MEASUREMENTS}
    faults += [f"{path} is no part of the artifact" for path in sorted(directory.iterdir()) if path.name not in known]
    return Integrity(len(manifest["files"]) + len(own), tuple(faults))
