"""Every operator's signature says what its schema says."""

import inspect
from typing import Any

import numpy as np
import onnx
import pytest

from planish.ir.ops import operators
from planish.ir.opset import OPSET

STANDARD = sorted(name for name in operators() if "::" not in name)
EMPTY = inspect.Parameter.empty


def test_common_operators_are_there() -> None:
    missing = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""} - set(STANDARD)
    assert missing.isdisjoint(
        {"Conv", "MatMul", "Softmax", "LayerNormalization", "Resize", "Attention", "QuantizeLinear"}
    )
    assert len(STANDARD) >= 160


@pytest.mark.parametrize("name", STANDARD)
def test_inputs_are_the_schemas(name: str) -> None:
    schema = onnx.defs.get_schema(name, OPSET)
    assert not schema.deprecated
    parameters = [parameter for parameter in _parameters(name) if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert len(parameters) == len(schema.inputs)
    for parameter, formal in zip(parameters, schema.inputs, strict=True):
        variadic = formal.option is onnx.defs.OpSchema.FormalParameterOption.Variadic
        optional = formal.option is onnx.defs.OpSchema.FormalParameterOption.Optional
        assert (parameter.kind is inspect.Parameter.VAR_POSITIONAL) == variadic, formal.name
        assert parameter.default is (None if optional else EMPTY), formal.name


@pytest.mark.parametrize("name", STANDARD)
def test_attributes_and_their_defaults_are_the_schemas(name: str) -> None:
    attributes = onnx.defs.get_schema(name, OPSET).attributes
    given = {
        parameter.name: parameter.default
        for parameter in _parameters(name)
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.name not in ("outputs", "input_dtype")
    }
    assert given.keys() == attributes.keys()
    assert {key: _rounded(default) for key, default in given.items()} == {
        key: _rounded(_default(attribute)) for key, attribute in attributes.items()
    }


@pytest.mark.parametrize("name", STANDARD)
def test_operators_of_many_outputs_return_or_count_them(name: str) -> None:
    schema = onnx.defs.get_schema(name, OPSET)
    if schema.min_output != schema.max_output:
        assert operators()[name].takes_outputs


def test_host_inputs_are_marked() -> None:
    assert operators()["Reshape"].host == {1}
    assert operators()["Slice"].host == {1, 2, 3, 4}
    assert operators()["Resize"].host == {1, 2, 3}
    assert operators()["Conv"].host == frozenset()


def _parameters(name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(operators()[name].function).parameters.values())


def _default(attribute: onnx.defs.OpSchema.Attribute) -> Any:
    if attribute.required:
        return EMPTY
    if not attribute.default_value.name:
        return None
    value = onnx.helper.get_attribute_value(attribute.default_value)
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, list) else value


def _rounded(default: Any) -> Any:
    return float(np.float32(default)) if isinstance(default, float) else default
