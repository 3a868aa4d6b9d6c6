"""The ONNX Runtime backend; loading and running need numpy and onnxruntime alone."""

import re
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...ir.errors import ModelError, TargetError
from ...ir.types import DType
from ..base import Backend, Executable, NodeTimes, Port
from . import values

if TYPE_CHECKING:
    from ...ir.graph import Graph
    from ...passes.legalization.support import Support
    from ...targets import Target

_MODEL = "model.onnx"
_LOCATION = b"\x0a\x08location\x12"
"""The bytes before a file's name in protobuf: the key and the value's number of a `StringStringEntryProto`."""
_ERRORS_ONLY = 3  # of ONNX Runtime's log severities


class OnnxRuntime(Backend):
    """ONNX Runtime on the CPU."""

    name: ClassVar[str] = "onnxruntime"

    def available(self) -> str | None:
        return None if find_spec("onnxruntime") else "pip install onnxruntime"

    def support(self) -> "Support":
        from .support import SUPPORT

        return SUPPORT

    def compile(self, legal: "Graph", source: "Graph", target: "Target", directory: Path) -> Sequence[Path]:
        from ...passes.legalization.origins import Origins
        from ..onnx_file import write_onnx
        from .diagnosis import diagnosis

        path = directory / _MODEL
        write_onnx(legal, path)
        if fault := _fault(path):
            found = diagnosis(legal, Origins.of(source).name, _fault_of)
            raise TargetError(found or f"ONNX Runtime can't run the model: {fault}")
        return sorted(directory.glob(f"{_MODEL}*"))

    def opens(self, directory: Path) -> Collection[str]:
        return _MODEL, *_named_in(directory / _MODEL)

    def load(self, directory: Path, inputs: Sequence[Port], outputs: Sequence[Port], threads: int | None) -> Executable:
        try:
            held = session(directory / _MODEL, threads)
        except Exception as error:  # the runtime's exceptions have no base class of their own
            raise ModelError(f"{directory / _MODEL}: ONNX Runtime can't load it: {_explain(error)}") from error
        return OnnxRuntimeExecutable(held, inputs, outputs)

    def node_times(
        self, legal: Sequence["Graph"], target: "Target", feeds: Mapping[str, np.ndarray]
    ) -> Sequence[NodeTimes]:
        from .profiling import node_times

        return node_times(legal, target, feeds)


class OnnxRuntimeExecutable(Executable):
    """A session, called with arrays."""

    def __init__(self, session: Any, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._session = session
        self._names = [port.name for port in outputs]
        self._foreign = {port.name for port in inputs if DType[port.dtype].is_foreign and not port.container}
        self._dtypes = [DType[port.dtype] for port in outputs]

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self._run(feeds)
        except Exception as error:  # as above
            raise ModelError(f"ONNX Runtime failed: {_explain(error)}") from error

    def _run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if any(dtype.is_foreign for dtype in self._dtypes):
            held = {name: values.from_array(array) for name, array in feeds.items()}
            results = self._session.run_with_ort_values(self._names, held)
            return [values.to_array(result, dtype) for result, dtype in zip(results, self._dtypes, strict=True)]
        foreign = {name: values.from_array(feeds[name]) for name in self._foreign}
        return self._session.run(self._names, {**feeds, **foreign})


def _named_in(model: Path) -> set[str]:
    """Return the names of the files that hold a model's weights, from the model's bytes.

    Parsing these would take protobuf, and copy the weights.
    """
    found: set[str] = set()
    try:
        with model.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            place = content.find(_LOCATION)
            while place >= 0:
                begin = place + len(_LOCATION)
                size = content[begin] if begin < len(content) else 0
                found.add(content[begin + 1 : begin + 1 + size].decode(errors="replace"))
                place = content.find(_LOCATION, begin)
    except (OSError, ValueError) as error:  # the latter for an empty file
        raise ModelError(f"{model} can't be read: {error}") from error
    return found


def _fault_of(graph: "Graph") -> str:
    from ..onnx_model import to_onnx, to_proto

    return _fault(to_proto(to_onnx(graph)).SerializeToString())


def _fault(model: Path | bytes) -> str:
    """Return why the runtime can't run a model; nothing if it can."""
    try:
        session(model, threads=1)
    except Exception as error:  # as above
        return _explain(error)
    return ""


def session(model: Path | bytes, threads: int | None, **settings: Any) -> Any:
    """Return ONNX Runtime's session for a model; further settings are attributes of its `SessionOptions`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = _ERRORS_ONLY
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _explain(error: Exception) -> str:
    """Return the runtime's message in one line, led by the name of the node that it is about."""
    text = " ".join(str(error).split())
    named = re.search(r"(?:[Nn]ame:\s?|node with name |Node:? ?\()'?([^')]+)['),]", text)
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ?", "", text) or "it gives no reason"
    return f"{named[1]}: {text}" if named else text
