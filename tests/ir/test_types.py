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


def test_a_type_does_not_change() -> None:
    with pytest.raises(AttributeError, match="make one with another dims"):
        TensorType(DType.float32, (2,)).dims = (3,)  # pyright: ignore[reportAttributeAccessIssue]
