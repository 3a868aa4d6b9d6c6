import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from planish.ir.ops.dtypes import dtype_of, to_numpy, to_torch, torch_dtype
from planish.ir.types import DType

TENSORS = [dtype for dtype in DType if dtype is not DType.string]


@pytest.mark.parametrize("dtype", TENSORS, ids=str)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)], ids=str)
def test_arrays_cross_over_in_both_directions_without_a_copy(dtype: DType, shape: tuple[int, ...]) -> None:
    array = np.resize(np.array([0, 1, 1, 0, 1]).astype(dtype.numpy), shape).T
    tensor = to_torch(array)
    assert tensor.dtype is torch_dtype(dtype)
    assert dtype_of(tensor.dtype) is dtype
    back = to_numpy(tensor)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert np.shares_memory(back, array)


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


def test_foreign_types_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="qint8"):
        dtype_of(torch.qint8)
