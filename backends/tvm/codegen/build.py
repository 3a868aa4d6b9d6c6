"""The compilation of a legal graph to the files of an artifact, which a compiler's process does."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

import numpy as np
from tvm.runtime import Tensor

from ....ir.drafts import workspace
from ....ir.errors import PlanishError, TargetError, UsageError
from ....ir.files import is_full, make_room, writing
from ....ir.graph import Graph, Value
from ....passes.base import Feeds
from ....passes.legalization.origins import Origins
from ....targets import Target
from ...machine import runs_here
from ..compat import ordered_symbols
from ..errors import ADVICE, CompilerError, line_of
from ..llvm import llvm_target
from ..relax.configs import ESTIMATED, Plainness, TuningPolicy
from ..relax.lowering import Lowered, kernels, to_relax
from ..runtime.program import LIBRARY, Program
from ..runtime.storage import carried, restored
from ..runtime.weights import write_weights
from .hoisting import hoisted
from .kernel_cache import KernelCache
from .kernel_check import check_kernels, parts_of, random_input
from .library import Tell, link, planned
from .linker import find_linker

LINKING, CHECKING = "the library of all kernels", "the check of new kernels"
"""Names of the work while the library is linked, and while its kernels are compared with the interpreter."""
_COPIES = 3
"""The disk space of linking over the kernels' size: object files, the library, and the linkers' overhead."""
_BESIDE_KERNELS = 1 << 20
"""Bytes that linking takes for everything but kernels."""


@dataclass(frozen=True, slots=True)
class Written:
    """An artifact's files.

    Attributes:
        files: the paths.
        kernels: the names of the graph's values that each kernel is called for, in the order of the calls, by the
            kernel's symbol.
    """

    files: Sequence[Path]
    kernels: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Build:
    """A graph to compile.

    Attributes:
        graph: the graph, legal and with its constants folded.
        origins: the operators that refusals name.
        target: the machine to compile for.
        choices: the choices of how kernels are generated.
        plainness: how plain kernels have to be, by the names of their results, where they aren't the best ones.
        jobs: how many kernels are compiled side by side; as many as there are cores by default.
        tell: called for kernels and for linking as `library.link` does, with the names of the kernels' results.
    """

    graph: Graph
    origins: Origins
    target: Target
    choices: TuningPolicy = ESTIMATED
    plainness: Mapping[str, Plainness] = field(default_factory=dict[str, Plainness])
    jobs: int | None = None
    tell: Callable[[str, Sequence[str], bool], None] = lambda *_: None

    def write(self, directory: Path, *, is_checked: bool = True) -> "Written":
        """Write the files of an artifact.

        Args:
            directory: the folder that they are written into.
            is_checked: whether kernels that nobody has checked yet are held to the interpreter, if this machine can
                run them.

        Raises:
            TargetError: an operator that TVM can't run, with its layer, or what TVM's passes and LLVM say.
            CheckError: a kernel computes something else than its nodes.
            UsageError: a disk is full, or nothing may be written or run where it should be.
        """
        find_linker(self.target.architecture)  # or compiling would be for nothing
        cache = KernelCache.of_user()
        lowered, weights, found = self._library(self.graph, cache, directory / LIBRARY)
        unchecked = cache.unchecked(found)
        if is_checked and unchecked and runs_here(self.target.architecture, self.target.features):
            self.tell(CHECKING, (), True)
            self._check(cache)
            self.tell(CHECKING, (), False)
            cache.mark_checked(unchecked)
        cache.drop_old()
        files = [directory / LIBRARY, lowered.guards.write(directory)]
        files += write_weights(directory, weights, lowered.plain)
        return Written(files, found)

    def lowered(self, graph: Graph) -> Lowered:
        """Lower a graph to Relax: this one, or another with more outputs.

        Raises:
            TargetError: an operator that TVM can't run, with its layer.
        """
        try:
            with ordered_symbols():
                return to_relax(graph, self.origins, self.target, self.choices, self.plainness)
        except TargetError as error:
            raise TargetError(f"{error}; {ADVICE}") from error

    def _library(
        self, graph: Graph, cache: KernelCache, library: Path
    ) -> tuple[Lowered, Sequence[Tensor], Mapping[str, Sequence[str]]]:
        """Write the library of a graph; return the graph lowered, its weights, and its kernels as in `Written`."""
        lowered = self.lowered(graph)
        machine, linker = llvm_target(self.target), find_linker(self.target.architecture)
        module, weights = hoisted(lowered.module)
        try:
            plan = planned(module, machine, lowered.results)
            executable, size = link(plan.module, machine, cache, jobs=self.jobs, tell=self._teller(plan.results))
            with workspace() as folder:
                make_room(folder, _COPIES * size + _BESIDE_KERNELS)
                self.tell(LINKING, (), True)
                executable.export_library(folder / LIBRARY, fcompile=linker, workspace_dir=str(folder))
                self.tell(LINKING, (), False)
                with writing(library):
                    shutil.move(folder / LIBRARY, library)
        except PlanishError:
            raise
        except Exception as error:  # TVM's passes, LLVM and the linker raise what they like
            if is_full(str(error)):
                raise UsageError(f"{gettempdir()} can't be written: {line_of(error)}") from error
            raise CompilerError(f"TVM can't compile the model for {self.target.name}: {line_of(error)}") from error
        return lowered, weights, plan.results

    def _teller(self, results: Mapping[str, Sequence[str]]) -> Tell:
        return lambda symbol, begins: self.tell(symbol, results[symbol], begins)

    def _check(self, cache: KernelCache) -> None:
        """Hold each kernel of the graph to the interpreter."""
        graph = self.graph.clone()
        nodes = [(node,) if group is None else group.nodes for node, group in kernels(graph)]
        probe = random_input(graph)
        if probe is None:
            return
        for part in parts_of(graph, nodes):
            values = part.expose(graph)
            with workspace() as folder:
                library = folder / LIBRARY
                _, weights, _ = self._library(graph, cache, library)
                program = Program(library, weights, self.target.threads)

            def run(probe: Feeds, program: Program = program, values: Sequence[Value] = values) -> list[np.ndarray]:
                results = program([carried(np.asarray(probe[value.name], order="C")) for value in graph.inputs])
                return [restored(result, value.dtype) for result, value in zip(results, values, strict=False)]

            check_kernels(graph, part, probe, run)
