"""What products gain in TVM from blocks of weights that are zero: the source of the sparse figures in `costs.py`.

    python benchmarks/sparse_kernels.py [gemm|conv|densities] [threads]

The kernels that planish takes for weights whose blocks of 4x16 (int8) or 1x16 (float32) are zero at random run in turn
with the dense ones; each time is the fastest of many turns. Results of integers must be equal to the last bit. `gemm`
has the shapes of BERT-base, MiniLM and ResNet-50's convolutions of one tap at 1, 32 and 128 rows, `conv` the latter on
their images, with results in bytes, as in a quantized network. `densities` says from which share of zeros on a sparse
kernel is faster.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from turns import in_turns
from tvm import IRModule, tirx
from tvm.runtime import Tensor, tensor

from planish.backends.tvm.kernels import convolution
from planish.backends.tvm.kernels.convolution import Convolution, convolution_kernel, prepared
from planish.backends.tvm.kernels.epilogue import Epilogue, PostOp
from planish.backends.tvm.kernels.gemm import Gemm, Matrix, gemm_kernel, packed, tiles
from planish.backends.tvm.kernels.instructions.base import FMA
from planish.backends.tvm.kernels.instructions.int8_dot import Int8Dot
from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.sparse_gemm import (
    SparseMatrix,
    SparseTile,
    compressed,
    mean_held_blocks,
    sparse_tiles,
)
from planish.backends.tvm.kernels.windows import Window
from planish.backends.tvm.llvm import llvm_target
from planish.targets import Target
from planish.targets.load import load_target

GEMMS = {
    "BERT-base": [(768, 768), (768, 3072), (3072, 768)],
    "MiniLM": [(384, 384), (384, 1536), (1536, 384)],
    "ResNet-50": [(64, 256), (256, 64), (512, 128), (256, 1024), (1024, 256), (512, 2048), (2048, 512)],
}
IMAGES = [(64, 256, 56), (256, 64, 56), (128, 512, 28), (512, 128, 28), (256, 1024, 14), (1024, 256, 14),
          (512, 2048, 7), (2048, 512, 7)]  # fmt: skip
"""Channels, filters, and rows and columns of the images."""
ROWS = [1, 32, 128]
ZEROS = [0.8, 0.9]
SECONDS = 1.0
"""The least seconds for which the kernels of a shape run in turn."""
TURNS = 20
"""The least turns of each kernel."""
BYTES = Epilogue(
    (), (PostOp("QuantizeLinear", (("limits", (0, 255)), ("scale", 0.5), ("zero_point", 9)), (0,)),), "uint8"
)
"""What follows a product in a quantized network."""
RNG = np.random.default_rng(0)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A compiled kernel and its arguments, the result last."""

    module: tvm.runtime.Module
    arguments: Sequence[Tensor]

    @classmethod
    def of(cls, kernel: tirx.PrimFunc, target: Target, arguments: Sequence[np.ndarray]) -> "Kernel":
        module = tvm.compile(IRModule({"main": kernel.with_attr("global_symbol", "main")}), target=llvm_target(target))
        held = [tensor(np.ascontiguousarray(array)) for array in arguments]
        module["main"](*held)
        return cls(module.mod, held)

    @property
    def result(self) -> np.ndarray:
        return self.arguments[-1].numpy()

    def timer(self) -> Callable[[], float]:
        """Return a function that gives the seconds of a call, averaged over about 0.2 ms of them."""
        once = self.module.time_evaluator("main", tvm.cpu(), number=10)(*self.arguments).min
        timed = self.module.time_evaluator("main", tvm.cpu(), number=max(int(2e-4 / once), 1))
        return lambda: timed(*self.arguments).min


def zeroed(weights: np.ndarray, share: float, rows: int, columns: int) -> np.ndarray:
    """Weights `[K, N]` of whose blocks a share is set to zero."""
    mask = RNG.random((len(weights) // rows, -(-weights.shape[1] // columns))) >= share
    return weights * np.kron(mask, np.ones((rows, columns), weights.dtype))[:, : weights.shape[1]].astype(weights.dtype)


def gemm(m: int, shape: tuple[int, int], shares: Sequence[float], target: Target, dtype: str) -> str:
    """A line with the dense kernel's time and the speed-ups of the sparse ones."""
    machine, (k, n), is_integer = Machine.of(target), shape, dtype == "int8"
    weights = RNG.integers(1, 128, shape).astype(np.int8) if is_integer else RNG.standard_normal(shape, np.float32)
    instruction = Int8Dot.of(machine, weights.T) if is_integer else FMA
    x = RNG.integers(0, 256, (m, k)).astype(np.uint8) if is_integer else RNG.standard_normal((m, k), np.float32)
    beside = [RNG.integers(-999, 999, n).astype(np.int32)] if is_integer else []
    epilogue, matrix = Epilogue(), Matrix(has_offsets=is_integer, is_scaled=is_integer)
    if is_integer:
        beside.append(np.full(n, 1 / 64 / k, np.float32))
        epilogue = BYTES
    sizes, y = Gemm((m,), k, n, instruction=instruction), np.zeros((m, n), epilogue.dtype)

    def made(tile: SparseTile | None, kept: np.ndarray) -> Kernel:
        if tile is None:
            plain = tiles(sizes, machine)[0]
            kernel = gemm_kernel(sizes, plain, machine, epilogue, matrix)
            return Kernel.of(kernel, target, [x, packed(kept, plain, instruction), *beside, y])
        right = SparseMatrix.of(matrix, mean_held_blocks(kept, tile, instruction))
        kernel = gemm_kernel(sizes, tile, machine, epilogue, right)
        return Kernel.of(kernel, target, [x, *compressed(kept, tile, instruction), *beside, y])

    return _line(
        f"{dtype} {m:>3} x {k} x {n}",
        [zeroed(weights, share, instruction.k_per_instruction, machine.lanes) for share in shares],
        made,
        lambda kept: next(iter(sparse_tiles(sizes, kept, machine)), None),
        shares,
    )


def conv(case: tuple[int, int, int], shares: Sequence[float], target: Target) -> str:
    """The same for a convolution of one tap."""
    machine, (channels, filters, size) = Machine.of(target), case
    weights = RNG.integers(1, 128, (channels, filters)).astype(np.int8)
    window, lanes = Window.points((size, size)), machine.lanes
    instruction = Int8Dot.of(machine, weights.T)
    sizes = Convolution(1, channels, filters, 1, channels, window, lanes, instruction, dtype="uint8")
    x = RNG.integers(0, 256, (1, channels // lanes, size, size, lanes)).astype(np.uint8)
    rows = [np.zeros(filters, np.float32), np.full(filters, 1 / 64 / channels, np.float32)]
    y = np.zeros((1, filters // lanes, size, size, lanes), np.uint8)

    def made(tile: convolution.SparseTile | None, kept: np.ndarray) -> Kernel:
        way = convolution.tiles(sizes, machine)[0] if tile is None else tile
        kernel, filled = convolution_kernel(sizes, way, machine, BYTES), kept.T[:, :, None, None]
        return Kernel.of(kernel, target, [x, *prepared(filled, sizes, way, machine), *rows, y])

    return _line(
        f"int8 {channels} -> {filters}, {size} x {size}",
        [zeroed(weights, share, instruction.k_per_instruction, lanes) for share in shares],
        made,
        lambda kept: next(iter(convolution.sparse_tiles(sizes, kept.T[:, :, None, None], machine)), None),
        shares,
    )


def _line(
    name: str,
    weights: Sequence[np.ndarray],
    made: Callable[..., Kernel],
    tile_of: Callable[[np.ndarray], SparseTile | convolution.SparseTile | None],
    shares: Sequence[float],
) -> str:
    dense, *sparse = [made(None, weights[0]), *(made(tile_of(kept), kept) for kept in weights)]
    for kernel, kept in zip(sparse, weights, strict=True):
        np.testing.assert_allclose(kernel.result, made(None, kept).result, rtol=0, atol=0 if "int8" in name else 1e-3)
    timers = [kernel.timer() for kernel in (dense, *sparse)]
    whole, *others = in_turns(timers, lambda timer: timer(), TURNS, SECONDS).min(axis=1).tolist()
    gains = zip(shares, weights, others, strict=True)
    words = [f"{share:.0%}: {whole / one:5.2f}" + ("" if tile_of(kept) else " dense") for share, kept, one in gains]
    return f"{name:28} {whole * 1e6:8.2f} us   {'   '.join(words)}"


def main(which: str = "gemm", threads: str = "2") -> None:
    """Measure and print a line for each shape."""
    os.environ["TVM_NUM_THREADS"] = threads
    target = replace(load_target("native"), threads=int(threads))
    print(f"{threads} threads; the dense kernel's time, and by the share of zeros, how often a sparse one fits into it")
    if which == "conv":
        for case in IMAGES:
            print(conv(case, ZEROS, target), flush=True)
    for model, shapes in GEMMS.items() if which == "gemm" else ():
        print(model)
        for shape in shapes:
            for rows in ROWS:
                for dtype in ("int8", "float32"):
                    print("  " + gemm(rows, shape, ZEROS, target, dtype), flush=True)
    for rows in ROWS if which == "densities" else ():
        for dtype in ("int8", "float32"):
            print(gemm(rows, (768, 768), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], target, dtype), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
