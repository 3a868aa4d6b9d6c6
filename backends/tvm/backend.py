"""The TVM backend."""

import os
import shutil
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ...ir.dims import symbols
from ...ir.drafts import workspace
from ...ir.errors import ModelError, PlanishError, TargetError
from ...ir.types import DType
from ..base import Backend, Executable, NodeTimes, Port
from .compiler.client import warm_up
from .errors import line_of
from .runtime import libraries
from .runtime.guards import FILE as GUARDS
from .runtime.guards import Guards
from .runtime.program import LIBRARY, Program, is_loaded
from .runtime.storage import carried, restored
from .runtime.weights import FILE as WEIGHTS
from .runtime.weights import TABLE, read_weights

if TYPE_CHECKING:
    from tvm_ffi import Tensor

    from ...ir.graph import Graph
    from ...passes.base import Pass
    from ...passes.legalization.support import Support
    from ...targets import Target
    from .tune.database import Database

_LARGEST_CONSTANT = 1 << 20
"""Bytes that a folded constant may have grown to: masks and waves needn't be made anew."""
_loading = threading.Lock()
"""A lock held from looking for a library until it is loaded, so that nothing loads the same one beside another."""


def _renew_lock() -> None:
    """Replace the lock: another thread of the process that this one was forked from may have held it."""
    global _loading  # noqa: PLW0603 -- a lock can't be taken from a thread that isn't here
    _loading = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class Tvm(Backend):
    """Apache TVM on the CPU, through Relax and LLVM."""

    name: ClassVar[str] = "tvm"
    native: ClassVar[bool] = True
    tunable: ClassVar[bool] = True
    tells_times: ClassVar[bool] = True
    compiles_slowly: ClassVar[bool] = True
    weights: ClassVar[frozenset[str]] = frozenset({WEIGHTS})

    def __init__(
        self,
        database: "Database | None" = None,
        source: str = "",
        *,
        checks_kernels: bool = True,
        is_strict: bool = False,
    ) -> None:
        """Make a backend that chooses kernels by measured times, or by estimated ones.

        Args:
            database: the measured times.
            source: the file of the database.
            checks_kernels: whether kernels that nobody has checked are held to the interpreter, which takes a second
                build; callers that compare the whole model's results with the interpreter's anyway don't need it.
            is_strict: whether a kernel that the compiler dies over ends the build, instead of a plainer one
                taking its place.
        """
        self._database = database
        self._source = source
        self._checks_kernels = checks_kernels
        self._is_strict = is_strict

    @property
    def provenance(self) -> Mapping[str, object]:
        return {} if self._database is None else {"tuned": {"file": self._source, "sha256": self._database.digest}}

    def tuned(self, database: Path) -> "Tvm":
        from .tune.database import read_database

        return Tvm(
            read_database(database), str(database), checks_kernels=self._checks_kernels, is_strict=self._is_strict
        )

    def available(self) -> str | None:
        return None if libraries.package() else "pip install 'planish[tvm]'"

    def runs(self, directory: Path) -> str | None:
        return libraries.missing(directory)

    def bundle(self, directory: Path) -> Sequence[Path]:
        """Copy TVM's runtime, 5 MB, into an artifact's folder: the target needs no package with the compiler then."""
        if missing := self.available():
            raise TargetError(f"backend {self.name} is not installed: {missing}")
        return libraries.bundle(directory)

    def advice(self, graph: "Graph") -> str:
        """Ask for the sizes of images, for which there are faster kernels of convolutions."""
        images = [node.operand(0).type for node in graph.nodes if node.operator == "Conv"]
        computed = {symbol for image in images for dim in (image.dims or ())[2:] for symbol in symbols(dim)}
        given = [symbol for value in graph.inputs for symbol in sorted(value.type.symbols & computed)]
        if not given:
            return ""
        sizes = ",".join(f"{symbol}=64" for symbol in dict.fromkeys(given))
        return (
            "TVM's convolutions are faster on images of known sizes: if yours are all alike, give their sizes behind "
            f"the file's name, as in model.onnx{{{sizes}}}, or trace the module without these dynamic shapes"
        )

    def kernels(self, target: "Target") -> Mapping[str, str]:
        from .kernels.instructions.int8_dot import Int8Dot
        from .kernels.machine import Machine

        machine = Machine.of(target)
        return {
            "float32": f"{machine.registers} vectors of {32 * machine.lanes} bits",
            "int8": Int8Dot.of(machine, np.zeros((1, 1), np.int8)).mnemonic if machine.has_integers else "none",
            "bfloat16": "vdpbf16ps" if machine.has_bfloat16 else "none",
            "tables of bytes": "vpermi2b" if machine.has_tables else "none",
        }

    def warm_up(self) -> None:
        warm_up()

    def strict(self) -> "Tvm":
        return Tvm(self._database, self._source, checks_kernels=self._checks_kernels, is_strict=True)

    def support(self) -> "Support":
        from .support import SUPPORT

        return SUPPORT

    def pipeline(self, target: "Target") -> Sequence["Pass"]:
        """Return the passes that make a graph legal, with its constants folded: TVM would fold by rules of its own."""
        from ...passes.cleanup.fold_constants import ConstantFolding

        fold = ConstantFolding(limit=_LARGEST_CONSTANT)
        return [fold, *super().pipeline(target), fold]

    def refuse(self, legal: "Graph", source: "Graph", target: "Target") -> None:
        """Refuse sizes that depend on data in a way that isn't followed."""
        from ...ir.unknown import is_from_data
        from .compiler.compilation import Compilation

        symbols = (symbol for node in legal.nodes for value in node.outputs for symbol in value.type.symbols)
        if any(map(is_from_data, symbols)):
            Compilation(source, legal, target).refuse()

    def compile(self, legal: "Graph", source: "Graph", target: "Target", directory: Path) -> Sequence[Path]:
        from .compiler.compilation import Compilation

        warm_up()
        compilation = Compilation(source, legal, target, self._source, self._checks_kernels, self._is_strict)
        return [directory / name for name in compilation.write(directory)]

    def node_times(
        self, legal: Sequence["Graph"], target: "Target", feeds: Mapping[str, np.ndarray]
    ) -> Sequence[NodeTimes]:
        from .profiling import node_times

        return node_times(legal, target, feeds)

    def opens(self, directory: Path) -> Collection[str]:
        return (LIBRARY, GUARDS, WEIGHTS, TABLE, *(path.name for path in libraries.carried(directory)))

    def load(self, directory: Path, inputs: Sequence[Port], outputs: Sequence[Port], threads: int | None) -> Executable:
        with _loading:
            libraries.runtime(directory)
        weights, guards = read_weights(directory), Guards.read(directory)
        try:
            program = _load_program(directory / LIBRARY, weights, threads)
        except PlanishError:
            raise
        except Exception as error:  # whatever its C++ throws
            raise ModelError(f"{directory / LIBRARY}: TVM can't load it: {line_of(error)}") from error
        return TvmExecutable(program, inputs, outputs, guards)


class TvmExecutable(Executable):
    """A compiled function, called with arrays."""

    def __init__(self, program: Program, inputs: Sequence[Port], outputs: Sequence[Port], guards: Guards) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self._names = [port.name for port in inputs]
        self._dtypes = [DType[port.dtype] for port in outputs]
        self._program = program
        self._guards = guards

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if self._guards.early or self._guards.places:
            shapes = ((port.shape, feeds[port.name].shape) for port in self.inputs if port.shape is not None)
            named = {
                dim: size
                for dims, sizes in shapes
                for dim, size in zip(dims, sizes, strict=True)
                if isinstance(dim, str)
            }
            self._guards.check_inputs(named)
            self._guards.check_places(feeds, named)
        arrays = [carried(np.ascontiguousarray(feeds[name]).reshape(feeds[name].shape)) for name in self._names]
        try:
            results = self._program(arrays)
        except Exception as error:  # whatever its C++ throws
            raise ModelError(f"TVM failed: {line_of(error)}") from error
        if self._guards.late:
            *results, sizes = results
            self._guards.check_results(sizes)
        return [restored(result, dtype) for result, dtype in zip(results, self._dtypes, strict=True)]


def _load_program(library: Path, weights: Sequence["Tensor"], threads: int | None) -> Program:
    """Load the library in a file as it is now, for one program alone.

    The dynamic loader goes by names and files: while it holds a library, it returns the same one, even if the file was
    replaced meanwhile. In that case a copy is loaded under a name of its own.
    """
    library = library.resolve()
    with _loading:
        if not is_loaded(library):
            return Program(library, weights, threads)
    with workspace() as folder:
        return Program(Path(shutil.copy(library, folder)), weights, threads)
