"""Compilation of a graph in another process, where plainer kernels replace those that the compiler dies over."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....ir.drafts import workspace
from ....ir.errors import CheckError, PlanishError, TargetError, UsageError
from ....ir.extract import extract
from ....ir.files import is_full
from ....ir.graph import Graph, Node
from ....passes.legalization.origins import Origins
from ....passes.reproducer import Reproducer, leave
from ....targets import Target
from ....targets.load import write_target
from ...base import CompilerWarning
from ..codegen.kernel_cache import KernelCache
from ..errors import ADVICE, CompilerError
from ..relax.configs import Plainness, result_of
from .client import DiedError, ask
from .handover import handed_over

_INSTEAD = {
    Plainness.PLAIN: "it is compiled without the machine's special instructions",
    Plainness.IMPORTED: "TVM's own kernels take its place",
}
"""What is done about a kernel that a compiler has died over."""
_FARTHEST = 4
"""The most edges from a node to nodes that its kernel may depend on."""


@dataclass(slots=True)
class Compilation:
    """A graph that is compiled for a target.

    Attributes:
        source: the graph as it was given.
        legal: the graph as TVM runs it.
        target: the machine that it is compiled for.
        database: the file that `planish tune` has written, if any.
        checks_kernels: whether kernels that nobody has checked are held to the interpreter.
        is_strict: whether a kernel that can't be compiled ends the compilation, instead of a plainer one taking its
            place; then no reproducer is left, since one is what is being run.
        plainness: how plain kernels have to be, by the names of their results, as far as is known by now.
        kernels: the names of the values of `legal` that each kernel is called for, in the order of the calls, by the
            kernel's symbol; after `write`.
    """

    source: Graph
    legal: Graph
    target: Target
    database: str = ""
    checks_kernels: bool = True
    is_strict: bool = False
    plainness: dict[str, Plainness] = field(init=False, default_factory=dict[str, Plainness])
    kernels: Mapping[str, Sequence[str]] = field(init=False, default_factory=dict[str, Sequence[str]])

    def write(self, directory: Path) -> list[str]:
        """Write the files of an artifact into a folder; return their names.

        Args:
            directory: the folder, which exists.

        Raises:
            TargetError: an operator that TVM can't run, with its layer, or what TVM's passes, LLVM and the linker say.
            CheckError: a kernel computes something else than its nodes.
            UsageError: a disk is full, or nothing may be written where it should be.
        """
        faults: dict[str, tuple[str, Node]] = {}  # by the names of results that plainer kernels compute
        with workspace() as folder, handed_over(self.legal, folder / "graph") as graph:
            while True:
                try:
                    answer = self._asked(graph, directory)
                    break
                except CompilerError as error:
                    raise self._fault(str(error), None) from error
                except CheckError as error:
                    raise CheckError(f"{error}{self._left(str(error), None)}") from error
                except DiedError as death:
                    if (alone := self._alone(death, graph, directory)) is not None:
                        for name, fault in self._given_way(alone):
                            faults.setdefault(name, fault)
        for text, node in dict(faults.values()).items():  # one for each kernel
            instead = _INSTEAD[self.plainness[result_of(node)]]
            warnings.warn(f"{text}; {instead}{self._left(text, node)}", CompilerWarning, stacklevel=4)
        self.kernels = answer["kernels"]
        return answer["files"]

    def refuse(self) -> None:
        """Lower the graph without compiling it.

        Raises:
            TargetError: an operator that TVM can't run, with its layer.
        """
        with workspace() as folder, handed_over(self.legal, folder / "graph") as graph, suppress(DiedError):
            self._asked(graph, folder, work="lower")

    def _asked(self, graph: Path, directory: Path, **options: object) -> Any:
        """Have another process do some work on a graph that is handed over, with this compilation's settings."""
        request = {
            "work": "build",
            "graph": str(graph),
            "operators": Origins.of(self.source).operators,
            "target": str(write_target(self.target, graph.parent)),
            "database": str(Path(self.database).absolute()) if self.database else "",
            "plainness": self.plainness,
            "directory": str(directory),
            "is_checked": self.checks_kernels,
            "jobs": None,
        }
        try:
            return ask(request | options, graph.parent)
        except DiedError as death:
            KernelCache.of_user().drop_drafts()
            if is_full(death.said):
                raise UsageError(f"{graph.parent} can't be written: {death.said}") from death
            raise

    def _alone(self, death: DiedError, graph: Path, directory: Path) -> DiedError | None:
        """Reduce a death to one kernel: if several were compiled side by side, they are tried one after the other.

        Returns:
            The death over one kernel; None if none dies alone, as where memory had run out.
        """
        if len(death.running) < 2:
            return death
        try:
            self._asked(graph, directory, jobs=1)
        except DiedError as again:
            return again
        return None

    def _given_way(self, death: DiedError) -> list[tuple[str, tuple[str, Node]]]:
        """Let plainer kernels take the place of the one that a compiler has died over.

        Returns:
            The message and the last node of the kernel, by the names of the results.

        Raises:
            TargetError: there is none, or none is wanted.
        """
        kernel, results = next(iter(death.running.items()), ("", ()))
        what = f"the kernel {kernel}" if results else kernel or "what comes before the kernels"
        node = next((node for node in self.legal.nodes if result_of(node) in results), None)
        text = f"{f'{node.location}: ' if node else ''}TVM's compiler died over {what}: {death.said}"
        level = max((self.plainness.get(name, Plainness.BEST) for name in results), default=Plainness.BEST)
        if self.is_strict or node is None or level is Plainness.IMPORTED:
            raise self._fault(f"{text}; {ADVICE}", node) from death
        self.plainness |= dict.fromkeys(results, Plainness(level + 1))
        return [(name, (text, node)) for name in results]

    def _fault(self, text: str, node: Node | None) -> TargetError:
        return TargetError(f"{text}{self._left(text, node)}")

    def _left(self, text: str, node: Node | None) -> str:
        """Leave a reproducer of a fault around a node; return what to do with it."""
        if self.is_strict:
            return ""
        graph = self.source if node is None else self._part(node)
        return leave(Reproducer(graph, "", backend="tvm", machine=self.target, error=text), again=None)

    def _part(self, node: Node) -> Graph:
        """Return the smallest part of the graph around a node that a compiler dies over, or the whole graph."""
        near, nodes = {node}, set(self.legal.nodes)
        for _ in range(_FARTHEST):
            near |= {value.producer for one in near for value in one.inputs if value is not None and value.producer}
            near |= {use.node for one in near for value in one.outputs for use in value.uses if use.node in nodes}
            part = extract(self.legal, {position for position, one in enumerate(self.legal.nodes) if one in near})
            with workspace() as folder, handed_over(part, folder / "graph") as graph:
                try:
                    self._asked(graph, folder, jobs=1, is_checked=False, plainness={})
                except DiedError:
                    return part
                except PlanishError:  # the surroundings are no model that TVM takes
                    continue
        return self.source
