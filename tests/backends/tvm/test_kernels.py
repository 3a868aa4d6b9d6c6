"""What LLVM makes of kernels, for machines that aren't at hand too."""

import re

import pytest

pytest.importorskip("tvm")

import tvm

from planish.backends.tvm.kernels import convolution
from planish.backends.tvm.kernels.convolution import Convolution, convolution_kernel
from planish.backends.tvm.kernels.epilogue import Epilogue, Operand, Reach, Step
from planish.backends.tvm.kernels.gemm import Gemm, best_tile, gemm_kernel
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.windows import Window
from planish.targets import Target
from planish.targets.load import load_target

MACHINES = [
    ("aarch64", "fmla", r"v\d+\.4s"),
    ("x86-64", "addps", "%xmm"),
    ("x86-64-avx2", "vfmadd231ps", "%ymm"),
    ("x86-64-avx512", "vfmadd231ps", "%zmm"),
]


def assembly_of(kernel: tvm.tirx.PrimFunc, target: Target) -> str:
    kind = {"kind": "llvm", "mcpu": target.mcpu, "mtriple": f"{target.architecture}-linux-gnu"}
    module = tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=tvm.target.Target(kind)).mod.inspect_source("asm")


def whole_vectors(assembly: str, add: str, registers: str) -> int:
    """How many instructions there are that add whole vectors."""
    lines = [line for line in assembly.splitlines() if re.search(rf"\b{add}\b", line)]
    return sum(bool(re.search(registers, line)) for line in lines)


@pytest.mark.parametrize(("name", "add", "registers"), MACHINES)
def test_products_are_of_whole_vectors_and_call_no_library(name: str, add: str, registers: str) -> None:
    target = load_target(name)
    machine, gemm = Machine.of(target), Gemm((64,), 32, 96)
    epilogue = Epilogue((), (Step("Gelu", (), (0,)), Step("Tanh", (), (1,))))
    kernel = gemm_kernel(gemm, best_tile(gemm, machine), machine, epilogue)
    assembly, tile = assembly_of(kernel, target), best_tile(gemm, machine)
    assert whole_vectors(assembly, add, registers) >= tile.rows * len(tile.vectors)
    assert not re.search(r"\b(erff|expf|tanhf)\b", assembly)


@pytest.mark.parametrize(("name", "add", "registers"), MACHINES)
def test_sums_of_convolutions_stay_in_registers(name: str, add: str, registers: str) -> None:
    """Tiles of the middle and of both edges; memory for sums would be taken from the workspace."""
    target = load_target(name)
    machine = Machine.of(target)
    window = Window((20, 60), (20, 60), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    sizes = Convolution(1, 64, 64, 1, 64, window, machine.lanes)
    epilogue = Epilogue((Operand(Reach.ELEMENTS),), (Step("Add", (), (0, 1)), Step("Relu", (), (2,))))
    assembly, tile = (
        assembly_of(convolution_kernel(sizes, machine, epilogue), target),
        convolution.best_tile(sizes, machine),
    )
    assert whole_vectors(assembly, add, registers) >= 3 * 2 * tile.columns * tile.blocks
    assert "Workspace" not in assembly
