"""Values that users give to inputs of one number."""

import re

import pytest

from planish.ir.builder import Builder
from planish.ir.errors import UsageError
from planish.ir.fixed_inputs import fix_inputs
from planish.ir.graph import Graph
from planish.ir.types import DType, TensorType


def scaled(dtype: DType) -> Graph:
    graph = Graph("scaled")
    number = graph.add_input("number", TensorType(dtype, ()))
    graph.outputs["twice"] = Builder(graph).Add(number, number)
    return graph


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", 1e99), ("float32", 10**400), ("float16", 1e5), ("int8", 300), ("int64", 0.5)]
)
def test_a_number_that_an_input_cannot_hold_is_refused_by_name(dtype: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"input 'number' of type {dtype}.* can't be {re.escape(repr(value))}"):
        fix_inputs(scaled(DType[dtype]), {"number": value})


@pytest.mark.parametrize("value", [3.0, 1e30, float("inf")])
def test_a_number_that_fits_becomes_a_constant(value: float) -> None:
    graph = scaled(DType.float32)
    fix_inputs(graph, {"number": value})
    assert not graph.inputs
    (constant,) = graph.constants.values()
    assert constant.data.item() == pytest.approx(value)
