"""`planish doctor`: what this machine can do, what is installed, what is missing and how to get it."""

import os
import platform
import shutil
from importlib.metadata import version
from typing import Any

from ..backends import backend_names, find_backend
from ..ir.errors import UsageError
from ..ir.extras import installed_version
from ..targets.load import native

_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")
"""What every build makes use of."""
_OPTIONAL = {
    "torchvision": "models as torchvision:NAME",
    "timm": "models as timm:NAME",
    "transformers": "models as hf:FOLDER",
    "skl2onnx": "pipelines of scikit-learn as ONNX files",
    "google-re2": "the operators RegexFullMatch and Tokenizer: pip install 'planish[regex]'",
    "pillow": "the operator ImageDecoder: pip install 'planish[images]'",
    "model-signing": "signatures of artifacts by a private key: pip install 'planish[signing]'",
}
"""What some models or commands need, and what for."""


def examine() -> dict[str, Any]:
    """What there is, a line each; what is missing says how to get it."""
    found: dict[str, Any] = {
        "planish": f"{version('planish')}, Python {platform.python_version()} on {platform.platform()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        **_machine(),
    }
    for name in backend_names():
        backend = find_backend(name)
        missing = backend.available()
        found[f"backend {name}"] = f"missing: {missing}" if missing else "ready"
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    found["C compiler"] = compiler or "missing, and the backend tvm links with it: apt-get install gcc, or alike"
    for name, use in _OPTIONAL.items():
        found[name] = installed_version(name) or f"missing, for {use}" + (
            "" if "pip install" in use else f": pip install {name}"
        )
    return found


def _machine() -> dict[str, Any]:
    try:
        target = native()
    except UsageError as error:
        return {"machine": str(error)}
    int8 = target.int8
    kernels = {} if int8 is None else {name: sorted(operators) for name, operators in int8.operators.items()}
    return {
        "machine": f"{target.architecture}, {target.mcpu}, {target.threads} threads of {os.cpu_count()} processors",
        "instructions": " ".join(sorted(target.features)),
        **{f"int8 in {name}": ", ".join(operators) or "not faster than float" for name, operators in kernels.items()},
    }
