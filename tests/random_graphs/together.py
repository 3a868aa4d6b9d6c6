"""Graphs that TVM compiles together, which takes a fraction of the time: all their kernels are one module of LLVM's.

Each graph is lowered and planned as in a build, and the kernels' code is what a build writes, but for two things: none
checks its arguments, though those of symbolic sizes do in a build, and no process is started for them. A kernel that
differs from an earlier one in names alone is that one: nearly half of them do after 400 graphs.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

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

from .runtime import Runtime, fed, run_here

_LOG = logging.getLogger(__name__)

Answer = Sequence[Outputs] | str
"""The outputs of a graph on each probe, or why there are none."""


class Here(Runtime):
    """A backend in this process, of which it may be known what it gives at first."""

    def __init__(self, backend: str, first: Answer | None = None) -> None:
        super().__init__(backend)
        self._first = first

    def run(self, graph: Graph, probes: Sequence[Mapping[str, Any]]) -> Answer:
        first, self._first = self._first, None
        if first is None and self.backend == "tvm":
            first = run_together({"": probes}, {"": graph}).get("")
        return run_here(self.backend, print_graph(graph), weights(graph), list(probes)) if first is None else first


def run_together(probes: Mapping[str, Sequence[Mapping[str, Any]]], graphs: Mapping[str, Graph]) -> dict[str, Answer]:
    """What TVM gives for graphs on probes, both by name; those are left out over which it fails."""
    use_threads(1)
    answers: dict[str, Answer] = {}
    lowered: dict[str, _Lowered] = {}
    for name, graph in graphs.items():
        try:
            lowered[name] = _lowered(graph)
        except PlanishError as error:
            answers[name] = str(error)
        except Exception:  # of whatever kind: a build alone will say it
            _LOG.info("graph %s isn't lowered", name, exc_info=True)
    try:
        _compiled().add({symbol: kernel for one in lowered.values() for symbol, kernel in one.kernels.items()})
    except Exception:  # whatever LLVM refuses, one after the other then
        _LOG.info("the graphs aren't compiled together", exc_info=True)
        return answers
    for name, one in lowered.items():
        try:
            executable = one.executable()
            runs = [executable.run(fed(one.graph, probe)) for probe in probes[name]]
            answers[name] = [flattened(dict(zip(one.graph.outputs, run, strict=True))) for run in runs]
        except PlanishError as error:
            answers[name] = str(error)
        except Exception:  # as above
            _LOG.info("graph %s isn't run", name, exc_info=True)
    return answers


@dataclass(frozen=True, slots=True)
class _Lowered:
    """A graph as a Relax module whose kernels are elsewhere, with them by their symbols."""

    graph: Graph
    module: IRModule
    kernels: Mapping[str, tirx.PrimFunc]
    weights: Sequence[Any]
    guards: Guards

    def executable(self) -> TvmExecutable:
        module = self.module.with_attr("external_mods", _compiled().libraries(self.kernels))
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
            symbol = symbol_of(kernel)
            kernels[symbol] = kernel.with_attr("global_symbol", symbol)
            module[variable] = relax.ExternFunc(symbol)
    return _Lowered(graph, module, kernels, constants, lowered.guards)


def symbol_of(kernel: tirx.PrimFunc) -> str:
    """What a kernel is called, whatever it and its parameters were called in a graph."""
    text = kernel.script()
    head = re.search(r"def (\w+)(?:\[(.*)\])?\((.*)\):", text)  # from Python 3.12 on, sizes are in brackets
    assert head is not None
    sizes = [*re.findall(r"\w+", head[2] or ""), *re.findall(r"^\s*(\w+) = T(?:ypeVar|\.int)", text, re.MULTILINE)]
    found = [head[1], *re.findall(r"(\w+): T\.", head[3]), *sizes]
    names = {name: f"name_{index}" for index, name in enumerate(found)}
    return "kernel_" + sha256(re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text).encode()).hexdigest()


class _Compiled:
    """Kernels that were compiled before, each batch of them a library.

    They are kept in the run's cache, if there is one, where processes that come later find them.
    """

    def __init__(self) -> None:
        self._own = TemporaryDirectory(prefix="planish-kernels-")
        self._folder = Path(os.environ.get("PLANISH_CACHE", self._own.name))
        self._paths: dict[str, Path] = {}
        self._loaded: dict[Path, Any] = {}
        self._listed: set[Path] = set()

    def add(self, kernels: Mapping[str, tirx.PrimFunc]) -> None:
        """Compile those of some kernels, by their symbols, that haven't been, by this process or another."""
        for listed in set(self._folder.glob("kernels-*.json")) - self._listed:
            self._paths = dict.fromkeys(json.loads(listed.read_text()), listed.with_suffix(".so")) | self._paths
            self._listed.add(listed)
        new = {symbol: kernel for symbol, kernel in kernels.items() if symbol not in self._paths}
        if not new:
            return
        module = IRModule({tvm.ir.GlobalVar(symbol): kernel for symbol, kernel in new.items()})
        built = generated(module, _machine(), are_checking=False)
        library = self._folder / f"kernels-{uuid4()}.so"
        with workspace() as folder:
            written = str(folder / "kernels.o")
            built.write_to_file(written, "o")
            find_linker(load_target("native").architecture)(str(library), [written])
        (listed := library.with_suffix(".new")).write_text(json.dumps(list(new)))
        listed.replace(library.with_suffix(".json"))
        self._paths |= dict.fromkeys(new, library)

    def libraries(self, symbols: Iterable[str]) -> list[Any]:
        """The libraries that have some kernels."""
        paths = dict.fromkeys(self._paths[symbol] for symbol in symbols)
        for path in paths.keys() - self._loaded.keys():
            self._loaded[path] = tvm.runtime.load_module(str(path))
        return [self._loaded[path] for path in paths]


@cache
def _compiled() -> _Compiled:
    return _Compiled()


def _machine() -> tvm.target.Target:
    return llvm_target(load_target("native"))
