"""Images that are put into blocks of channels and taken out again."""

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm
from tvm import tirx

from planish.backends.tvm.kernels.machine import Machine
from planish.backends.tvm.kernels.nchwc import Images, block_kernel, unblock_kernel
from planish.backends.tvm.llvm import llvm_target
from planish.backends.tvm.relax.layouts import blocked
from planish.targets.load import load_target

TARGET = llvm_target(load_target("native"))


def run(kernel: tirx.PrimFunc, x: np.ndarray, like: np.ndarray) -> np.ndarray:
    y = tvm.runtime.tensor(np.zeros_like(like))
    tvm.compile(tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")}), target=TARGET)["main"](
        tvm.runtime.tensor(x), y
    )
    return y.numpy()


@pytest.mark.wide
@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("shape", [(2, 33, 5, 5), (1, 24, 12, 17), (1, 3, 4, 4), (3, 16, 16), (2, 20, 3, 4), (1, 9, 1)])
def test_they_come_back_as_they_were(shape: tuple[int, ...], dtype: str, lanes: int) -> None:
    """Blocks are full or not, and pixels are fewer than a block's channels, as many, and no multiple of them."""
    batch, channels, *spatial = shape
    x = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    expected = blocked(x, lanes)
    for sizes in ((batch, tuple(spatial)), (None, (None,) * len(spatial))):
        images, machine = Images(sizes[0], channels, sizes[1], dtype), Machine(lanes, 32, 2)
        found = run(block_kernel(images, machine), x, expected)
        inside = np.moveaxis(found, -1, 2).reshape(batch, -1, *found.shape[2:-1])[:, :channels]
        np.testing.assert_array_equal(inside.reshape(shape), x)
        np.testing.assert_array_equal(run(unblock_kernel(images, machine), expected, x), x)
