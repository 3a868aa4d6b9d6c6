"""Run as a program: models on stdin come out of stdout without functions, and converted to an opset.

It imports onnx alone, whose C++ may crash on what a stranger made, or take all the time and memory that there are. So
each model has a child of its own, forked when onnx has been imported, for which that is the end. See `onnx_convert`,
which starts it.
"""

import os
import resource
import signal
import sys
import tempfile
from typing import IO

import onnx
from onnx import inliner, version_converter


def main() -> None:
    """Answer each request, a line of numbers and a model, with an exit code, a size and that many bytes.

    The bytes are the converted model, or the text of an error.
    """
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := requests.readline():
        version, seconds, memory, size = map(int, line.split())
        content = requests.read(size)
        with _file() as result, _file() as errors:
            child = os.fork()
            if not child:
                _end_with(content, version, seconds, memory, result, errors)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said = result if code == 0 else errors
            said.seek(0)
            text = said.read()
        answers.write(b"%d %d\n" % (code, len(text)) + text)
        answers.flush()


def _file() -> IO[bytes]:
    """A file that is in memory where the system has such, or else temporary."""
    return os.fdopen(os.memfd_create("planish"), "w+b") if sys.platform == "linux" else tempfile.TemporaryFile()


def _end_with(content: bytes, version: int, seconds: int, memory: int, result: IO[bytes], errors: IO[bytes]) -> None:
    """Convert a model and end this process, within so many seconds of processor time and so many bytes of memory."""
    os.dup2(errors.fileno(), 2)
    os.dup2(2, 1)  # the converter prints
    try:
        for kind, limit in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory)):
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        signal.alarm(2 * seconds)
        proto = onnx.ModelProto.FromString(content)
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        if version:
            proto = version_converter.convert_version(proto, version)
        result.write(proto.SerializeToString())
        result.flush()
    except BaseException as error:  # C++ raises whatever pybind makes of it
        errors.write(f"{type(error).__name__}: {error}".encode(errors="replace"))
        errors.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
