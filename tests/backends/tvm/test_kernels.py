"""What LLVM makes of kernels, for machines that aren't at hand too."""

import re

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm

from planish.backends.tvm.kernels import convolution
from planish.backends.tvm.kernels.attention import Attention, attention_kernel
from planish.backends.tvm.kernels.convolution import Convolution, convolution_kernel
from planish.backends.tvm.kernels.epilogue import Broadcast, Epilogue, Operand, PostOp, elementwise_kernel
from planish.backends.tvm.kernels.gemm import Gemm, Matrix, gemm_kernel, tiles
from planish.backends.tvm.kernels.instructions.bf16_dot import BF16_DOT
from planish.backends.tvm.kernels.instructions.int8_dot import Int8Dot
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.windows import Window
from planish.backends.tvm.llvm import llvm_target
from planish.targets import Target
from planish.targets.load import load_target

MACHINES = [
    ("aarch64", "fmla", r"v\d+\.4s"),
    ("x86-64", "addps", "%xmm"),
    ("x86-64-avx2", "vfmadd231ps", "%ymm"),
    ("x86-64-avx512", "vfmadd231ps", "%zmm"),
]


def assembly_of(kernel: tvm.tirx.PrimFunc, target: Target) -> str:
    module = tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=llvm_target(target)).mod.inspect_source("asm")


def whole_vectors(assembly: str, add: str, registers: str) -> int:
    """How many instructions there are that add whole vectors."""
    lines = [line for line in assembly.splitlines() if re.search(rf"\b{add}\b", line)]
    return sum(bool(re.search(registers, line)) for line in lines)


@pytest.mark.parametrize(("name", "add", "registers"), MACHINES)
def test_products_are_of_whole_vectors_and_call_no_library(name: str, add: str, registers: str) -> None:
    target = load_target(name)
    machine, gemm = Machine.of(target), Gemm((64,), 32, 96)
    epilogue = Epilogue((), (PostOp("Gelu", (), (0,)), PostOp("Tanh", (), (1,))))
    tile = tiles(gemm, machine)[0]
    assembly = assembly_of(gemm_kernel(gemm, tile, machine, epilogue), target)
    assert whole_vectors(assembly, add, registers) >= tile.rows * len(tile.vectors)
    assert not re.search(r"\b(erff|expf|tanhf)\b", assembly)


@pytest.mark.parametrize(("name", "add", "registers"), MACHINES)
def test_sums_of_convolutions_stay_in_registers(name: str, add: str, registers: str) -> None:
    """Tiles of the middle and of both edges; memory for sums would be taken from the workspace."""
    target = load_target(name)
    machine = Machine.of(target)
    window = Window((20, 60), (20, 60), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    sizes = Convolution(1, 64, 64, 1, 64, window, machine.lanes)
    epilogue = Epilogue((Operand(Broadcast.ELEMENTS),), (PostOp("Add", (), (0, 1)), PostOp("Relu", (), (2,))))
    tile = convolution.tiles(sizes, machine)[0]
    assembly = assembly_of(convolution_kernel(sizes, tile, machine, epilogue), target)
    assert whole_vectors(assembly, add, registers) >= 3 * 2 * tile.columns * tile.blocks
    assert "Workspace" not in assembly


@pytest.mark.parametrize("name", [*(name for name, *_ in MACHINES), "x86-64-avx512-bf16"])
def test_rounding_calls_no_library(name: str) -> None:
    target = load_target(name)
    rounding = Epilogue((Operand(Broadcast.ELEMENTS),), (PostOp("Cast", (), (1,)),), "bfloat16")
    assembly = assembly_of(elementwise_kernel((63, 51), rounding, Machine.of(target)), target)
    assert "truncsfbf2" not in assembly
    assert ("vcvtneps2bf16" in assembly) == ("avx512_bf16" in target.features)


@pytest.mark.parametrize("depth", [32, 33])
def test_products_of_bfloat16_are_of_pairs(depth: int) -> None:
    target = load_target("x86-64-avx512-bf16")
    machine, gemm = Machine.of(target), Gemm((64,), depth, 96, instruction=BF16_DOT)
    tile = tiles(gemm, machine)[0]
    assembly = assembly_of(gemm_kernel(gemm, tile, machine, Epilogue((), (PostOp("Cast", (), (0,)),))), target)
    assert whole_vectors(assembly, "vdpbf16ps", "%zmm") >= tile.rows * len(tile.vectors) * (1 + depth % 2)
    assert "vfmadd" not in assembly


def test_attention_multiplies_bfloat16_in_pairs() -> None:
    target = load_target("x86-64-avx512-bf16")
    sizes = Attention(1, 64, 64, 2, 1, 64, 64, is_flat=True, is_causal=False, scale=0.125, dtype="bfloat16")
    assembly = assembly_of(attention_kernel(sizes, Machine.of(target)), target)
    assert whole_vectors(assembly, "vdpbf16ps", "%zmm") >= 8 + 16


def loops_of(assembly: str) -> list[list[str]]:
    """The instructions of each loop that has none within: what lies between a label and the branch back to it."""
    lines = [line.split("//")[0].strip() for line in assembly.splitlines()]
    starts = {line[:-1]: place for place, line in enumerate(lines) if line.endswith(":")}
    jumps = [(starts.get(line.split()[-1], place), place) for place, line in enumerate(lines) if line.startswith("b")]
    loops = [lines[start + 1 : end] for start, end in jumps if start < end]
    return [loop for loop in loops if not any(line.endswith(":") for line in loop)]


def count(loop: list[str], *names: str) -> int:
    return sum(line.split()[0] in names for line in loop if line)


def test_products_of_bytes_pick_numbers_out_of_vectors_on_aarch64() -> None:
    """16 bytes of a row are loaded and shifted once for four steps, and nothing is moved or spilled in the loop."""
    target = load_target("aarch64-dotprod")
    machine = Machine.of(target)
    gemm = Gemm((128,), 768, 768, instruction=Int8Dot.of(machine, np.zeros((768, 768), np.int8)))
    tile = tiles(gemm, machine)[0]
    kernel = gemm_kernel(gemm, tile, machine, Epilogue(), Matrix(has_offsets=True, is_scaled=True))
    (loop,) = [loop for loop in loops_of(assembly_of(kernel, target)) if count(loop, "sdot")]
    vectors = len(tile.vectors)
    assert all(re.search(r"sdot\s+v\d+\.4s, v\d+\.16b, v\d+\.4b\[[0-3]\]", line) for line in loop if "sdot" in line)
    assert count(loop, "sdot") == 4 * tile.rows * vectors
    assert count(loop, "ldr") + 2 * count(loop, "ldp") == tile.rows + 4 * vectors
    assert count(loop, "eor") == tile.rows
    assert len(loop) <= count(loop, "sdot", "ldr", "ldp", "eor") + 4  # places and a count
    assert not any("sp" in line for line in loop)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_of_bytes_multiply_four_channels_at_once_on_aarch64(stride: int) -> None:
    target = load_target("aarch64-dotprod")
    machine = Machine.of(target)
    instruction = Int8Dot.of(machine, np.zeros((3, 3, 128), np.int8))
    image, result = (28 * stride, 28 * stride), (28, 28)
    window = Window(image, result, (3, 3), (stride, stride), (1, 1), (1, 1), (1, 1))
    sizes = Convolution(1, 128, 128, 1, 128, window, 4, instruction, has_offsets=True, dtype="uint8")
    tile = convolution.tiles(sizes, machine)[0]
    assembly = assembly_of(convolution_kernel(sizes, tile, machine, Epilogue()), target)
    loops = [loop for loop in loops_of(assembly) if count(loop, "sdot")]
    assert max(count(loop, "sdot") for loop in loops) == tile.columns * tile.blocks
    assert min(count(loop, "sdot") for loop in loops) == (tile.columns - 1) * tile.blocks
    for loop in loops:
        assert not count(loop, "dup", "mul", "mla", "smull", "smlal", "fmla")
        assert count(loop, "eor") == (-(-tile.columns // 4) if stride == 1 else count(loop, "sdot") // tile.blocks)
