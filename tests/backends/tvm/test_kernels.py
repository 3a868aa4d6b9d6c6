"""What LLVM makes of kernels, for machines that aren't at hand too."""

import re

import pytest

pytest.importorskip("tvm")

import tvm

from planish.backends.tvm.kernels.epilogue import Epilogue, Step
from planish.backends.tvm.kernels.gemm import Gemm, best_tile, gemm_kernel
from planish.backends.tvm.kernels.machine import Machine
from planish.targets.load import load_target


@pytest.mark.parametrize(
    ("name", "add", "registers"),
    [
        ("aarch64", "fmla", r"v\d+\.4s"),
        ("x86-64", "addps", "%xmm"),
        ("x86-64-avx2", "vfmadd231ps", "%ymm"),
        ("x86-64-avx512", "vfmadd231ps", "%zmm"),
    ],
)
def test_products_are_of_whole_vectors_and_call_no_library(name: str, add: str, registers: str) -> None:
    target = load_target(name)
    machine, gemm = Machine.of(target), Gemm((64,), 32, 96)
    epilogue = Epilogue((), (Step("Gelu", (), (0,)), Step("Tanh", (), (1,))))
    kernel = gemm_kernel(gemm, best_tile(gemm, machine), machine, epilogue).with_attr("global_symbol", "main")
    kind = {"kind": "llvm", "mcpu": target.mcpu, "mtriple": f"{target.architecture}-linux-gnu"}
    assembly = tvm.compile(tvm.IRModule({"main": kernel}), target=tvm.target.Target(kind)).mod.inspect_source("asm")
    lines = [line for line in assembly.splitlines() if re.search(rf"\b{add}\b", line)]
    tile = best_tile(gemm, machine)
    assert sum(bool(re.search(registers, line)) for line in lines) >= tile.rows * len(tile.vectors)
    assert not re.search(r"\b(erff|expf|tanhf)\b", assembly)
