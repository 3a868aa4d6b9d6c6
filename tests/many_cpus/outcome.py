"""What becomes of a graph on a CPU: whether it compiles, what its library consists of, and what that computes."""

import importlib
import pkgutil
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from planish.backends import find_backend
from planish.backends.artifact import write_artifact
from planish.backends.base import CompilerWarning
from planish.backends.legal import legalized
from planish.backends.tvm import kernels
from planish.backends.tvm.relax.lowering import to_relax
from planish.ir.interpreter import Interpreter
from planish.passes.legalization.origins import Origins
from planish.targets import Target

from . import runner
from .case import Case
from .cases import cases
from .descriptions import Description
from .emulators import Emulators, Runner
from .machine_code import instructions

_CALLED = "__tvm_ffi_"
"""The prefix of the names of functions that TVM calls."""
ALWAYS = frozenset(("fp", "asimd"))
"""What every AArch64 machine that runs Linux has."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one graph.

    Attributes:
        kernels: the templates that were asked for.
        compiled: the number of the library's functions that are called from outside: kernels, and TVM's `main`.
        instructions: the number of the library's instructions.
        used: the flags that the instructions need.
        foreign: the instructions that the CPU hasn't, as text.
        refusal: why there is no library.
        faults: how results differ from the interpreter's; None where nothing ran.
        where: the machine or emulator where it ran, or why it didn't run.
    """

    kernels: frozenset[str] = frozenset()
    compiled: int = 0
    instructions: int = 0
    used: frozenset[str] = frozenset()
    foreign: tuple[str, ...] = ()
    refusal: str = ""
    faults: tuple[str, ...] | None = None
    where: str = ""


def built(case: Case, target: Target, flags: frozenset[str], folder: Path) -> Outcome:
    """What a target's library for a case consists of; it is left in the folder.

    Args:
        case: the case to build.
        target: the target to build for.
        flags: the flags that the CPU has.
        folder: the folder to write to.
    """
    graph = case.graph()
    for template in templates().values():
        template.cache_clear()
    try:
        to_relax(legalized(graph, target, "tvm"), Origins.of(graph), target)  # here, where it is seen what it asks for
        with warnings.catch_warnings():
            warnings.simplefilter("error", CompilerWarning)
            write_artifact(folder / "artifact", graph, find_backend("tvm"), target)
    except Exception as error:  # all of them are findings
        return Outcome(refusal=" ".join(str(error).split()) or type(error).__name__)
    asked = frozenset(name for name, template in templates().items() if template.cache_info().misses)
    count, used, foreign, functions = 0, set[str](), list[str](), set[str]()
    for function, text, needed in instructions(folder / "artifact" / "model.so"):
        count += 1
        functions.add(function)
        used |= needed
        if missing := needed - flags - ALWAYS:
            foreign.append(f"{function}: {text} needs {', '.join(sorted(missing))}")
    compiled = sum(function.startswith(_CALLED) for function in functions)
    return Outcome(asked, compiled, count, frozenset(used), tuple(foreign))


def ran(
    names: Sequence[str], cpu: Description, used: frozenset[str], emulators: Emulators, folder: Path
) -> Mapping[str, Outcome]:
    """What the libraries of some cases compute, by name, where anything runs them.

    Args:
        names: the names of the cases, each of which has its artifact in a folder of its name.
        cpu: the CPU that the libraries are for.
        used: the flags that their instructions need.
        emulators: the emulators at hand.
        folder: the folder with the cases' folders.
    """
    chosen = emulators.runner(cpu.architecture, used, cpu.flags)
    if not isinstance(chosen, Runner):
        return {name: Outcome(where=chosen) for name in names}
    cpuinfo = folder / "cpuinfo"
    cpuinfo.write_text(cpu.text, encoding="utf-8")
    for name in names:
        np.savez(folder / name / "feeds.npz", **cases()[name].feeds)
    said = chosen.run(Path(runner.__file__), [str(folder / name) for name in names], cpuinfo)
    return {name: Outcome(faults=_faults(name, folder / name, said), where=chosen.name) for name in names}


def _faults(name: str, folder: Path, said: str) -> tuple[str, ...]:
    file = folder / "results.npz"
    if not file.is_file():
        return (said or "it gave nothing",)
    with np.load(file) as results:
        return tuple(cases()[name].differences(expected(name), dict(results)))


@cache
def expected(name: str) -> Mapping[str, np.ndarray]:
    """What the interpreter gives."""
    case = cases()[name]
    return Interpreter(case.graph()).run(case.feeds)


@cache
def templates() -> Mapping[str, Any]:
    """The functions that write kernels, by name: those of the package whose name says so."""
    modules = (
        importlib.import_module(f"{kernels.__name__}.{found.name}") for found in pkgutil.iter_modules(kernels.__path__)
    )
    functions = ((name, value) for module in modules for name, value in vars(module).items())
    return {name: value for name, value in functions if name.endswith("_kernel") and hasattr(value, "cache_info")}


def cleared(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
