"""Run as a program: a model on stdin comes out of stdout without functions, and converted to an opset.

It imports onnx alone, whose C++ may crash on what a stranger made, or take all the time and memory that there are: it does so
here, where that is only the end of this process. See `onnx_convert`, which starts it.
"""

import os
import resource
import sys

import onnx
from onnx import inliner, version_converter


def main(version: int, seconds: int, memory: int) -> None:
    """Convert, with so much of the processor's time and so many bytes of memory at most."""
    for kind, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    result = os.dup(1)
    os.dup2(2, 1)  # the converter prints
    proto = onnx.ModelProto.FromString(sys.stdin.buffer.read())
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    if version:
        proto = version_converter.convert_version(proto, version)
    with os.fdopen(result, "wb") as file:
        file.write(proto.SerializeToString())


if __name__ == "__main__":
    try:
        main(*map(int, sys.argv[1:]))
    except Exception as error:  # C++ raises whatever pybind makes of it
        sys.exit(f"{type(error).__name__}: {error}")
