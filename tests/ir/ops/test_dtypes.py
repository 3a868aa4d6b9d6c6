import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from planish.ir.ops.dtypes import dtype_of, to_numpy, to_torch, torch_dtype
from planish.ir.types import DType

TENSORS = [dtype for dtype in DType if dtype is not DType.string]
NIBBLES = (DType.int4, DType.uint4)


@pytest.mark.parametrize("dtype", TENSORS, ids=str)
@pytest.mark.parametrize("shape", [(), (5,)], ids=["scalar", "vector"])
def test_arrays_survive_the_round_trip(dtype: DType, shape: tuple[int, ...]) -> None:
    values = (0, 1, 3, 5, 7) if dtype is DType.uint4 else (0, 1, -1, 2, -2)
    array = np.resize(np.array(values).astype(dtype.numpy), shape)
    tensor = to_torch(array)
    assert tensor.dtype is torch_dtype(dtype)
    assert dtype_of(tensor.dtype) is dtype
    back = to_numpy(tensor)
    assert back.dtype == array.dtype
    assert back.shape == shape
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", [dtype for dtype in TENSORS if dtype not in NIBBLES], ids=str)
def test_memory_is_shared_both_ways(dtype: DType) -> None:
    array = np.zeros(4, dtype.numpy)
    assert np.shares_memory(to_numpy(to_torch(array)), array)


def test_a_negative_nibble_is_its_value_as_a_byte() -> None:
    array = np.array([-8, -1, 7]).astype(DType.int4.numpy)
    assert to_torch(array).view(torch.int8).tolist() == [-8, -1, 7]


def test_mapped_weights_are_shared_without_a_warning(tmp_path: Path) -> None:
    np.save(tmp_path / "weight.npy", np.arange(6, dtype=np.float32))
    array = np.load(tmp_path / "weight.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = to_torch(array)
    assert tensor.data_ptr() == array.ctypes.data


def test_reversed_arrays_keep_their_order() -> None:
    assert to_torch(np.arange(3)[::-1]).tolist() == [2, 1, 0]


def test_gradients_are_cut_off() -> None:
    assert to_numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


def test_strings_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="string"):
        torch_dtype(DType.string)
    with pytest.raises(TypeError, match="qint8"):
        dtype_of(torch.qint8)
