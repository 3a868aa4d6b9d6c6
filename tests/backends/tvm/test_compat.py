"""Patches of TVM: what they are for, and that they are still needed."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("tvm")

from tvm.relax import utils

from planish.backends.tvm.compat import importers, ordered_symbols


def test_tvm_still_collects_symbols_in_a_set() -> None:
    """Otherwise `ordered_symbols` can go."""
    assert "set()" in inspect.getsource(utils.gen_call_tir_inputs)


def test_threads_patch_one_after_the_other_and_leave_nothing_behind() -> None:
    def patched(number: int) -> list[int]:
        with ordered_symbols():
            found = utils.set([number, 3, 1, 2])
            with ordered_symbols():
                found.update([0])
            return [*found]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(patched, range(50, 100))) == [[number, 3, 1, 2, 0] for number in range(50, 100)]
    assert "set" not in vars(utils)


def test_the_importer_has_a_table() -> None:
    assert {"Add", "Conv"} <= importers().keys()
