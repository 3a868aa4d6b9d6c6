"""What the CPU's arithmetic can do: loops of multiply-adds on as many registers as products use, in each thread."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import IRModule
from tvm import compile as compile_kernel
from tvm.runtime import tensor
from tvm.script.ir_builder import tirx as T
from tvm.tirx import const

from planish.backends.tvm.kernels.instructions.bf16_dot import BF16_DOT
from planish.backends.tvm.kernels.instructions.int8_dot import Int8Dot
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.prim_func import argument, kernel
from planish.backends.tvm.kernels.vectors import cast, ramp, spread
from planish.backends.tvm.llvm import llvm_target
from planish.targets.load import load_target

STEPS = 1 << 16
"""The number of steps of a loop."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """An instruction that adds products to a vector of sums.

    Attributes:
        factors: the element type of the factors as they are held: of 32 bits, or a part of these.
        sums: the element type of the sums.
        products: the number of products that go into each sum.
        multiply_add: emits the instruction for sums and factors.
    """

    factors: str
    sums: str
    products: int
    multiply_add: Callable[[Any, Any], Any]


ARITHMETIC = {
    "float32": Arithmetic("float32", "float32", 1, lambda sums, factors: sums * factors + factors),
    "bfloat16": Arithmetic("int32", "float32", 2, lambda sums, factors: BF16_DOT.multiply_add(sums, factors, factors)),
}


def integers(machine: Machine) -> Arithmetic:
    """The instruction that the machine multiplies 8-bit integers with, where weights are small."""
    dots = Int8Dot.of(machine, np.zeros((16, 16), np.int8))

    def multiply_add(sums: Any, factors: Any) -> Any:
        left = T.reinterpret(sums, dtype=str(factors.ty.dtype))  # or LLVM would multiply once, before the loop
        return dots.multiply_add(sums, left, cast(factors, dots.rhs_dtype))

    return Arithmetic("int8", "int32", dots.k_per_instruction, multiply_add)


def peak(precision: str, threads: int) -> tuple[Callable[[], object], int]:
    """A loop, and the operations in it: two for each product."""
    target = replace(load_target("native"), threads=threads)
    machine = Machine.of(target)
    found = integers(machine) if precision == "int8" else ARITHMETIC[precision]
    lanes, sums = machine.lanes, machine.registers * 3 // 4
    width = lanes * 4 // np.dtype(found.factors).itemsize

    @kernel
    def loop(machine: Machine) -> None:
        x, y = argument("x", (threads, width), found.factors), argument("y", (threads, sums * lanes), found.sums)
        with T.parallel(0, threads) as thread:
            held = T.alloc_buffer((sums * lanes,), found.sums)
            places = [ramp(index * lanes, lanes) for index in range(sums)]
            for place in places:
                T.buffer_store(held, spread(const(0, found.sums), lanes), [place])
            factors = x[thread, ramp(0, width)]
            with T.serial(0, STEPS):
                for place in places:
                    T.buffer_store(held, found.multiply_add(held[place], factors), [place])
            for place in places:
                T.buffer_store(y, held[place], [thread, place])

    main = loop(machine).with_attr("global_symbol", "main")
    run = compile_kernel(IRModule({"main": main}), target=llvm_target(target))["main"]
    arrays = tensor(np.zeros((threads, width), found.factors)), tensor(np.zeros((threads, sums * lanes), found.sums))
    return lambda: run(*arrays), 2 * STEPS * threads * sums * lanes * found.products
