# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""The TVM backend."""

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
from ..machine import runs_here
from .carriers import carried, restored
from .guards import Guards
from .runtime import Program
from .weights import read_weights, write_weights

if TYPE_CHECKING:
    from ...ir.graph import Graph, Value
    from ...passes.base import Feeds
    from ...targets import Target
    from .choices import Choices
    from .database import Database
    from .kernel_cache import KernelCache

_LIBRARY = "model.so"
_ADVICE = "build for onnxruntime, which runs more operators, or write the layer in other ones"
_LARGEST_CONSTANT = 1 << 20  # bytes that a folded constant may have grown to: masks and waves needn't be made anew
_LOADED: set[Path] = set()


class Tvm(Backend):
    """Apache TVM on the CPU, through Relax and LLVM."""

    name: ClassVar[str] = "tvm"
    native: ClassVar[bool] = True
    tunable: ClassVar[bool] = True

    def __init__(self, database: "Database | None" = None, source: str = "") -> None:
        """By what is in a database, or by estimated times."""
        self._database = database
        self._source = source

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {} if self._database is None else {"tuned": {"file": self._source, "sha256": self._database.digest}}

    def tuned(self, database: Path) -> "Tvm":
        from .database import read_database

        return Tvm(read_database(database), str(database))

    def available(self) -> str | None:
        return None if find_spec("tvm") else "pip install 'planish[tvm]'"

    def kernels(self, target: "Target") -> Mapping[str, str]:
        from .kernels.dots import Instruction
        from .kernels.machine import Machine

        machine = Machine.of(target)
        return {
            "float32": f"{machine.registers} vectors of {32 * machine.lanes} bits",
            "int8": Instruction.of(machine, np.zeros((1, 1), np.int8)).spelled if machine.has_integers else "none",
            "bfloat16": "vdpbf16ps" if machine.has_bfloat16 else "none",
            "tables of bytes": "vpermi2b" if machine.has_tables else "none",
        }

    def compile(self, graph: "Graph", target: "Target", directory: Path) -> Sequence[Path]:
        from .choices import ESTIMATED
        from .kernel_cache import KernelCache
        from .linker import find_linker

        find_linker(target.architecture)  # or compiling would be for nothing
        legal, cache = legal_graph(graph, target), KernelCache.of_user()
        choices = ESTIMATED if self._database is None else self._database.choices(target, self._source)
        weights, guards, found = _build(legal, graph, target, choices, cache, directory / _LIBRARY)
        if (unchecked := cache.unchecked(found)) and runs_here(target.architecture, target.features):
            _check(legal, graph, target, choices, cache)
            cache.mark_checked(unchecked)
        cache.drop_old()
        return [directory / _LIBRARY, guards.write(directory), *write_weights(directory, weights)]

    def load(self, directory: Path, inputs: Sequence[Port], outputs: Sequence[Port], threads: int | None) -> Executable:
        weights, guards = read_weights(directory), Guards.read(directory)
        try:
            program = _load_program(directory / _LIBRARY, weights, threads)
        except Exception as error:  # whatever its C++ throws
            raise ModelError(f"{directory / _LIBRARY}: TVM can't load it: {_line(error)}") from error
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
        if self._guards.early:
            shapes = ((port.shape, feeds[port.name].shape) for port in self.inputs)
            self._guards.check_inputs(
                {dim: size for dims, sizes in shapes for dim, size in zip(dims, sizes, strict=True)}
            )
        arrays = [carried(np.ascontiguousarray(feeds[name]).reshape(feeds[name].shape)) for name in self._names]
        try:
            results = self._program(arrays)
        except Exception as error:  # whatever its C++ throws
            raise ModelError(f"TVM failed: {_line(error)}") from error
        if self._guards.late:
            *results, sizes = results
            self._guards.check_results(sizes)
        return [restored(result, dtype) for result, dtype in zip(results, self._dtypes, strict=True)]


def legal_graph(graph: "Graph", target: "Target") -> "Graph":
    """A copy of the graph that TVM runs, with its constants folded: TVM's importer would compute with them by rules of its own."""
    from ...passes.base import PassContext
    from ...passes.cleanup.fold_constants import ConstantFolding
    from ...passes.legalize import legalized

    folded, context, fold = graph.clone(), PassContext(target, source=graph), ConstantFolding(limit=_LARGEST_CONSTANT)
    fold.run(folded, context)
    try:
        legal = legalized(folded, target, Tvm.name)
    except TargetError as error:
        raise TargetError(f"{error}; {_ADVICE}") from error
    fold.run(legal, context)
    return legal


def _build(
    legal: "Graph", source: "Graph", target: "Target", choices: "Choices", cache: "KernelCache", library: Path
) -> tuple[Sequence[Any], Guards, Sequence[str]]:
    """Write the library of a graph; returns its weights, what guards its inputs, and the kernels in it.

    Raises:
        TargetError: an operator that TVM can't run, with its layer, or what TVM's passes and LLVM say.
    """
    from .hoisting import hoisted
    from .library import link, planned, symbols
    from .linker import find_linker
    from .llvm import llvm_target
    from .lowering import to_relax
    from .reproducible import ordered_symbols

    try:
        with ordered_symbols():
            module, guards = to_relax(legal, source, target, choices)
    except TargetError as error:
        raise TargetError(f"{error}; {_ADVICE}") from error
    machine, linker = llvm_target(target), find_linker(target.architecture)
    module, weights = hoisted(module)
    try:
        module = planned(module, machine)
        link(module, machine, cache).export_library(library, fcompile=linker)
    except Exception as error:  # TVM's passes, LLVM and the linker raise what they like
        raise TargetError(f"TVM can't compile the model for {target.name}: {_line(error)}") from error
    return weights, guards, symbols(module)


def _check(legal: "Graph", source: "Graph", target: "Target", choices: "Choices", cache: "KernelCache") -> None:
    """Hold each kernel of a graph to the interpreter; the graph's outputs are lost.

    Raises:
        CheckError: a kernel is wrong.
    """
    from .kernel_check import check_kernels, parts_of, random_input
    from .lowering import kernels

    nodes = [[node] if group is None else [group.anchor, *group.chain] for node, group in kernels(legal)]
    probe = random_input(legal)
    for part in parts_of(legal, nodes) if probe is not None else ():
        values = part.expose(legal)
        with TemporaryDirectory(prefix="planish-") as folder:
            library = Path(folder) / _LIBRARY
            weights, _, _ = _build(legal, source, target, choices, cache, library)
            program = Program(library, weights, target.threads)

        def run(probe: "Feeds", program: Program = program, values: Sequence["Value"] = values) -> list[np.ndarray]:
            results = program([carried(np.asarray(probe[value.name], order="C")) for value in legal.inputs])
            return [restored(result, value.dtype) for result, value in zip(results, values, strict=False)]

        check_kernels(legal, part, probe, run)


def _load_program(library: Path, weights: Sequence[Any], threads: int | None) -> Program:
    """The library in a file as it is now.

    The dynamic loader goes by names: asked for one again, it gives back what it loaded before the file was replaced. So
    from the second time on, a copy is loaded under a name of its own.
    """
    library = library.resolve()
    if library not in _LOADED:
        _LOADED.add(library)
        return Program(library, weights, threads)
    with TemporaryDirectory(prefix="planish-") as folder:
        return Program(Path(shutil.copy(library, folder)), weights, threads)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
