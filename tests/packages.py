"""Files of installed packages, which tests read and don't import."""

from importlib.util import find_spec
from pathlib import Path

import pytest


def packaged(file: str) -> Path:
    """The path of a file in a package, such as `magika/models/model.onnx`; the test is skipped without the package."""
    package, _, rest = file.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0]) / rest
