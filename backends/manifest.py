"""The manifest of an artifact, which is validated before anything else is opened, and can be signed.

What was measured stands in a file of its own, since it is all that differs between two builds of the same inputs.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..ir.drafts import sweep
from ..ir.errors import ModelError, UsageError
from ..ir.files import RefusedFileError, open_within, writing

FORMAT = 1
MANIFEST = "manifest.json"
MEASUREMENTS = "measurements.json"
REPORT = "report.html"
TIMINGS = "timings.json"
DRAFT = f".{MANIFEST}"
MOST_THREADS = 1024
"""The most threads: a greater number is taken for a mistake."""
_LONGEST = 1 << 24
"""The most bytes of a manifest."""
_SIGNATURE, _DIGEST = "signature", "sha256"
_SIZES = range(1 << 63)
CONTAINERS = ("", "sequence", "optional", "optional sequence", "sequence map_int64", "sequence map_string")
"""The values of `ir.types.Container`, which loading an artifact doesn't import."""


def read_manifest(directory: Path, key: bytes | None = None) -> dict[str, Any]:
    """Read an artifact's manifest.

    Args:
        directory: the artifact's folder.
        key: the key that the manifest has to be signed with; None to take an unsigned one, too.

    Raises:
        ModelError: there is none, it can't be read or makes no sense, or it isn't signed with the key.
        UsageError: the key is empty.
    """
    path = directory / MANIFEST
    if not directory.exists():
        sweep(directory.absolute().parent)  # a build may have been killed while it was set aside
    try:
        with open_within(directory, MANIFEST, may_have_names=True) as file:
            text = file.read(_LONGEST + 1)
    except RefusedFileError as error:
        raise ModelError(f"{directory} is not an artifact: {path} can't be read ({error})") from error
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}") from error
    if len(text) > _LONGEST:
        raise ModelError(f"{path} is damaged: it has more than {_LONGEST} bytes")
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ModelError(f"{path} has format {found}, but this version of planish reads format {FORMAT}")
    manifest = cast("dict[str, Any]", manifest)
    if key is not None and _SIGNATURE not in manifest:
        raise ModelError(f"{path} has no signature: don't run it unless you know who wrote it")
    if key is not None and not hmac.compare_digest(str(manifest[_SIGNATURE]).encode(), _signed(manifest, key)):
        raise ModelError(
            f"{path} was signed with another key, or changed since: don't run it unless you know who wrote it"
        )
    try:
        _check(manifest)
    except KeyError as error:
        raise ModelError(f"{path} is damaged: {error!r}") from error
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return manifest


def size_of(manifest: Mapping[str, Any]) -> int:
    """Add up the sizes of an artifact's files, in bytes; the manifest itself isn't among them."""
    return sum(file["size"] for file in manifest["files"].values())


def write_manifest(directory: Path, manifest: Mapping[str, Any], key: bytes | None = None) -> dict[str, Any]:
    """Write a manifest, whole or not at all, signed if there is a key; return what is written.

    Raises:
        UsageError: the disk is full, nothing may be written there, or the key is empty.
    """
    written = {name: value for name, value in manifest.items() if name not in (_SIGNATURE, _DIGEST)}
    written[_DIGEST] = hashlib.sha256(_canonical(written)).hexdigest()
    if key is not None:
        written[_SIGNATURE] = _signed(written, key).decode()
    draft = directory / DRAFT
    with writing(directory / MANIFEST):
        draft.write_text(_text(written), encoding="utf-8")
        draft.replace(directory / MANIFEST)
    return written


def write_measurements(directory: Path, measurements: Mapping[str, Any], others: Mapping[str, str]) -> None:
    """Write what was measured on an artifact beside its manifest, and other files that depend on it.

    Args:
        directory: the artifact's folder.
        measurements: what was measured.
        others: the texts of the other files, by name: a report, and the times that passes went by.

    Raises:
        UsageError: the disk is full, or nothing may be written there.
    """
    files: dict[str, dict[str, int | str]] = {}
    for name, text in others.items():
        data = text.encode(errors="backslashreplace")
        with writing(directory / name):
            (directory / name).write_bytes(data)
        files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    content = {**measurements, "files": files}
    written = {**content, _DIGEST: hashlib.sha256(_canonical(content)).hexdigest()}
    with writing(directory / MEASUREMENTS):
        (directory / MEASUREMENTS).write_text(_text(written), encoding="utf-8")


def read_measurements(directory: Path) -> dict[str, Any]:
    """Read what was measured on an artifact.

    Raises:
        ModelError: there is no such file, or it can't be read.
    """
    path = directory / MEASUREMENTS
    try:
        with open_within(directory, MEASUREMENTS, may_have_names=True) as file:
            found = json.loads(file.read(_LONGEST))
    except (RefusedFileError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is damaged: it holds no keys")
    return {name: value for name, value in cast("dict[str, Any]", found).items() if name != _DIGEST}


def altered(directory: Path, name: str) -> bool:
    """Whether a manifest or measurements have been changed by as little as a byte since they were written.

    Raises:
        ModelError: the file can't be read.
    """
    path = directory / name
    try:
        with open_within(directory, name, may_have_names=True) as file:
            text = file.read(_LONGEST)
        held = json.loads(text)
        content = {key: value for key, value in held.items() if key not in (_SIGNATURE, _DIGEST)}
        is_same = text.decode() == _text(held) and held[_DIGEST] == hashlib.sha256(_canonical(content)).hexdigest()
    except (RefusedFileError, OSError) as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    except (ValueError, KeyError, AttributeError, RecursionError):
        return True
    return not is_same


def foreign_in(directory: Path) -> str | None:
    """Return why a folder isn't an artifact of planish's, which further files in it don't rule out; None if it is."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        listed = set(manifest["files"])
        is_ours = all(isinstance(manifest[key], str) for key in ("planish", "backend"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "exists and is not an artifact"
    held = {path.name: path for path in directory.iterdir() if path.name not in (MANIFEST, DRAFT)}
    if not is_ours or (held and not listed & held.keys()):
        return "exists and is not an artifact"
    inner = sorted(name for name, path in held.items() if path.is_dir())
    return f"holds the folder {inner[0]}, which planish didn't write" if inner else None


def check_key(key: bytes) -> None:
    """Refuse a key that anybody has, the empty one.

    Raises:
        UsageError: it is empty.
    """
    if not key:
        raise UsageError("the key of a signature is empty")


def _signed(manifest: Mapping[str, Any], key: bytes) -> bytes:
    """Return the signature of a manifest: the HMAC-SHA256 of its JSON, without spaces and with sorted keys."""
    check_key(key)
    plain = {name: value for name, value in manifest.items() if name != _SIGNATURE}
    return b"hmac-sha256:" + hmac.new(key, _canonical(plain), hashlib.sha256).hexdigest().encode()


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _check(manifest: Mapping[str, Any]) -> None:
    """Check the types of what loading makes use of.

    Raises:
        KeyError: something is missing.
        ValueError: something is of another type, or out of range.
    """
    _fit("backend", manifest["backend"], isinstance(manifest["backend"], str))
    files = _fit("files", manifest["files"], isinstance(manifest["files"], dict))
    for name, entry in files.items():
        _fit(f"the entry of {name}", entry, isinstance(entry, dict))
        _fit(f"the size of {name}", entry["size"], type(entry["size"]) is int and entry["size"] in _SIZES)
        _fit(f"the SHA-256 of {name}", entry["sha256"], isinstance(entry["sha256"], str))
    for key in ("inputs", "outputs"):
        for port in _fit(key, manifest[key], isinstance(manifest[key], list)):
            _check_port(key, _fit(f"one of {key}", port, isinstance(port, dict)))
    target = _fit("target", manifest["target"], isinstance(manifest["target"], dict))
    _fit("the architecture", target["architecture"], isinstance(target["architecture"], str))
    features = _fit("features", target["features"], isinstance(target["features"], list))
    _fit("features", features, all(isinstance(feature, str) for feature in features))
    check_threads(target["threads"])


def check_threads(number: Any) -> None:
    """Check that a number of threads makes sense.

    Raises:
        ValueError: it makes none.
    """
    _fit("the number of threads", number, type(number) is int and 1 <= number <= MOST_THREADS)


def _check_port(key: str, port: Mapping[str, Any]) -> None:
    for name in ("name", "dtype"):
        _fit(f"the {name} of one of {key}", port[name], isinstance(port[name], str))
    dims = port["shape"]
    is_shape = isinstance(dims, list) and all(
        isinstance(dim, str) or (type(dim) is int and dim in _SIZES) for dim in cast("list[Any]", dims)
    )
    _fit(f"the shape of {port['name']}", dims, dims is None or is_shape)
    container = port.get("container", "")
    _fit(f"the container of {port['name']}", container, isinstance(container, str) and container in CONTAINERS)


def _fit(what: str, value: Any, is_fit: bool) -> Any:
    if not is_fit:
        raise ValueError(f"{what} can't be {value!r}"[:300])
    return value
