"""What a pipeline's tensors leave in memory is kept for the next ones, and given back at the end."""

import platform

import numpy as np
import pytest

from planish.passes.allocator import kept_memory
from planish.passes.instruments.memory import STATUS, resident


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not STATUS.is_file(), reason="needs glibc and Linux")
def test_memory_of_a_large_array_is_kept_until_the_end_of_the_outermost() -> None:
    size = 256 << 20
    with kept_memory():
        before = resident("VmRSS")
        with kept_memory():
            array = np.ones(size, np.uint8)
            del array
        within = resident("VmRSS")
    assert within - before > size // 2
    assert within - resident("VmRSS") > size // 2


def test_errors_come_through() -> None:
    with pytest.raises(ValueError, match="of the pipeline"), kept_memory():
        raise ValueError("of the pipeline")
