"""Converts old ONNX models and puts functions in place of their calls, by onnx's own C++ in a process of its own.

The first one costs a third of a second; models at a current opset and without functions need none.
"""

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from threading import Lock

import onnx
from google.protobuf.message import DecodeError

from ..ir.errors import ModelError
from ..ir.graph import Attribute, Value
from ..ir.opset import LOWEST_OPSET, OPSET
from ..ir.types import DType
from .onnx_check import called, nodes_of, version_of

_SECONDS = 120
_MEMORY = 4 << 30
"""Bytes of the process, and as many times the model without its weights:"""
_TIMES = 64


def normalized(proto: onnx.ModelProto, file: Path) -> onnx.ModelProto:
    """The model without functions of its own, at an opset whose nodes mean the same at the pinned one.

    From `LOWEST_OPSET` on, operators only gained types and attributes.

    Raises:
        ModelError: it is too new, or can't be converted.
    """
    version = version_of(proto)
    if version > OPSET:
        raise ModelError(
            f"{file} has opset {version}, but planish supports opsets up to {OPSET}: export the model at opset {OPSET}"
        )
    for node in nodes_of(proto.graph):
        if version < 9 and node.op_type == "Scan":
            raise ModelError(
                f"{file}: {called(node)}: Scan has a batch axis in opset {version}, which later opsets removed: "
                "export the model at opset 9 or later"
            )
    if not proto.functions and version >= LOWEST_OPSET:
        return proto
    return _converted(proto, file, version)


def renewed(operator: str, inputs: Sequence[Value | None], attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Attributes as in the newest `ai.onnx.ml`: in the first one, LabelEncoder numbered its classes, both ways."""
    kept = dict(attributes)
    if operator != "ai.onnx.ml::LabelEncoder" or "classes_strings" not in kept or inputs[0] is None:
        return kept
    names = kept.pop("classes_strings")
    by = ("keys_strings", "values_int64s") if inputs[0].dtype is DType.string else ("values_strings", "keys_int64s")
    return kept | dict(zip(by, (names, tuple(range(len(names)))), strict=True))


def _converted(proto: onnx.ModelProto, file: Path, version: int) -> onnx.ModelProto:
    what = f"{file}: it can't be converted from opset {version} to {LOWEST_OPSET}"
    proto.ir_version = max(proto.ir_version, 4)  # before, weights had to be inputs, as not all are
    content = proto.SerializeToString()
    target = LOWEST_OPSET if version < LOWEST_OPSET else 0
    code, answer = _worker(os.getpid()).convert(content, target)
    if code in (-signal.SIGXCPU, -signal.SIGALRM):
        raise ModelError(f"{what} within {_SECONDS} seconds")
    if code < 0:
        raise ModelError(f"{what}: onnx's converter crashes on it ({signal.Signals(-code).name})")
    try:
        if code == 0:
            return onnx.ModelProto.FromString(answer)
    except DecodeError as error:
        raise ModelError(f"{what}: onnx's converter returns no model") from error
    reason = " ".join(answer.decode(errors="replace").split())
    raise ModelError(f"{what}: {reason[-2000:]}")


class _Worker:
    """A process that converts models one after the other, for the process that has this number."""

    def __init__(self, owner: int) -> None:
        self._owner = owner
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._end)

    def convert(self, content: bytes, version: int) -> tuple[int, bytes]:
        """The exit code of a model's converter, and the model that it has made or what it has said."""
        with self._lock:
            process = self._process = self._process or _started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                limits = (_SECONDS, _MEMORY + _TIMES * len(content))
                process.stdin.write(b"%d %d %d %d\n" % (version, *limits, len(content)) + content)
                process.stdin.flush()
                code, size = map(int, process.stdout.readline().split())
                return code, process.stdout.read(size)
            except (OSError, ValueError):  # it was killed, as where memory runs out
                self._end()
                return -signal.SIGKILL, b""
            except BaseException:  # an interrupt, say, while it is half-way through a model
                self._end()
                raise

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and os.getpid() == self._owner:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@cache
def _worker(process: int) -> _Worker:
    """The worker of a process: after a fork, a child must not talk to its parent's."""
    return _Worker(process)


def _started() -> subprocess.Popen[bytes]:
    # -P: the folder of the worker has an onnx.py
    command = [sys.executable, "-P", str(Path(__file__).with_name("onnx_worker.py"))]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
