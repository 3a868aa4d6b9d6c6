"""Sessions of ONNX Runtime, and what they say."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import ModelError
from ...ir.types import DType
from ..base import Executable, Port
from . import values

_ERRORS_ONLY = 3  # of ONNX Runtime's log severities

_SPIN = "1000"
"""Microseconds for which threads wait actively for more work; by default it is some 60 ms after every call.

That takes a processor from whatever runs next, another model of the same process included. What is called without a
pause between calls is as fast either way.
"""


def session(model: Path | bytes, threads: int | None, **settings: Any) -> Any:
    """Return ONNX Runtime's session for a model; further settings are attributes of its `SessionOptions`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN)
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def explain(error: Exception) -> str:
    """Return the runtime's message in one line, led by the name of the node that it is about."""
    text = " ".join(str(error).split())
    named = re.search(r"(?:[Nn]ame:\s?|node with name |Node:? ?\()'?([^')]+)['),]", text)
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ?", "", text) or "it gives no reason"
    return f"{named[1]}: {text}" if named else text


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
        except Exception as error:  # the runtime's exceptions have no base class
            raise ModelError(f"ONNX Runtime failed: {explain(error)}") from error

    def _run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if any(dtype.is_foreign for dtype in self._dtypes):
            held = {name: values.from_array(array) for name, array in feeds.items()}
            results = self._session.run_with_ort_values(self._names, held)
            return [values.to_array(result, dtype) for result, dtype in zip(results, self._dtypes, strict=True)]
        foreign = {name: values.from_array(feeds[name]) for name in self._foreign}
        return self._session.run(self._names, {**feeds, **foreign})
