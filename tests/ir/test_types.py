"""Types are values: one object of each, which nobody changes."""

import copy
import pickle

import pytest

from planish.ir.types import Container, DType, TensorType


def test_equal_types_are_one_object() -> None:
    type = TensorType(DType.float32, (2, "n"))
    assert TensorType(DType.float32, (2, "n"), Container.NONE) is type
    assert type.resized((2, "m")).resized((2, "n")) is type
    assert copy.deepcopy(type) is type
    assert pickle.loads(pickle.dumps(type)) is type
    assert type.within(Container.SEQUENCE) != type != TensorType(DType.float64, (2, "n"))


def test_two_types_are_computed_in_more_than_they_hold() -> None:
    halves = {dtype for dtype in DType if dtype.is_half}
    assert halves == {DType.float16, DType.bfloat16}
    assert {dtype.at_least_single for dtype in halves} == {DType.float32}
    assert all(dtype.at_least_single is dtype for dtype in DType if dtype not in halves)


def test_unsigned_types_have_no_negative_numbers() -> None:
    unsigned = {DType.uint2, DType.uint4, DType.uint8, DType.uint16, DType.uint32, DType.uint64}
    assert {dtype for dtype in DType if dtype.is_unsigned} == unsigned
    assert {dtype for dtype in DType if dtype.is_integer and dtype.limits[0] == 0} == unsigned


def test_a_type_does_not_change() -> None:
    with pytest.raises(AttributeError, match="make one with another dims"):
        TensorType(DType.float32, (2,)).dims = (3,)  # pyright: ignore[reportAttributeAccessIssue]
