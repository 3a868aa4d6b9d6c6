"""Extras: a target needs numpy and a runtime alone, and building takes the extra `build`."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from .errors import TargetError

BUILD = (
    *("annotated_types", "archspec", "jinja2", "ml_dtypes", "networkx", "onnx", "onnx_ir", "onnxruntime"),
    *("platformdirs", "pydantic", "rapidfuzz", "yaml", "rich", "safetensors", "sklearn", "scipy", "torch", "typer"),
)
"""What the extra `build` brings, by what is imported."""


def is_installed(package: str) -> bool:
    """Whether there is a package, and not just a folder that has its name; it isn't imported."""
    found = find_spec(package)
    return found is not None and found.origin is not None


def installed_version(package: str) -> str | None:
    """The version of a package, by the name that pip knows; None where it isn't installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def require_build(what: str) -> None:
    """Refuse what takes more than running artifacts does, where that isn't installed.

    Raises:
        TargetError: a package is missing; the extra that brings it is named.
    """
    if missing := _missing():
        raise TargetError(f"{what} needs {', '.join(missing)}: pip install 'planish[build]'")


@cache
def _missing() -> tuple[str, ...]:
    return tuple(name for name in BUILD if not is_installed(name))
