"""Signatures of artifacts by a private key, which OpenSSF's tools check with the public one as well.

Source: OpenSSF Model Signing 1.0, by the library `model-signing`; the file is a Sigstore bundle, and no network takes
part.
"""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ..ir.drafts import replacing
from ..ir.errors import TargetError, UsageError
from ..ir.files import writing


def paired(signature: Path | None, key: Path | None, option: str) -> tuple[Path, Path] | None:
    """The file of a signature with that of its key; None without either.

    Raises:
        UsageError: only one of them is given.
    """
    if signature is not None and key is not None:
        return signature, key
    if signature is not None or key is not None:
        raise UsageError(f"--signature and {option} go together: give both, or none")
    return None


def sign(directory: Path, signature: Path, private_key: Path) -> None:
    """Sign all files of an artifact.

    Args:
        directory: the artifact's folder.
        signature: the file to write.
        private_key: a PEM file with a key of the elliptic curve P-256, P-384 or P-521.

    Raises:
        UsageError: the key can't be used, or the signature can't be written.
        TargetError: the library isn't installed.
    """
    config = _with_key(_library().signing.Config().use_elliptic_key_signer, private_key=private_key)
    with writing(signature):
        signature.parent.mkdir(parents=True, exist_ok=True)
    with replacing(signature) as draft:
        config.sign(directory.resolve(), draft)  # which refuses links


def fault_of(directory: Path, signature: Path, public_key: Path) -> str | None:
    """Tell why a signature isn't one of an artifact's files as they are; None if it is.

    Args:
        directory: the artifact's folder.
        signature: the file of the signature, which may be a stranger's.
        public_key: a PEM file with the public key of whoever must have signed.

    Raises:
        UsageError: there is no signature, or the key can't be used.
        TargetError: the library isn't installed.
    """
    config = _with_key(_library().verifying.Config().use_elliptic_key_verifier, public_key=public_key)
    if not signature.is_file():
        raise UsageError(f"there is no signature {signature}")
    try:
        with redirect_stdout(sys.stderr):  # where it prints advice
            config.verify(directory.resolve(), signature)
    except Exception as error:  # of any kind, since the file may hold anything
        reason = str(error).strip() or type(error).__name__
        return f"{signature} is no signature of {directory} with {public_key}: {reason}"
    return None


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise TargetError(f"signatures need {error.name}: pip install 'planish[signing]'") from error
    return model_signing


def _with_key(use: Callable[..., Any], **key: Path) -> Any:
    """A configuration that signs or verifies with a key."""
    try:
        return use(**key)
    except Exception as error:  # of many kinds: what isn't such a key fails in many places
        ((name, path),) = key.items()
        raise UsageError(
            f"{path} can't be used as the {name.replace('_', ' ')}, a PEM file of P-256, P-384 or P-521: {error}"
        ) from error
