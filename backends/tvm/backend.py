# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""The TVM backend."""

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...ir.errors import ModelError, TargetError
from ...ir.types import DType
from ..base import Backend, Executable, Port
from .carriers import carried, restored
from .guards import Guards

if TYPE_CHECKING:
    from ...ir.graph import Graph
    from ...targets import Target

_LIBRARY = "model.so"
_ADVICE = "build for onnxruntime, which runs more operators, or write the layer in other ones"
_LARGEST_CONSTANT = 1 << 20  # bytes that a folded constant may have grown to: masks and waves needn't be made anew
_LOADED: set[Path] = set()


class Tvm(Backend):
    """Apache TVM on the CPU, through Relax and LLVM."""

    name: ClassVar[str] = "tvm"
    native: ClassVar[bool] = True

    def available(self) -> str | None:
        return None if find_spec("tvm") else "pip install 'planish[tvm]'"

    def compile(self, graph: "Graph", target: "Target", directory: Path) -> Sequence[Path]:
        import tvm
        from tvm.support.cc import get_cc

        from .reproducible import ordered_symbols, pipeline

        if get_cc() is None:
            raise TargetError("TVM needs a C compiler to link with: install gcc or clang, or name one in CXX")
        try:
            module, guards = _lowered(graph, target)
        except TargetError as error:
            raise TargetError(f"{error}; {_ADVICE}") from error
        machine = tvm.target.Target({"kind": "llvm", "mcpu": target.mcpu, "num-cores": target.threads})
        path = directory / _LIBRARY
        try:
            with machine, ordered_symbols():
                tvm.compile(module, target=machine, relax_pipeline=pipeline()).export_library(path)
        except Exception as error:  # TVM's passes, LLVM and the linker raise what they like
            raise TargetError(f"TVM can't compile the model for {target.name}: {_line(error)}") from error
        return [path, guards.write(directory)]

    def load(self, directory: Path, inputs: Sequence[Port], outputs: Sequence[Port], threads: int | None) -> Executable:
        os.environ.setdefault("TVM_BIND_THREADS", "0")  # or its pool ties the caller's thread to one core, for good
        import tvm
        from tvm import relax

        try:
            module = _load_library(directory / _LIBRARY)
            machine = relax.VirtualMachine(module, tvm.cpu())
        except Exception as error:  # as above
            raise ModelError(f"{directory / _LIBRARY}: TVM can't load it: {_line(error)}") from error
        if threads is not None:
            tvm.get_global_func("runtime.config_threadpool")(0, threads)
        return TvmExecutable(machine["main"], inputs, outputs, Guards.read(directory))


class TvmExecutable(Executable):
    """A compiled function, called with arrays."""

    def __init__(self, function: Any, inputs: Sequence[Port], outputs: Sequence[Port], guards: Guards) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._names = [port.name for port in inputs]
        self._dtypes = [DType[port.dtype] for port in outputs]
        self._function = function
        self._guards = guards

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        from tvm.runtime import tensor

        self._guards.check_inputs(
            {dim: size for port in self.inputs for dim, size in zip(port.shape, feeds[port.name].shape, strict=True)}
        )
        arrays = [carried(np.ascontiguousarray(feeds[name]).reshape(feeds[name].shape)) for name in self._names]
        try:
            results = self._function(*map(tensor, arrays))
        except Exception as error:  # whatever its C++ throws
            raise ModelError(f"TVM failed: {_line(error)}") from error
        if self._guards.late:
            *results, sizes = results
            self._guards.check_results(sizes.numpy())
        return [restored(result.numpy(), dtype) for result, dtype in zip(results, self._dtypes, strict=True)]


def _lowered(graph: "Graph", target: "Target") -> Any:
    """The graph in Relax, and what guards its inputs."""
    from ...passes.base import PassContext
    from ...passes.cleanup.fold_constants import ConstantFolding
    from ...passes.legalize import legalized
    from .lowering import to_relax
    from .reproducible import ordered_symbols

    folded, context, fold = graph.clone(), PassContext(target, source=graph), ConstantFolding(limit=_LARGEST_CONSTANT)
    fold.run(folded, context)  # TVM's importer would compute with constants by rules of its own
    legal = legalized(folded, target, Tvm.name)
    fold.run(legal, context)
    with ordered_symbols():
        return to_relax(legal, graph, target)


def _load_library(path: Path) -> Any:
    """The library in a file as it is now.

    The dynamic loader goes by names: asked for one again, it gives back what it loaded before the file was replaced. So
    from the second time on, a copy is loaded under a name of its own.
    """
    from tvm.runtime import load_module

    path = path.resolve()
    if path not in _LOADED:
        _LOADED.add(path)
        return load_module(path)
    with TemporaryDirectory(prefix="planish-") as folder:
        return load_module(shutil.copy(path, folder))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
