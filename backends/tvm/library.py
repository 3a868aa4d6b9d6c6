# TVM's annotations are wrong in places: sequences where it says expressions, fields that it doesn't mention.
# pyright: reportArgumentType=none, reportAttributeAccessIssue=none
"""From a Relax module to a shared library, kernel by kernel: what was compiled before comes from a cache.

A kernel's symbol says what it computes, by a hash of its TIR, the target and TVM's version: equal kernels of any models are
compiled once.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import tvm
from tvm import IRModule, relax, tirx
from tvm.runtime import load_static_library
from tvm.target import Target, codegen

from .kernel_cache import KernelCache
from .reproducible import ordered_symbols, pipeline


def planned(module: IRModule, target: Target) -> IRModule:
    """A module after TVM's passes: with memory planned, a kernel behind every call, and a symbol for each kernel."""
    with target, ordered_symbols():
        module = pipeline()(module)
    for variable, kernel in _kernels(module).items():
        bare = kernel.without_attr("global_symbol")
        name = variable.name_hint.rstrip("0123456789")
        module[variable] = bare.with_attr("global_symbol", f"{name}_{_digest(bare, target)}")
    return module


def symbols(module: IRModule) -> list[str]:
    """The kernels of a module that was planned."""
    return sorted({_symbol(kernel) for kernel in _kernels(module).values()})


def link(module: IRModule, target: Target, cache: KernelCache) -> tvm.runtime.Executable:
    """What runs a module that was planned; kernels that the cache hasn't are compiled side by side.

    Raises:
        Exception: what TVM's passes and LLVM raise.
    """
    kernels = _kernels(module)
    by_symbol = {_symbol(kernel): kernel for kernel in kernels.values()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compile_one = partial(_object_file, target=target, cache=cache)
        files = dict(zip(by_symbol, pool.map(compile_one, by_symbol.values()), strict=True))
    linked = module.clone()
    for variable, kernel in kernels.items():
        linked[variable] = relax.ExternFunc(_symbol(kernel))
    libraries = [load_static_library(str(path), [symbol]) for symbol, path in files.items()]
    return relax.build(linked.with_attr("external_mods", libraries), target=target, relax_pipeline=None)


def _object_file(kernel: tirx.PrimFunc, target: Target, cache: KernelCache) -> Path:
    symbol = _symbol(kernel)

    def compile(path: Path) -> None:
        module = IRModule({tvm.ir.GlobalVar(symbol): kernel})
        tvm.tirx.build(module, target=target).write_to_file(str(path), "o")

    return cache.object_file(symbol, compile)


def _kernels(module: IRModule) -> Mapping[Any, tirx.PrimFunc]:
    return {variable: found for variable, found in module.functions_items() if isinstance(found, tirx.PrimFunc)}


def _symbol(kernel: tirx.PrimFunc) -> str:
    return str(kernel.attrs["global_symbol"])


def _digest(kernel: tirx.PrimFunc, target: Target) -> str:
    versions = f"{tvm.__version__} {codegen.llvm_version_major()}"
    return sha256(f"{versions}\n{target}\n{kernel.script()}".encode()).hexdigest()[:24]
