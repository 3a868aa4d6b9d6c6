"""The ONNX Runtime backend; loading and running need numpy and onnxruntime alone."""

from collections.abc import Collection, Mapping, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...ir.errors import ModelError, TargetError
from ...ir.extras import is_installed
from ...targets.cpu import this_cpu
from ..base import Backend, Executable, NodeTimes, Port
from .session import OnnxRuntimeExecutable, explain, session

if TYPE_CHECKING:
    from ...ir.graph import Graph
    from ...passes.legalization.support import Support
    from ...targets import Target

_MODEL = "model.onnx"
_LOCATION = b"\x0a\x08location\x12"
"""The bytes before a file's name in protobuf: the key and the value's number of a `StringStringEntryProto`."""
_INTEGERS = (b"DequantizeLinear", b"DynamicQuantizeLinear", b"MatMulInteger", b"ConvInteger", b"QLinear")
"""Names of the operators that products of integers are written with."""
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
"""Instruction sets that add up products of uint8 and int8 in 32 bits; others of x86 saturate at 16 bits."""


class OnnxRuntime(Backend):
    """ONNX Runtime on the CPU."""

    name: ClassVar[str] = "onnxruntime"
    tells_times: ClassVar[bool] = True

    def available(self) -> str | None:
        return None if is_installed("onnxruntime") else "pip install 'planish[onnxruntime]'"

    def support(self) -> "Support":
        from .support import SUPPORT

        return SUPPORT

    def compile(self, legal: "Graph", source: "Graph", target: "Target", directory: Path) -> Sequence[Path]:
        from ...passes.legalization.origins import Origins
        from ..onnx_file import write_onnx
        from .diagnosis import diagnosis

        path = directory / _MODEL
        write_onnx(legal, path, metadata={"planish.target": target.name, "planish.mcpu": target.mcpu})
        if fault := _fault(path):
            found = diagnosis(legal, Origins.of(source).name, _fault_of)
            raise TargetError(found or f"ONNX Runtime can't run the model: {fault}")
        return sorted(directory.glob(f"{_MODEL}*"))

    def doubt(self, directory: Path, features: Collection[str]) -> str:
        cpu = this_cpu()
        if cpu is None or cpu.architecture != "x86_64" or cpu.features & _VNNI or not _VNNI.intersection(features):
            return ""
        if not _mentions(directory / _MODEL, _INTEGERS):
            return ""
        return (
            "its int8 weights are for a CPU with VNNI, which this one lacks: ONNX Runtime's sums may saturate here; "
            "build it for a target like this machine"
        )

    def opens(self, directory: Path) -> Collection[str]:
        return _MODEL, *_named_in(directory / _MODEL)

    def load(self, directory: Path, inputs: Sequence[Port], outputs: Sequence[Port], threads: int | None) -> Executable:
        try:
            held = session(directory / _MODEL, threads)
        except Exception as error:  # the runtime's exceptions have no base class of their own
            raise ModelError(f"{directory / _MODEL}: ONNX Runtime can't load it: {explain(error)}") from error
        return OnnxRuntimeExecutable(held, inputs, outputs)

    def node_times(
        self, legal: Sequence["Graph"], target: "Target", feeds: Mapping[str, np.ndarray]
    ) -> Sequence[NodeTimes]:
        from .profiling import node_times

        return node_times(legal, target, feeds)


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


def _mentions(model: Path, names: Sequence[bytes]) -> bool:
    with model.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return any(content.find(name) >= 0 for name in names)


def _fault_of(graph: "Graph") -> str:
    from ..onnx_model import to_onnx, to_proto

    return _fault(to_proto(to_onnx(graph)).SerializeToString())


def _fault(model: Path | bytes) -> str:
    """Return why the runtime can't run a model; nothing if it can."""
    try:
        session(model, threads=1)
    except Exception as error:  # as above
        return explain(error)
    return ""
