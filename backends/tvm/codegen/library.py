"""The making of a shared library from a Relax module, kernel by kernel, with a cache of compiled kernels.

A kernel's symbol says what it computes, by a hash of its TIR, the target and TVM's version, so that equal kernels of
any models are compiled once.
"""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import tvm
from tvm import IRModule, relax, tirx
from tvm.runtime import Module, load_static_library
from tvm.target import Target, codegen

from ....ir.drafts import workspace
from ....ir.files import file_in_memory
from ..compat import ordered_symbols
from .kernel_cache import KernelCache
from .reproducible import legalization, pipeline

Tell: TypeAlias = Callable[[str, bool], None]
"""A function that is told what a compiler works on: a name, and whether that begins or has ended."""
_NEEDLESS = (
    *("s_tir.HoistIfThenElse", "tirx.RemoveNoOp"),
    *("s_tir.InferFragment", "s_tir.InjectDoubleBuffer", "s_tir.InjectPermutedLayout", "s_tir.InjectSoftwarePipeline"),
    *("s_tir.InjectVirtualThread", "s_tir.LiftThreadBinding", "s_tir.LowerAutoCopy", "s_tir.LowerCrossThreadReduction"),
    *("s_tir.LowerThreadAllreduce", "s_tir.LowerVtcmAlloc", "s_tir.ManifestSharedMemoryLocalStage"),
    *("s_tir.MergeSharedMemoryAllocations", "s_tir.ThreadSync", "s_tir.TransformMmaBufferLayout"),
    *("s_tir.UnifyThreadBinding", "s_tir.VerifyVTCMLimit"),
)
"""Passes of TVM's that take a sixth of the time: the first do what LLVM does again, and the others are for GPUs.

Kernels are the same to the byte without them.
"""
_CALLING = tuple(tvm.ir.Op.get(f"relax.{name}") for name in ("call_tir", "call_tir_inplace"))


@dataclass(frozen=True, slots=True)
class Planned:
    """A module after TVM's passes: with memory planned, a kernel behind every call, and a symbol for each kernel.

    Attributes:
        module: the kernels, and a `main` that calls them.
        results: the names of what each kernel is called for, by its symbol, in order.
    """

    module: IRModule
    results: Mapping[str, Sequence[str]]


def planned(module: IRModule, target: Target, results: Mapping[str, str] = MappingProxyType({})) -> Planned:
    """Run TVM's passes over a module.

    Args:
        module: the module as it was lowered.
        target: the target to compile for.
        results: the names of what the variables of `main` are for, by these variables' names.
    """
    with target, ordered_symbols():
        legal = legalization()(module)
        module = pipeline()(legal)
    symbols: dict[str, str] = {}
    for variable, kernel in _kernels(module).items():
        bare = kernel.without_attr("global_symbol")
        name = variable.name_hint.rstrip("0123456789")
        symbols[variable.name_hint] = f"{name}_{_digest(bare, target)}"
        module[variable] = bare.with_attr("global_symbol", symbols[variable.name_hint])
    found: dict[str, list[str]] = {symbol: [] for symbol in sorted(symbols.values())}
    for variable, kernel in _calls(legal["main"]):
        if kernel in symbols and variable in results:
            found[symbols[kernel]].append(results[variable])
    return Planned(module, found)


def _calls(function: tvm.ir.BaseFunc) -> Iterator[tuple[str, str]]:
    """Yield the variables of a function that kernels compute, and the kernels, by name."""
    assert isinstance(function, relax.Function)
    for binding in (binding for block in function.body.blocks for binding in block.bindings):
        call = binding.value if isinstance(binding, relax.VarBinding) else None
        if isinstance(call, relax.Call) and call.op in _CALLING and isinstance(call.args[0], tvm.ir.GlobalVar):
            yield binding.var.name, call.args[0].name_hint


def link(
    module: IRModule, target: Target, cache: KernelCache, *, jobs: int | None = None, tell: Tell = lambda *_: None
) -> tuple[tvm.runtime.Executable, int]:
    """Link a planned module; return the executable, and the bytes of its kernels.

    Kernels that aren't in the cache are compiled side by side.

    Args:
        module: the planned module.
        target: the target to compile for.
        cache: the cache of kernels.
        jobs: how many kernels are compiled side by side; as many as there are cores by default.
        tell: called for each kernel before it is compiled, and after.

    Raises:
        Exception: what TVM's passes and LLVM raise.
    """
    kernels = _kernels(module)
    by_symbol = {_symbol(kernel): kernel for kernel in kernels.values()}
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        compile_one = partial(_object_file, target=target, cache=cache, tell=tell)
        contents = dict(zip(by_symbol, pool.map(compile_one, by_symbol.values()), strict=True))
    linked = module.clone()
    for variable, kernel in kernels.items():
        linked[variable] = relax.ExternFunc(_symbol(kernel))
    libraries = [_static_library(symbol, content) for symbol, content in contents.items()]
    executable = relax.build(linked.with_attr("external_mods", libraries), target=target, relax_pipeline=None)
    return executable, sum(map(len, contents.values()))


def _object_file(kernel: tirx.PrimFunc, target: Target, cache: KernelCache, tell: Tell) -> bytes:
    symbol = _symbol(kernel)

    def compile() -> bytes:
        tell(symbol, True)
        module = IRModule({tvm.ir.GlobalVar(symbol): kernel})
        built = generated(module, target, are_checking=not _is_static(kernel))
        with _lent_file() as path:
            built.write_to_file(str(path), "o")
            content = path.read_bytes()
        tell(symbol, False)
        return content

    return cache.kernel(symbol, compile)


def generated(kernels: IRModule, target: Target, *, are_checking: bool) -> Module:
    """Generate the machine code of planned kernels.

    Args:
        kernels: the kernels.
        target: the target to compile for.
        are_checking: whether the kernels check their own arguments, which is half of the code of most.

    Raises:
        Exception: what TVM's passes and LLVM raise.
    """
    with tvm.transform.PassContext(config={"tirx.disable_assert": not are_checking}, disabled_pass=_NEEDLESS):
        try:
            return tvm.tirx.build(kernels, target=target)
        except Exception:  # LLVM refuses what its own optimizations wrote; what TVM itself refuses, it refuses again
            return tvm.tirx.build(kernels, target=_with_fewer_optimizations(target))


def _is_static(kernel: tirx.PrimFunc) -> bool:
    """Whether all sizes of a kernel's arguments are fixed.

    Then it need not check them: inputs and weights are held to the types of `main` before anything runs, and memory
    between kernels is planned for its type. Symbolic sizes may turn out not to agree where two tensors meet.
    """
    buffers = [each for each in kernel.params if isinstance(each.ty, tirx.BufferType)]
    sizes = (size for buffer in buffers for size in buffer.shape)
    return len(buffers) == len(kernel.params) and all(isinstance(size, tirx.IntImm) for size in sizes)


def _static_library(symbol: str, content: bytes) -> Module:
    with _lent_file() as path:
        path.write_bytes(content)
        return load_static_library(str(path), [symbol])


@contextmanager
def _lent_file() -> Generator[Path]:
    """Open a file in memory, if the system lends one: LLVM ends its process when it writes to a full disk."""
    if (lent := file_in_memory("kernel")) is not None:
        with lent[0]:
            yield lent[1]
    else:
        with workspace() as folder:
            yield folder / "kernel.o"


def _with_fewer_optimizations(target: Target) -> Target:
    """Return a target for which LLVM leaves out the boldest optimizations, those of its level 3."""
    return Target({**target.export(), "opt-level": 2})


def _kernels(module: IRModule) -> Mapping[tvm.ir.GlobalVar, tirx.PrimFunc]:
    return {variable: found for variable, found in module.functions_items() if isinstance(found, tirx.PrimFunc)}


def _symbol(kernel: tirx.PrimFunc) -> str:
    return str(kernel.attrs["global_symbol"])


def _digest(kernel: tirx.PrimFunc, target: Target) -> str:
    versions = f"{tvm.__version__} {codegen.llvm_version_major()} {_is_static(kernel)}"
    return sha256(f"{versions}\n{target}\n{kernel.script()}".encode()).hexdigest()[:24]
