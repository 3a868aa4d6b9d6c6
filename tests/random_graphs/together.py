"""Graphs that TVM compiles together, which takes a fraction of the time: all their kernels are one module of LLVM's.

Each graph is lowered and planned as in a build, and the kernels' code is what a build writes, but for two things: none
checks its arguments, though those of symbolic sizes do in a build, and no process is started for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import IRModule, relax, tirx

from planish.backends.artifact import port_of
from planish.backends.legal import legalized
from planish.backends.tvm.backend import TvmExecutable
from planish.backends.tvm.codegen.build import Build
from planish.backends.tvm.codegen.hoisting import hoisted
from planish.backends.tvm.codegen.library import generated, planned
from planish.backends.tvm.codegen.linker import find_linker
from planish.backends.tvm.llvm import llvm_target
from planish.backends.tvm.runtime.guards import Guards
from planish.backends.tvm.runtime.program import array_of, tensor_of, use_threads
from planish.ir.drafts import workspace
from planish.ir.errors import PlanishError
from planish.ir.graph import Graph
from planish.ir.numerics import Outputs, flattened
from planish.ir.text import print_graph, weights
from planish.passes.legalization.origins import Origins
from planish.targets.load import load_target

from .graphs import Sample
from .runtime import Runtime, run_here

Answer = Sequence[Outputs] | str
"""The outputs of a graph on each probe, or why there are none."""


class Here(Runtime):
    """A backend in this process, of which it may be known what it gives at first."""

    def __init__(self, backend: str, first: Answer | None = None) -> None:
        super().__init__(backend)
        self._first = first

    def run(self, graph: Graph, probes: Sequence[Mapping[str, Any]]) -> Answer:
        first, self._first = self._first, None
        if first is not None:
            return first
        return run_here(self.backend, print_graph(graph), weights(graph), list(probes))


def run_together(samples: Mapping[str, Sample], graphs: Mapping[str, Graph]) -> dict[str, Answer]:
    """What TVM gives for graphs by the names of their samples; those are left out over which it fails."""
    use_threads(1)
    answers: dict[str, Answer] = {}
    lowered: dict[str, _Lowered] = {}
    for name, graph in graphs.items():
        try:
            lowered[name] = _lowered(graph)
        except PlanishError as error:
            answers[name] = str(error)
        except Exception:  # of whatever kind: a build alone will say it
            continue
    try:
        library = _library({symbol: kernel for one in lowered.values() for symbol, kernel in one.kernels.items()})
    except Exception:  # whatever LLVM refuses, one after the other then
        return answers
    for name, one in lowered.items():
        try:
            executable = one.executable(library)
            runs = [executable.run(probe) for probe in samples[name].probes]
        except Exception:  # as above
            continue
        answers[name] = [flattened(dict(zip(one.graph.outputs, run, strict=True))) for run in runs]
    return answers


@dataclass(frozen=True, slots=True)
class _Lowered:
    """A graph as a Relax module whose kernels are elsewhere, with them by their symbols."""

    graph: Graph
    module: IRModule
    kernels: Mapping[str, tirx.PrimFunc]
    weights: Sequence[Any]
    guards: Guards

    def executable(self, library: Any) -> TvmExecutable:
        module = self.module.with_attr("external_mods", [library])
        built = relax.build(module, target=_machine(), relax_pipeline=None)
        main = relax.VirtualMachine(built.mod, tvm.cpu())["main"]

        def program(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [array_of(result).copy() for result in main(*map(tensor_of, arrays), *self.weights)]

        inputs = [port_of(value.name, value) for value in self.graph.inputs]
        return TvmExecutable(program, inputs, [port_of(*item) for item in self.graph.outputs.items()], self.guards)


def _lowered(graph: Graph) -> _Lowered:
    target = load_target("native")
    legal = legalized(graph, target, "tvm")
    lowered = Build(legal, Origins.of(graph), target).lowered(legal)
    module, constants = hoisted(lowered.module)
    module = planned(module, _machine(), lowered.results).module
    kernels: dict[str, tirx.PrimFunc] = {}
    for variable, kernel in module.functions_items():
        if isinstance(kernel, tirx.PrimFunc):
            symbol = str(kernel.attrs["global_symbol"])
            kernels[symbol], module[variable] = kernel, relax.ExternFunc(symbol)
    return _Lowered(graph, module, kernels, constants, lowered.guards)


def _library(kernels: Mapping[str, tirx.PrimFunc]) -> Any:
    module = IRModule({tvm.ir.GlobalVar(symbol): kernel for symbol, kernel in kernels.items()})
    built = generated(module, _machine(), are_checking=False)
    with workspace() as folder:
        written, library = str(folder / "kernels.o"), str(folder / "kernels.so")
        built.write_to_file(written, "o")
        find_linker(load_target("native").architecture)(library, [written])
        return tvm.runtime.load_module(library)


def _machine() -> tvm.target.Target:
    return llvm_target(load_target("native"))
